package main

// A host that is rebooted or shut down: it answers no call for a while, or until /up, and has no
// session of before.

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	// accepted is how long a host goes on after it has accepted the request.
	accepted = 30 * time.Millisecond
	// reboots is how long a host is away.
	reboots = 300 * time.Millisecond
)

type power struct {
	down     atomic.Bool
	sessions sync.Map
	cut      func() // every connection
	registry *simulator.Registry
}

// answer ends a call that reaches a host that is down.
func (p *power) answer(ctx *simulator.Context) {
	if p.down.Load() {
		panic(http.ErrAbortHandler)
	}
	if ctx.Session != nil {
		p.sessions.Store(ctx.Session.Key, true)
	}
}

func (p *power) goDown() {
	p.down.Store(true)
	manager := p.registry.SessionManager()
	p.sessions.Range(func(key, _ any) bool {
		nobody := &simulator.Context{Session: &simulator.Session{}}
		manager.TerminateSession(nobody, &types.TerminateSession{SessionId: []string{key.(string)}})
		p.sessions.Delete(key)
		return true
	})
	p.cut()
}

// host stands before a host for the methods that are played.
type host struct {
	mo.HostDateTimeSystem

	self  types.ManagedObjectReference
	of    *simulator.HostSystem
	power *power
}

func (h *host) Reference() types.ManagedObjectReference { return h.self }

func (h *host) goes(ctx *simulator.Context, name string, force bool, up time.Duration) types.ManagedObjectReference {
	task := simulator.CreateTask(h.of, name, func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		if !force && !h.of.Runtime.InMaintenanceMode {
			return nil, new(types.InvalidState)
		}
		time.AfterFunc(accepted, func() {
			h.power.goDown()
			if up > 0 {
				time.AfterFunc(up, func() { h.power.down.Store(false) })
			}
		})
		return nil, nil
	})
	return task.Run(ctx)
}

func (h *host) RebootHostTask(ctx *simulator.Context, r *types.RebootHost_Task) soap.HasFault {
	ref := h.goes(ctx, "reboot", r.Force, reboots)
	return &methods.RebootHost_TaskBody{Res: &types.RebootHost_TaskResponse{Returnval: ref}}
}

func (h *host) ShutdownHostTask(ctx *simulator.Context, r *types.ShutdownHost_Task) soap.HasFault {
	ref := h.goes(ctx, "shutdown", r.Force, 0)
	return &methods.ShutdownHost_TaskBody{Res: &types.ShutdownHost_TaskResponse{Returnval: ref}}
}
