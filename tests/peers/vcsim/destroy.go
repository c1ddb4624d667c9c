package main

// Destroy deletes the machine's disks and leaves other disks that lie in its folder, as a server does.
// The simulator deletes the folder.

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// others are the disks in the machine's folder that the machine does not have: file names. A machine
// with snapshots is taken to have all of them.
func (m *machine) others(ctx *simulator.Context) (folder string, names []string) {
	folder = filepath.Dir(fileOn(ctx, m.vm, m.vm.Config.Files.VmPathName))
	if m.vm.Snapshot != nil {
		return folder, nil
	}
	has := map[string]bool{}
	for _, each := range m.vm.Config.Hardware.Device {
		disk, ok := each.(*types.VirtualDisk)
		if !ok {
			continue
		}
		backing, _ := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		for ; backing != nil; backing = backing.Parent {
			has[strings.TrimSuffix(fileOn(ctx, m.vm, backing.FileName), ".vmdk")] = true
		}
	}
	found, _ := filepath.Glob(filepath.Join(folder, "*.vmdk"))
	for _, each := range found {
		stem := strings.TrimSuffix(strings.TrimSuffix(each, ".vmdk"), "-flat")
		if !has[stem] {
			names = append(names, filepath.Base(each))
		}
	}
	return folder, names
}

// putting moves files between two folders.
func putting(names []string, from, to string) {
	for _, name := range names {
		_ = os.Rename(filepath.Join(from, name), filepath.Join(to, name))
	}
}
