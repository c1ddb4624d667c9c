package main

// Relocation is played: the simulator's own moves no file.

import (
	"fmt"
	"os"
	"path"
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
)

// moving has the machines that are on their way; cancelled the tasks that shall end.
var moving, cancelled sync.Map

// played stands before a task that heeds CancelTask.
type playedTask struct {
	mo.HostDateTimeSystem

	self types.ManagedObjectReference
	task types.ManagedObjectReference
}

func (t *playedTask) Reference() types.ManagedObjectReference { return t.self }

func (t *playedTask) CancelTask(*simulator.Context, *types.CancelTask) soap.HasFault {
	cancelled.Store(t.task, true)
	return &methods.CancelTaskBody{Res: new(types.CancelTaskResponse)}
}

func (m *machine) has(key string) bool {
	for _, each := range m.vm.Config.ExtraConfig {
		if each.GetOptionValue().Key == key {
			return true
		}
	}
	return false
}

// RelocateVMTask does not hold the machine's lock while it is on its way, so that others can look.
func (m *machine) RelocateVMTask(ctx *simulator.Context, r *types.RelocateVM_Task) soap.HasFault {
	var task *simulator.Task
	task = simulator.CreateTask(m, "relocateVm", func(*simulator.Task) (done types.AnyType, fault types.BaseMethodFault) {
		defer moving.Delete(m.vm.Self)
		for restless := true; restless; {
			if ctx.Map.Get(m.vm.Self) == nil {
				return nil, &types.ManagedObjectNotFound{Obj: m.vm.Self}
			}
			if _, ok := cancelled.LoadAndDelete(task.Self); ok {
				return nil, new(types.RequestCanceled)
			}
			ctx.Map.WithLock(&simulator.Context{Map: ctx.Map}, m.vm, func() { restless = m.has("hvct.restless") })
			if restless {
				time.Sleep(2 * time.Millisecond)
			}
		}
		ctx.Map.WithLock(ctx, m.vm, func() { fault = m.relocated(ctx, &r.Spec) })
		return nil, fault
	})
	task.Info.Cancelable = true
	moving.Store(m.vm.Self, task)
	ref := task.Run(ctx)
	self := types.ManagedObjectReference{Type: "PlayedTask", Value: ref.Value}
	ctx.Map.Put(&playedTask{self: self, task: ref})
	ctx.Map.AtomicUpdate(ctx, task, []types.PropertyChange{
		{Name: "info.entity", Val: &m.vm.Self},
		{Name: "info.descriptionId", Val: "VirtualMachine.relocate"},
	})
	return &methods.RelocateVM_TaskBody{Res: &types.RelocateVM_TaskResponse{Returnval: ref}}
}

// PowerOffVMTask is refused while the machine is on its way, as a server does.
func (m *machine) PowerOffVMTask(ctx *simulator.Context, r *types.PowerOffVM_Task) soap.HasFault {
	if task, ok := moving.Load(m.vm.Self); ok {
		fault := &types.TaskInProgress{Task: task.(*simulator.Task).Self}
		return &methods.PowerOffVM_TaskBody{Fault_: simulator.Fault("", fault)}
	}
	if m.vm.Runtime.Question != nil {
		fault := &types.QuestionPending{Text: m.vm.Runtime.Question.Text}
		return &methods.PowerOffVM_TaskBody{Fault_: simulator.Fault("", fault)}
	}
	var done soap.HasFault
	ctx.WithLock(m.vm, func() {
		m.booted(ctx, nil)
		done = m.vm.PowerOffVMTask(ctx, &types.PowerOffVM_Task{This: m.vm.Self})
	})
	return done
}

