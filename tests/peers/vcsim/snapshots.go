package main

// Snapshots are played. The simulator's own move a pointer: they keep no disk and bring back no
// configuration. Here each disk that is not independent goes on in a file of its own, as on a
// server (root.vmdk, root-000001.vmdk), a revert brings disks and configuration back, and a removal
// merges what is left without a use.

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// history is what one machine has of snapshots. The lock of the machine guards it.
type history struct {
	number int32
	parent map[string]string // file of a disk -> the file that it goes on from
	linked map[string]string // the same for a linked clone: the file is another machine's
	memory map[types.ManagedObjectReference]bool
}

var histories sync.Map // reference of the machine -> *history

func historyOf(vm *simulator.VirtualMachine) *history {
	made := &history{
		parent: map[string]string{}, linked: map[string]string{}, memory: map[types.ManagedObjectReference]bool{},
	}
	found, _ := histories.LoadOrStore(vm.Self, made)
	return found.(*history)
}

func copyOf[T any](source T) (copied T) {
	var buffer bytes.Buffer
	if err := xml.NewEncoder(&buffer).Encode(source); err != nil {
		panic(err)
	}
	decoder := xml.NewDecoder(&buffer)
	decoder.TypeFunc = types.TypeFunc()
	if err := decoder.Decode(&copied); err != nil {
		panic(err)
	}
	return copied
}

// fileOn is where the server keeps a file of a datastore. A file that is on none, because the host or
// the datastore has gone meanwhile or the name is none, is looked for where no file is.
func fileOn(ctx *simulator.Context, vm *simulator.VirtualMachine, name string) string {
	var where object.DatastorePath
	if where.FromString(name) {
		if store := storeOf(ctx, vm, where.Datastore); store != nil {
			return filepath.Join(store.Summary.Url, where.Path)
		}
	}
	return filepath.Join(os.DevNull, "on no datastore")
}

// storeOf is a datastore of the machine's host; nil if there is none of this name.
func storeOf(ctx *simulator.Context, vm *simulator.VirtualMachine, name string) *simulator.Datastore {
	if vm.Runtime.Host == nil {
		return nil
	}
	host, ok := ctx.Map.Get(*vm.Runtime.Host).(*simulator.HostSystem)
	if !ok {
		return nil
	}
	store, _ := ctx.Map.FindByName(name, host.Datastore).(*simulator.Datastore)
	return store
}

func extent(name string) string { return strings.TrimSuffix(name, ".vmdk") + "-flat.vmdk" }

// copyFile keeps holes: a disk of a gigabyte has mostly nothing in it.
func copyFile(source, target string) error {
	if said, err := exec.Command("cp", "--sparse=always", source, target).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, said)
	}
	return nil
}

// copyDisk fails where another client takes the folder away meanwhile.
func copyDisk(ctx *simulator.Context, vm *simulator.VirtualMachine, source, target string) types.BaseMethodFault {
	if err := copyFiles(fileOn(ctx, vm, source), fileOn(ctx, vm, target)); err != nil {
		fmt.Fprintf(os.Stderr, "copying %s to %s: %v\n", source, target, err)
		return &types.FileNotFound{FileFault: types.FileFault{File: target}}
	}
	return nil
}

