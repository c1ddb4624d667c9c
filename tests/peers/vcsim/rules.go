package main

// Rules of a cluster: a vCenter takes none of fewer than two machines, nor one with a machine that is
// not there. The simulator takes any.

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// ruled says what is wrong with the rules that a call gives a cluster.
func ruled(ctx *simulator.Context, method *simulator.Method) types.BaseMethodFault {
	request, ok := method.Body.(*types.ReconfigureComputeResource_Task)
	if !ok {
		return nil
	}
	spec, ok := request.Spec.(*types.ClusterConfigSpecEx)
	if !ok {
		return nil
	}
	for _, each := range spec.RulesSpec {
		var machines []types.ManagedObjectReference
		switch rule := each.Info.(type) {
		case *types.ClusterAffinityRuleSpec:
			machines = rule.Vm
		case *types.ClusterAntiAffinityRuleSpec:
			machines = rule.Vm
		default:
			continue
		}
		if len(machines) < 2 {
			return &types.InvalidArgument{InvalidProperty: "spec.rulesSpec.info.vm"}
		}
		for _, machine := range machines {
			if ctx.Map.Get(machine) == nil {
				return &types.ManagedObjectNotFound{Obj: machine}
			}
		}
	}
	return nil
}
