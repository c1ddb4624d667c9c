package main

// Datastores that the hosts cannot reach, and datastore clusters.

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// lost has the names of datastores that cannot be reached.
type lost map[string]bool

// touches tells whether a call names a path on such a datastore.
func (l lost) touches(method *simulator.Method) bool {
	if len(l) == 0 {
		return false
	}
	body, _ := json.Marshal(method.Body)
	for name := range l {
		if strings.Contains(string(body), "["+name+"] ") {
			return true
		}
	}
	return false
}

func (c *control) serveDatastore(ctx *simulator.Context) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name, accessible := r.URL.Query().Get("name"), r.URL.Query().Get("accessible") == "1"
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.lost = (lost{}); !accessible {
			c.lost[name] = true
		}
		for _, each := range ctx.Map.All("Datastore") {
			if store := each.(*simulator.Datastore); store.Name == name {
				change := []types.PropertyChange{{Name: "summary.accessible", Val: accessible}}
				ctx.Map.AtomicUpdate(ctx, store, change)
			}
		}
		for _, each := range ctx.Map.All("VirtualMachine") {
			if vm := each.(*simulator.VirtualMachine); strings.HasPrefix(vm.Config.Files.VmPathName, "["+name+"] ") {
				c.reach(ctx, vm, accessible)
			}
		}
	}
}

// reach lets the server forget, or know again, which machine it is.
func (c *control) reach(ctx *simulator.Context, vm *simulator.VirtualMachine, accessible bool) {
	connection := types.VirtualMachineConnectionStateInaccessible
	config := types.VirtualMachineConfigInfo{}
	if accessible {
		saved, ok := c.configs[vm.Self]
		if !ok {
			return
		}
		connection, config = types.VirtualMachineConnectionStateConnected, saved
	} else {
		c.configs[vm.Self] = *vm.Config
	}
	ctx.Map.AtomicUpdate(ctx, vm, []types.PropertyChange{
		{Name: "config.instanceUuid", Val: config.InstanceUuid},
		{Name: "config.extraConfig", Val: config.ExtraConfig},
		{Name: "runtime.connectionState", Val: connection},
	})
}

// fill moves datastores into the datastore clusters, one into each.
func fill(ctx *simulator.Context) {
	stores := ctx.Map.All("Datastore")
	for number, each := range ctx.Map.All("StoragePod") {
		pod := each.(*simulator.StoragePod)
		store := stores[number].(*simulator.Datastore)
		pod.ChildEntity = append(pod.ChildEntity, store.Self)
	}
}