func copyFiles(from, to string) error {
	_ = os.MkdirAll(filepath.Dir(to), 0o700)
	if err := copyFile(extent(from), extent(to)); err != nil {
		return err
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	old, now := filepath.Base(extent(from)), filepath.Base(extent(to))
	return os.WriteFile(to, bytes.ReplaceAll(text, []byte(old), []byte(now)), 0o600)
}

func statDisk(ctx *simulator.Context, vm *simulator.VirtualMachine, name string) (os.FileInfo, error) {
	return os.Stat(fileOn(ctx, vm, name))
}

func removeDisk(ctx *simulator.Context, vm *simulator.VirtualMachine, name string) {
	where := fileOn(ctx, vm, name)
	_ = os.Remove(where)
	_ = os.Remove(extent(where))
}

// keptDisks are the disks that snapshots are about.
func keptDisks(devices []types.BaseVirtualDevice) (found []*types.VirtualDiskFlatVer2BackingInfo) {
	for _, each := range devices {
		disk, ok := each.(*types.VirtualDisk)
		if !ok {
			continue
		}
		backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		if ok && !strings.HasPrefix(backing.DiskMode, "independent") {
			found = append(found, backing)
		}
	}
	return found
}

// goOn lets each disk go on in a new file.
func (h *history) goOn(ctx *simulator.Context, vm *simulator.VirtualMachine, devices []types.BaseVirtualDevice) types.BaseMethodFault {
	for _, backing := range keptDisks(devices) {
		h.number++
		before := *backing
		backing.FileName = fmt.Sprintf("%s-%06d.vmdk", stem(before.FileName), h.number)
		backing.Parent = &before
		if fault := copyDisk(ctx, vm, before.FileName, backing.FileName); fault != nil {
			return fault
		}
		h.parent[backing.FileName] = before.FileName
		if _, ok := h.parent[before.FileName]; !ok {
			h.parent[before.FileName] = ""
		}
	}
	return nil
}

func snapshotsIn(tree []types.VirtualMachineSnapshotTree) (found []types.ManagedObjectReference) {
	for _, each := range tree {
		found = append(found, each.Snapshot)
		found = append(found, snapshotsIn(each.ChildSnapshotList)...)
	}
	return found
}

func (h *history) each(ctx *simulator.Context, vm *simulator.VirtualMachine, do func([]types.BaseVirtualDevice)) {
	do(vm.Config.Hardware.Device)
	if vm.Snapshot == nil {
		return
	}
	for _, ref := range snapshotsIn(vm.Snapshot.RootSnapshotList) {
		if of, ok := ctx.Map.Get(ref).(*simulator.VirtualMachineSnapshot); ok {
			do(of.Config.Hardware.Device)
		}
	}
}

// tidy deletes the files that nothing needs, and merges into its parent what goes on alone from it.
func (h *history) tidy(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	for again := true; again; {
		again = false
		needed := map[string]bool{}
		h.each(ctx, vm, func(devices []types.BaseVirtualDevice) {
			for _, backing := range keptDisks(devices) {
				needed[backing.FileName] = true
			}
		})
		for file := range h.parent {
			if needed[file] {
				continue
			}
			var next []string
			for child, parent := range h.parent {
				if parent == file {
					next = append(next, child)
				}
			}
			if len(next) > 1 {
				continue
			}
			again = true
			if len(next) == 0 {
				if h.parent[file] != "" { // otherwise it is a disk that was taken away from the machine
					removeDisk(ctx, vm, file)
				}
				delete(h.parent, file)
			} else {
				h.merge(ctx, vm, next[0], file)
			}
			break
		}
	}
	h.each(ctx, vm, func(devices []types.BaseVirtualDevice) {
		for _, backing := range keptDisks(devices) {
			backing.Parent = h.below(backing)
		}
	})
}

// below is what a disk goes on from: files of its own machine, and at their end another machine's.
func (h *history) below(backing *types.VirtualDiskFlatVer2BackingInfo) *types.VirtualDiskFlatVer2BackingInfo {
	if base := h.linked[backing.FileName]; base != "" {
		made := *backing
		made.FileName, made.Parent = base, nil
		return &made
	}
	return h.chain(backing, h.parent[backing.FileName])
}

func (h *history) chain(like *types.VirtualDiskFlatVer2BackingInfo, file string) *types.VirtualDiskFlatVer2BackingInfo {
	if file == "" {
		return nil
	}
	made := *like
	made.FileName = file
	made.Parent = h.below(&made)
	return &made
}

func (h *history) merge(ctx *simulator.Context, vm *simulator.VirtualMachine, child, parent string) {
	_ = os.Rename(extent(fileOn(ctx, vm, child)), extent(fileOn(ctx, vm, parent)))
	removeDisk(ctx, vm, child)
	delete(h.parent, child)
	for other, before := range h.parent {
		if before == child {
			h.parent[other] = parent
		}
	}
	h.each(ctx, vm, func(devices []types.BaseVirtualDevice) {
		for _, backing := range keptDisks(devices) {
			if backing.FileName == child {
				backing.FileName = parent
			}
		}
	})
}

func (m *machine) CreateSnapshotTask(ctx *simulator.Context, r *types.CreateSnapshot_Task) soap.HasFault {
	task := simulator.CreateTask(m.vm, "createSnapshot", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		vm, h := m.vm, historyOf(m.vm)
		if vm.Config.Template {
			return nil, new(types.NotSupported)
		}
		h.number++
		snapshot := &simulator.VirtualMachineSnapshot{}
		snapshot.Vm, snapshot.Config = vm.Self, copyOf(*vm.Config)
		ctx.Map.Put(snapshot)
		on := vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
		h.memory[snapshot.Self] = r.Memory && on
		item := types.VirtualMachineSnapshotTree{
			Snapshot: snapshot.Self, Vm: vm.Self, Name: r.Name, Description: r.Description,
			Id: h.number, CreateTime: time.Now(), State: types.VirtualMachinePowerStatePoweredOff,
			ReplaySupported: types.NewBool(false),
		}
		if h.memory[snapshot.Self] {
			item.State = types.VirtualMachinePowerStatePoweredOn
		}
		info := &types.VirtualMachineSnapshotInfo{CurrentSnapshot: &snapshot.Self}
		if vm.Snapshot == nil || vm.Snapshot.CurrentSnapshot == nil {
			if vm.Snapshot != nil {
				info.RootSnapshotList = vm.Snapshot.RootSnapshotList
			}
			info.RootSnapshotList = append(info.RootSnapshotList, item)
		} else {
			info.RootSnapshotList = below(vm.Snapshot.RootSnapshotList, *vm.Snapshot.CurrentSnapshot, item)
		}
		devices := copyOf(*vm.Config).Hardware.Device
		if fault := h.goOn(ctx, vm, devices); fault != nil {
			return nil, fault
		}
		m.changed(ctx, devices, info)
		return snapshot.Self, nil
	})
	return &methods.CreateSnapshot_TaskBody{Res: &types.CreateSnapshot_TaskResponse{Returnval: task.Run(ctx)}}
}

