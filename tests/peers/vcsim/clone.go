package main

// Clones are played. The simulator's own make empty disks, look at a part of the configuration only
// and never switch on. Here a clone from a snapshot has what its disks had then: as a child of that
// disk (createNewChildDiskBacking), or as a disk of its own.

import (
	"path"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func (m *machine) CloneVMTask(ctx *simulator.Context, r *types.CloneVM_Task) soap.HasFault {
	task := simulator.CreateTask(m.vm, "cloneVm", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		return m.cloned(ctx, r)
	})
	ref := task.Run(ctx)
	ctx.Map.AtomicUpdate(ctx, task, []types.PropertyChange{
		{Name: "info.descriptionId", Val: "VirtualMachine.clone"},
	})
	return &methods.CloneVM_TaskBody{Res: &types.CloneVM_TaskResponse{Returnval: ref}}
}

func (m *machine) cloned(ctx *simulator.Context, r *types.CloneVM_Task) (types.AnyType, types.BaseMethodFault) {
	where := r.Spec.Location
	linked := where.DiskMoveType == string(types.VirtualMachineRelocateDiskMoveOptionsCreateNewChildDiskBacking)
	if ctx.Map.Get(m.vm.Self) == nil {
		return nil, &types.ManagedObjectNotFound{Obj: m.vm.Self}
	}
	if where.Pool == nil && m.vm.Config.Template {
		return nil, &types.InvalidArgument{InvalidProperty: "spec.location.pool"}
	}
	if linked && r.Spec.Snapshot == nil {
		return nil, &types.InvalidArgument{InvalidProperty: "spec.snapshot"}
	}
	if r.Spec.Config != nil && r.Spec.Config.Files != nil {
		return nil, &types.InvalidArgument{InvalidProperty: "spec.config.files"}
	}
	folder, ok := ctx.Map.Get(r.Folder).(*simulator.Folder)
	if !ok {
		return nil, &types.ManagedObjectNotFound{Obj: r.Folder}
	}
	var named types.BaseMethodFault
	ctx.WithLock(folder, func() {
		if other := ctx.Map.FindByName(r.Name, folder.ChildEntity); other != nil {
			named = &types.DuplicateName{Name: r.Name, Object: other.Reference()}
		}
	})
	if named != nil {
		return nil, named
	}
	source := copyOf(*m.vm.Config)
	if r.Spec.Snapshot != nil {
		of, ok := ctx.Map.Get(*r.Spec.Snapshot).(*simulator.VirtualMachineSnapshot)
		if !ok {
			return nil, &types.ManagedObjectNotFound{Obj: *r.Spec.Snapshot}
		}
		source = copyOf(of.Config)
	}
	var home object.DatastorePath
	home.FromString(m.vm.Config.Files.VmPathName)
	if where.Datastore != nil {
		store, ok := ctx.Map.Get(*where.Datastore).(*simulator.Datastore)
		if !ok {
			return nil, &types.ManagedObjectNotFound{Obj: *where.Datastore}
		}
		home.Datastore = store.Name
	}
	home.Path = r.Name
	pool := m.vm.ResourcePool
	if where.Pool != nil {
		pool = where.Pool
	}
	if pool == nil {
		return nil, &types.InvalidArgument{InvalidProperty: "spec.location.pool"}
	}
	config := types.VirtualMachineConfigSpec{
		Name: r.Name, Version: source.Version, GuestId: source.GuestId, ExtraConfig: source.ExtraConfig,
		NumCPUs: source.Hardware.NumCPU, MemoryMB: int64(source.Hardware.MemoryMB),
		Files: &types.VirtualMachineFileInfo{VmPathName: home.String()},
	}
	if wanted := r.Spec.Config; wanted != nil {
		// what tells whose machine it is it has from the start: the simulator's filters are not told
		// of another UUID
		config.InstanceUuid, config.Uuid = wanted.InstanceUuid, wanted.Uuid
		config.ExtraConfig = merged(config.ExtraConfig, wanted.ExtraConfig)
	}
	inner := folder.CreateVMTask(ctx, &types.CreateVM_Task{
		This: folder.Self, Config: config, Pool: *pool, Host: where.Host,
	})
	made, fault := finished(ctx, inner.(*methods.CreateVM_TaskBody).Res.Returnval)
	if fault != nil {
		return nil, fault
	}
	ref := made.(types.ManagedObjectReference)
	there, ok := ctx.Map.Get(ref).(*simulator.VirtualMachine)
	if !ok {
		return nil, &types.ManagedObjectNotFound{Obj: ref} // another client has destroyed it already
	}
	// with a reference of its own: the task of its start would have the lock of all played calls
	clone := &machine{self: types.ManagedObjectReference{Type: "PlayedMachine", Value: ref.Value}, vm: there}
	fault = clone.takeAfter(ctx, source.Hardware.Device, linked)
	if fault == nil && r.Spec.Config != nil {
		// the disks that the change names are those of the source
		for _, each := range r.Spec.Config.DeviceChange {
			wanted, ok := each.GetVirtualDeviceConfigSpec().Device.(*types.VirtualDisk)
			if ok && each.GetVirtualDeviceConfigSpec().Operation == types.VirtualDeviceConfigSpecOperationEdit {
				devices := object.VirtualDeviceList(clone.vm.Config.Hardware.Device)
				if own := devices.FindByKey(wanted.Key); own != nil {
					wanted.Backing = own.GetVirtualDevice().Backing
				}
			}
		}
		change := clone.ReconfigVMTask(ctx, &types.ReconfigVM_Task{This: ref, Spec: *r.Spec.Config})
		_, fault = finished(ctx, change.(*methods.ReconfigVM_TaskBody).Res.Returnval)
	}
	if fault == nil && r.Spec.PowerOn {
		change := clone.PowerOnVMTask(ctx, &types.PowerOnVM_Task{This: ref})
		if task := change.(*methods.PowerOnVM_TaskBody); task.Res != nil {
			if _, fault := finished(ctx, task.Res.Returnval); fault != nil {
				return nil, fault // the machine stays
			}
		}
	}
	if fault != nil {
		gone := clone.DestroyTask(ctx, &types.Destroy_Task{This: ref})
		_, _ = finished(ctx, gone.(*methods.Destroy_TaskBody).Res.Returnval)
		return nil, fault
	}
	return ref, nil
}

