package main

// What a machine is made with and the simulator does not keep: memory that the CPU encrypts, NUMA nodes.

import (
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// fittings are the configurations that a machine does not show yet, by its instance UUID.
var fittings = struct {
	sync.Mutex
	wanted map[string]types.VirtualMachineConfigSpec
}{wanted: map[string]types.VirtualMachineConfigSpec{}}

// remember keeps what a call asks for, and gives it to the machines that are there by now.
func remember(ctx *simulator.Context, spec *types.VirtualMachineConfigSpec) {
	fittings.Lock()
	defer fittings.Unlock()
	if spec != nil && spec.InstanceUuid != "" && (spec.SevEnabled != nil || spec.VirtualNuma != nil) {
		fittings.wanted[spec.InstanceUuid] = *spec
	}
	if len(fittings.wanted) == 0 {
		return
	}
	for _, each := range ctx.Map.All("VirtualMachine") {
		vm := each.(*simulator.VirtualMachine)
		if vm.Config == nil {
			continue
		}
		if wanted, ok := fittings.wanted[vm.Config.InstanceUuid]; ok {
			fitted(vm, &wanted)
			delete(fittings.wanted, vm.Config.InstanceUuid)
		}
	}
}

func fitted(vm *simulator.VirtualMachine, spec *types.VirtualMachineConfigSpec) {
	if spec.SevEnabled != nil {
		vm.Config.SevEnabled = spec.SevEnabled
	}
	if spec.VirtualNuma != nil {
		cores := int32(0)
		if spec.VirtualNuma.CoresPerNumaNode != nil {
			cores = *spec.VirtualNuma.CoresPerNumaNode
		}
		vm.Config.NumaInfo = &types.VirtualMachineVirtualNumaInfo{
			CoresPerNumaNode: &cores, AutoCoresPerNumaNode: types.NewBool(cores == 0),
		}
	}
}