func below(tree []types.VirtualMachineSnapshotTree, parent types.ManagedObjectReference, item types.VirtualMachineSnapshotTree) (made []types.VirtualMachineSnapshotTree) {
	for _, each := range tree {
		each.ChildSnapshotList = below(each.ChildSnapshotList, parent, item)
		if each.Snapshot == parent {
			each.ChildSnapshotList = append(each.ChildSnapshotList, item)
		}
		made = append(made, each)
	}
	return made
}

func (m *machine) changed(ctx *simulator.Context, devices []types.BaseVirtualDevice, info *types.VirtualMachineSnapshotInfo) {
	change := types.PropertyChange{Name: "snapshot", Val: nil}
	roots := types.PropertyChange{Name: "rootSnapshot", Val: nil}
	if info != nil && len(info.RootSnapshotList) > 0 {
		var refs []types.ManagedObjectReference
		for _, each := range info.RootSnapshotList {
			refs = append(refs, each.Snapshot)
		}
		change.Val, roots.Val = info, refs
	}
	ctx.Update(m.vm, []types.PropertyChange{
		{Name: "config.hardware.device", Val: devices},
		{Name: "config.changeVersion", Val: fmt.Sprint(time.Now().UnixNano())},
		change, roots,
	})
}

// snapshot stands before a snapshot, as machine does before a machine.
type snapshot struct {
	mo.HostDateTimeSystem

	self types.ManagedObjectReference
	of   *simulator.VirtualMachineSnapshot
}

func gone(ref types.ManagedObjectReference) *soap.Fault {
	return simulator.Fault("", &types.ManagedObjectNotFound{Obj: ref})
}

func (s *snapshot) Reference() types.ManagedObjectReference { return s.self }

func (s *snapshot) RevertToSnapshotTask(ctx *simulator.Context, _ *types.RevertToSnapshot_Task) soap.HasFault {
	vm, ok := ctx.Map.Get(s.of.Vm).(*simulator.VirtualMachine)
	if !ok {
		return &methods.RevertToSnapshot_TaskBody{Fault_: gone(s.of.Vm)}
	}
	task := simulator.CreateTask(vm, "revertToSnapshot", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		if ctx.Map.Get(s.of.Self) == nil || vm.Snapshot == nil {
			return nil, &types.ManagedObjectNotFound{Obj: s.of.Self}
		}
		h := historyOf(vm)
		config := copyOf(s.of.Config)
		config.ChangeVersion = fmt.Sprint(time.Now().UnixNano())
		if fault := h.goOn(ctx, vm, config.Hardware.Device); fault != nil {
			return nil, fault
		}
		power := types.VirtualMachinePowerStatePoweredOff
		if h.memory[s.of.Self] {
			power = types.VirtualMachinePowerStatePoweredOn
		}
		info := *vm.Snapshot
		info.CurrentSnapshot = &s.of.Self
		var networks []types.ManagedObjectReference
		for _, each := range config.Hardware.Device {
			if card, ok := each.(types.BaseVirtualEthernetCard); ok {
				switch b := card.GetVirtualEthernetCard().Backing.(type) {
				case *types.VirtualEthernetCardNetworkBackingInfo:
					if b.Network != nil {
						networks = append(networks, *b.Network)
					}
				case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
					networks = append(networks, types.ManagedObjectReference{
						Type: "DistributedVirtualPortgroup", Value: b.Port.PortgroupKey,
					})
				}
			}
		}
		ctx.Update(vm, []types.PropertyChange{
			{Name: "config", Val: &config},
			{Name: "snapshot", Val: &info},
			{Name: "network", Val: networks},
			{Name: "runtime.powerState", Val: power},
			{Name: "summary.runtime.powerState", Val: power},
		})
		h.tidy(ctx, vm)
		return nil, nil
	})
	return &methods.RevertToSnapshot_TaskBody{Res: &types.RevertToSnapshot_TaskResponse{Returnval: task.Run(ctx)}}
}