// merged are values of which some are changed; an empty one deletes.
func merged(before, changes []types.BaseOptionValue) (values []types.BaseOptionValue) {
	changed := map[string]bool{}
	for _, each := range changes {
		changed[each.GetOptionValue().Key] = true
		if each.GetOptionValue().Value != "" {
			values = append(values, each)
		}
	}
	for _, each := range before {
		if !changed[each.GetOptionValue().Key] {
			values = append(values, each)
		}
	}
	return values
}

// takeAfter gives a new machine the devices of another, with disks of its own.
func (m *machine) takeAfter(ctx *simulator.Context, devices []types.BaseVirtualDevice, linked bool) (fault types.BaseMethodFault) {
	var home object.DatastorePath
	home.FromString(m.vm.Config.Files.VmPathName)
	stem := strings.TrimSuffix(home.Path, path.Ext(home.Path))
	for number, backing := range keptDisks(devices) {
		before := *backing
		if _, err := statDisk(ctx, m.vm, before.FileName); err != nil {
			return &types.FileNotFound{FileFault: types.FileFault{File: before.FileName}}
		}
		file := stem
		if number > 0 {
			file += "_" + string(rune('0'+number))
		}
		backing.FileName = (&object.DatastorePath{Datastore: home.Datastore, Path: file + ".vmdk"}).String()
		backing.Parent = nil
		if fault := copyDisk(ctx, m.vm, before.FileName, backing.FileName); fault != nil {
			return fault
		}
		if linked {
			backing.Parent = &before
			historyOf(m.vm).linked[backing.FileName] = before.FileName
		}
	}
	// the simulator counts a disk's size as room that its destruction gives back
	if store := storeOf(ctx, m.vm, home.Datastore); store != nil {
		ctx.WithLock(store, func() {
			for _, each := range devices {
				if disk, ok := each.(*types.VirtualDisk); ok {
					store.Summary.FreeSpace -= disk.CapacityInBytes
				}
			}
			store.Info.GetDatastoreInfo().FreeSpace = store.Summary.FreeSpace
		})
	}
	ctx.WithLock(m.vm, func() {
		ctx.Update(m.vm, []types.PropertyChange{{Name: "config.hardware.device", Val: devices}})
	})
	return nil
}

// growsChild tells whether a change makes a disk larger that goes on from another one, which a
// server refuses.
func (m *machine) growsChild(spec *types.VirtualMachineConfigSpec) bool {
	for _, each := range spec.DeviceChange {
		change := each.GetVirtualDeviceConfigSpec()
		wanted, ok := change.Device.(*types.VirtualDisk)
		if !ok || change.Operation != types.VirtualDeviceConfigSpecOperationEdit {
			continue
		}
		disk, ok := object.VirtualDeviceList(m.vm.Config.Hardware.Device).FindByKey(wanted.Key).(*types.VirtualDisk)
		if !ok || wanted.CapacityInBytes == disk.CapacityInBytes {
			continue
		}
		if backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok && backing.Parent != nil {
			return true
		}
	}
	return false
}

// PromoteDisksTask ends that disks go on from another machine's.
func (m *machine) PromoteDisksTask(ctx *simulator.Context, r *types.PromoteDisks_Task) soap.HasFault {
	task := simulator.CreateTask(m.vm, "promoteDisks", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		if m.vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
			return nil, &types.InvalidPowerState{
				RequestedState: types.VirtualMachinePowerStatePoweredOff,
				ExistingState:  m.vm.Runtime.PowerState,
			}
		}
		h := historyOf(m.vm)
		devices := copyOf(*m.vm.Config).Hardware.Device
		for _, each := range r.Disks {
			disk, ok := object.VirtualDeviceList(devices).FindByKey(each.Key).(*types.VirtualDisk)
			if !ok {
				return nil, &types.InvalidArgument{InvalidProperty: "disks"}
			}
			backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
			if !ok {
				return nil, &types.InvalidArgument{InvalidProperty: "disks"}
			}
			if r.Unlink {
				delete(h.linked, backing.FileName)
				backing.Parent = h.below(backing)
			}
		}
		m.changed(ctx, devices, m.vm.Snapshot)
		return nil, nil
	})
	return &methods.PromoteDisks_TaskBody{Res: &types.PromoteDisks_TaskResponse{Returnval: task.Run(ctx)}}
}

// MarkAsTemplate takes the machine out of its pool, as a server does. The simulator's own leaves the
// pool's reference to it behind.
func (m *machine) MarkAsTemplate(ctx *simulator.Context, _ *types.MarkAsTemplate) (done soap.HasFault) {
	ctx.WithLock(m.vm, func() {
		pool := m.vm.ResourcePool
		done = m.vm.MarkAsTemplate(&types.MarkAsTemplate{This: m.vm.Self})
		if done.Fault() != nil || pool == nil {
			return
		}
		if of, ok := ctx.Map.Get(*pool).(*simulator.ResourcePool); ok {
			ctx.Map.RemoveReference(ctx, of, &of.Vm, m.vm.Self)
		}
	})
	return done
}
