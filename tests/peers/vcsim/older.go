package main

// What releases of the simulator before the one in go.mod lack.

import (
	"reflect"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func lacks(of mo.Reference, method string) bool {
	return of != nil && !reflect.ValueOf(of).MethodByName(method).IsValid()
}

// index stands before the search index.
type index struct {
	mo.HostDateTimeSystem

	self types.ManagedObjectReference
}

func (i *index) Reference() types.ManagedObjectReference { return i.self }

func (i *index) FindAllByUuid(ctx *simulator.Context, r *types.FindAllByUuid) soap.HasFault {
	res := new(types.FindAllByUuidResponse)
	for _, each := range ctx.Map.All("VirtualMachine") {
		vm, ok := each.(*simulator.VirtualMachine)
		if !ok {
			continue
		}
		ctx.WithLock(vm, func() {
			if vm.Config != nil && vm.Config.InstanceUuid == r.Uuid {
				res.Returnval = append(res.Returnval, vm.Self)
			}
		})
	}
	return &methods.FindAllByUuidBody{Res: res}
}