func (s *snapshot) RemoveSnapshotTask(ctx *simulator.Context, r *types.RemoveSnapshot_Task) soap.HasFault {
	vm, ok := ctx.Map.Get(s.of.Vm).(*simulator.VirtualMachine)
	if !ok {
		return &methods.RemoveSnapshot_TaskBody{Fault_: gone(s.of.Vm)}
	}
	task := simulator.CreateTask(vm, "removeSnapshot", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		if vm.Snapshot == nil {
			return nil, nil
		}
		gone := []types.ManagedObjectReference{s.of.Self}
		var up *types.ManagedObjectReference
		var walk func([]types.VirtualMachineSnapshotTree, *types.ManagedObjectReference) []types.VirtualMachineSnapshotTree
		walk = func(tree []types.VirtualMachineSnapshotTree, parent *types.ManagedObjectReference) (left []types.VirtualMachineSnapshotTree) {
			for _, each := range tree {
				self := each.Snapshot
				if self != s.of.Self {
					each.ChildSnapshotList = walk(each.ChildSnapshotList, &self)
					left = append(left, each)
					continue
				}
				up = parent
				if r.RemoveChildren {
					gone = append(gone, snapshotsIn(each.ChildSnapshotList)...)
				} else {
					left = append(left, each.ChildSnapshotList...)
				}
			}
			return left
		}
		info := &types.VirtualMachineSnapshotInfo{CurrentSnapshot: vm.Snapshot.CurrentSnapshot}
		info.RootSnapshotList = walk(vm.Snapshot.RootSnapshotList, nil)
		for _, each := range gone {
			if info.CurrentSnapshot != nil && each == *info.CurrentSnapshot {
				info.CurrentSnapshot = up
			}
		}
		played := &machine{vm: vm}
		played.changed(ctx, copyOf(*vm.Config).Hardware.Device, info)
		for _, each := range gone {
			forget(ctx, each)
		}
		historyOf(vm).tidy(ctx, vm)
		return nil, nil
	})
	return &methods.RemoveSnapshot_TaskBody{Res: &types.RemoveSnapshot_TaskResponse{Returnval: task.Run(ctx)}}
}

func (m *machine) RemoveAllSnapshotsTask(ctx *simulator.Context, _ *types.RemoveAllSnapshots_Task) soap.HasFault {
	task := simulator.CreateTask(m.vm, "removeAllSnapshots", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		if m.vm.Snapshot == nil {
			return nil, nil
		}
		gone := snapshotsIn(m.vm.Snapshot.RootSnapshotList)
		m.changed(ctx, copyOf(*m.vm.Config).Hardware.Device, nil)
		for _, each := range gone {
			forget(ctx, each)
		}
		historyOf(m.vm).tidy(ctx, m.vm)
		return nil, nil
	})
	return &methods.RemoveAllSnapshots_TaskBody{Res: &types.RemoveAllSnapshots_TaskResponse{Returnval: task.Run(ctx)}}
}

func (m *machine) UnregisterVM(ctx *simulator.Context, r *types.UnregisterVM) (done soap.HasFault) {
	ctx.WithLock(m.vm, func() {
		forgetHistory(ctx, m.vm)
		done = m.vm.UnregisterVM(ctx, &types.UnregisterVM{This: m.vm.Self})
	})
	return done
}

func forget(ctx *simulator.Context, ref types.ManagedObjectReference) {
	ctx.Map.Remove(ctx, ref)
	ctx.Map.Remove(ctx, types.ManagedObjectReference{Type: "PlayedSnapshot", Value: ref.Value})
}

// forgetHistory is for a machine that is destroyed.
func forgetHistory(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	if vm.Snapshot != nil {
		for _, each := range snapshotsIn(vm.Snapshot.RootSnapshotList) {
			forget(ctx, each)
		}
	}
	histories.Delete(vm.Self)
}

// takesFromSnapshot tells whether a change takes away a disk that a snapshot has, which a server
// refuses.
func (m *machine) takesFromSnapshot(ctx *simulator.Context, spec *types.VirtualMachineConfigSpec) bool {
	if m.vm.Snapshot == nil {
		return false
	}
	kept := map[int32]bool{}
	for _, ref := range snapshotsIn(m.vm.Snapshot.RootSnapshotList) {
		of, ok := ctx.Map.Get(ref).(*simulator.VirtualMachineSnapshot)
		if !ok {
			continue
		}
		for _, each := range of.Config.Hardware.Device {
			if disk, ok := each.(*types.VirtualDisk); ok && len(keptDisks([]types.BaseVirtualDevice{disk})) > 0 {
				kept[disk.Key] = true
			}
		}
	}
	for _, each := range spec.DeviceChange {
		change := each.GetVirtualDeviceConfigSpec()
		if change.Operation == types.VirtualDeviceConfigSpecOperationRemove && kept[change.Device.GetVirtualDevice().Key] {
			return true
		}
	}
	return false
}