func (m *machine) relocated(ctx *simulator.Context, spec *types.VirtualMachineRelocateSpec) types.BaseMethodFault {
	devices := copyOf(*m.vm.Config).Hardware.Device
	for _, locator := range spec.Disk {
		store, ok := ctx.Map.Get(locator.Datastore).(*simulator.Datastore)
		if !ok {
			return &types.InvalidDatastore{}
		}
		disk, _ := object.VirtualDeviceList(devices).FindByKey(locator.DiskId).(*types.VirtualDisk)
		if disk == nil {
			return &types.InvalidArgument{InvalidProperty: "spec.disk"}
		}
		backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		if !ok {
			return &types.InvalidArgument{InvalidProperty: "spec.disk"}
		}
		m.move(ctx, devices, backing.FileName, store)
		ctx.Map.AddReference(ctx, m.vm, &m.vm.Datastore, store.Self)
	}
	changes := []types.PropertyChange{
		{Name: "config.hardware.device", Val: devices},
		{Name: "config.changeVersion", Val: fmt.Sprint(time.Now().UnixNano())},
	}
	if spec.Host == nil && spec.Pool != nil {
		spec.Host = m.chosen(ctx, *spec.Pool)
	}
	if spec.Host != nil {
		to, ok := ctx.Map.Get(*spec.Host).(*simulator.HostSystem)
		if !ok {
			return &types.ManagedObjectNotFound{Obj: *spec.Host}
		}
		if to.Runtime.InMaintenanceMode {
			return &types.InvalidHostState{}
		}
		changes = append(changes,
			types.PropertyChange{Name: "runtime.host", Val: spec.Host},
			types.PropertyChange{Name: "summary.runtime.host", Val: spec.Host},
		)
	}
	if spec.Pool != nil {
		to, ok := ctx.Map.Get(*spec.Pool).(*simulator.ResourcePool)
		if !ok {
			return &types.ManagedObjectNotFound{Obj: *spec.Pool}
		}
		if m.vm.ResourcePool != nil { // a template has none
			if from, ok := ctx.Map.Get(*m.vm.ResourcePool).(*simulator.ResourcePool); ok {
				ctx.Map.RemoveReference(ctx, from, &from.Vm, m.vm.Self)
			}
		}
		ctx.Map.AddReference(ctx, to, &to.Vm, m.vm.Self)
		changes = append(changes, types.PropertyChange{Name: "resourcePool", Val: spec.Pool})
	}
	ctx.Update(m.vm, changes)
	historyOf(m.vm).tidy(ctx, m.vm)
	if len(spec.DeviceChange) > 0 {
		wired := types.VirtualMachineConfigSpec{DeviceChange: spec.DeviceChange}
		inner := m.vm.ReconfigVMTask(ctx, &types.ReconfigVM_Task{This: m.vm.Self, Spec: wired})
		if _, fault := finished(ctx, inner.(*methods.ReconfigVM_TaskBody).Res.Returnval); fault != nil {
			return fault
		}
	}
	return nil
}

// chosen is the host that a cluster gives a machine that comes to one of its pools; nil where the
// machine is there already.
func (m *machine) chosen(ctx *simulator.Context, ref types.ManagedObjectReference) *types.ManagedObjectReference {
	pool, ok := ctx.Map.Get(ref).(*simulator.ResourcePool)
	if !ok {
		return nil
	}
	cluster, ok := ctx.Map.Get(pool.Owner).(*simulator.ClusterComputeResource)
	if !ok {
		return nil
	}
	for i := range cluster.Host {
		if m.vm.Runtime.Host != nil && cluster.Host[i] == *m.vm.Runtime.Host {
			return nil
		}
	}
	for i := range cluster.Host {
		if to, ok := ctx.Map.Get(cluster.Host[i]).(*simulator.HostSystem); ok && !to.Runtime.InMaintenanceMode {
			return &cluster.Host[i]
		}
	}
	return nil
}

// move brings a disk, with all files of its snapshots, into the folder that a server would make on
// the other datastore: one of the name that the machine's own has.
func (m *machine) move(ctx *simulator.Context, devices []types.BaseVirtualDevice, file string, store *simulator.Datastore) {
	h := historyOf(m.vm)
	var home object.DatastorePath
	home.FromString(m.vm.Config.Files.VmPathName)
	folder := path.Base(path.Dir(home.Path))
	renamed := func(name string) string {
		if stem(name) != stem(file) {
			return name
		}
		var from object.DatastorePath
		from.FromString(name)
		inside := path.Join(folder, path.Base(from.Path))
		if store.Name == home.Datastore {
			inside = path.Join(path.Dir(home.Path), path.Base(from.Path))
		}
		return (&object.DatastorePath{Datastore: store.Name, Path: inside}).String()
	}
	files := map[string]bool{file: true}
	for name := range h.parent {
		if stem(name) == stem(file) {
			files[name] = true
		}
	}
	for name := range files {
		from, to := fileOn(ctx, m.vm, name), fileOn(ctx, m.vm, renamed(name))
		_ = os.MkdirAll(filepath.Dir(to), 0o700)
		_ = os.Rename(from, to)
		_ = os.Rename(extent(from), extent(to))
		if store.Name == home.Datastore {
			_ = os.Remove(filepath.Dir(from)) // only if nothing else is in it
		}
	}
	parents := map[string]string{}
	for name, before := range h.parent {
		parents[renamed(name)] = renamed(before)
	}
	h.parent = parents
	for name := range files {
		delete(h.linked, name) // a disk that moves is whole
	}
	change := func(devices []types.BaseVirtualDevice) {
		for _, backing := range keptDisks(devices) {
			backing.FileName = renamed(backing.FileName)
		}
	}
	h.each(ctx, m.vm, change)
	change(devices)
}

// stem is the name of a disk without what tells the files of its snapshots apart.
func stem(name string) string {
	stem := strings.TrimSuffix(name, ".vmdk")
	if cut := strings.LastIndex(stem, "-0"); cut > 0 && len(stem)-cut == 7 {
		return stem[:cut]
	}
	return stem
}
