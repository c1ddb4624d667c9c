// The vSphere server of the tests: govmomi's simulator with a control port.
//
// It prints one line of JSON with the URLs of its two ports and serves until it is killed or its
// standard input ends, so that it never outlives the test run that started it.
//
// The control port belongs to the tests. A driver never sees it:
//
//	GET    /calls            how often each SOAP method was called since the last DELETE
//	DELETE /calls
//	POST   /fault            ?method=&type=&count=   the next calls of a method fail so
//	DELETE /fault            no faults, no delays
//	POST   /delay            ?method=&ms=            each call of a method takes longer
//	POST   /task-delay       ?name=&ms=              each task of this name takes longer
//	GET    /objects          how many objects of each kind the server has
//	POST   /datastore        ?name=&accessible=      0: the hosts cannot reach it; 1: they can again
//	POST   /question         ?text=                  the next machine that is switched on asks so
//	POST   /lun              ?kind=&target=&lun=&id=&size=&user=&secret=&host=  an array exports a LUN (fc, iscsi)
//	DELETE /lun              ?id=                    it does not any more
//	GET    /targets          the iSCSI targets that each host is told of
//	GET    /guests           files and folders in the guests, a line each
//	POST   /esx              ?port=                  where a vCenter says that its hosts are, for guests' files
//	POST   /up               a host that was shut down starts
//	POST   /kill             the process ends at once, as after a panic
//
// Guests are played. The simulator switches a machine off and on to reset it; here a reset leaves
// the power state alone and posts VmResettingEvent, and a guest that reboots posts
// VmGuestRebootEvent, as a vSphere server does. Each start of a guest writes a line to its serial port. A guest whose machine has the extraConfig value
// hvct.stubborn ignores requests to shut down and to reboot.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	_ "github.com/vmware/govmomi/pbm/simulator"
)

type rule struct {
	fault reflect.Type
	count int
}

// machine stands before a virtual machine for the methods that are played. It has a reference of
// its own, to which calls of these methods are directed.
type machine struct {
	mo.HostDateTimeSystem // the registry takes only types of the API; this one nobody looks for

	self types.ManagedObjectReference
	vm   *simulator.VirtualMachine
}

func (m *machine) Reference() types.ManagedObjectReference { return m.self }

func (m *machine) stubborn() bool {
	for _, each := range m.vm.Config.ExtraConfig {
		if each.GetOptionValue().Key == "hvct.stubborn" {
			return true
		}
	}
	return false
}

func (m *machine) isOff() types.BaseMethodFault {
	if m.vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn {
		return nil
	}
	return &types.InvalidPowerState{
		RequestedState: types.VirtualMachinePowerStatePoweredOn,
		ExistingState:  m.vm.Runtime.PowerState,
	}
}

func (m *machine) count(ctx *simulator.Context) {
	insideOf(m.vm.Self).startAnew()
	m.say(ctx, "hv-guest: starts\r\n")
}

// say writes what the guest prints to its first serial port where a host would write it.
func (m *machine) say(ctx *simulator.Context, text string) {
	for _, each := range m.vm.Config.Hardware.Device {
		port, ok := each.(*types.VirtualSerialPort)
		if !ok {
			continue
		}
		backing, ok := port.Backing.(*types.VirtualSerialPortFileBackingInfo)
		var where object.DatastorePath
		if !ok || !where.FromString(backing.FileName) {
			return
		}
		store, ok := ctx.Map.FindByName(where.Datastore, m.vm.Datastore).(*simulator.Datastore)
		if !ok {
			return
		}
		name := filepath.Join(store.Summary.Url, where.Path)
		if file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0600); err == nil {
			_, _ = file.WriteString(text)
			_ = file.Close()
		}
		return
	}
}

// booted sets runtime.bootTime. The simulator changes that of the summary only.
func (m *machine) booted(ctx *simulator.Context, at types.AnyType) {
	ctx.Update(m.vm, []types.PropertyChange{{Name: "runtime.bootTime", Val: at}})
}

func (m *machine) started(ctx *simulator.Context, event types.BaseEvent) {
	m.count(ctx)
	if m.vm.Runtime.Host != nil {
		event.GetEvent().Host = &types.HostEventArgument{Host: *m.vm.Runtime.Host}
	}
	event.GetEvent().Vm = &types.VmEventArgument{
		EntityEventArgument: types.EntityEventArgument{Name: m.vm.Name}, Vm: m.vm.Self,
	}
	manager := ctx.Map.EventManager()
	ctx.WithLock(manager, func() { manager.PostEvent(ctx, &types.PostEvent{EventToPost: event}) })
}

func (m *machine) ResetVMTask(ctx *simulator.Context, _ *types.ResetVM_Task) soap.HasFault {
	task := simulator.CreateTask(m.vm, "reset", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		if fault := m.isOff(); fault != nil {
			return nil, fault
		}
		m.started(ctx, &types.VmResettingEvent{})
		return nil, nil
	})
	return &methods.ResetVM_TaskBody{Res: &types.ResetVM_TaskResponse{Returnval: task.Run(ctx)}}
}

func (m *machine) RebootGuest(ctx *simulator.Context, r *types.RebootGuest) (done soap.HasFault) {
	ctx.WithLock(m.vm, func() {
		done = m.vm.RebootGuest(ctx, r)
		if done.Fault() == nil && !m.stubborn() {
			m.started(ctx, &types.VmGuestRebootEvent{})
			m.tools(ctx, types.VirtualMachineToolsRunningStatusGuestToolsNotRunning)
			time.AfterFunc(guestBoots, func() {
				ctx.WithLock(m.vm, func() {
					m.tools(ctx, types.VirtualMachineToolsRunningStatusGuestToolsRunning)
				})
			})
		}
	})
	return done
}

// guestBoots is how long a guest is away while it reboots. A client sees it only if it reads in
// between: on a busy machine 60 ms were too short.
const guestBoots = time.Second

func (m *machine) tools(ctx *simulator.Context, status types.VirtualMachineToolsRunningStatus) {
	m.vm.Guest.GuestOperationsReady = types.NewBool(status == tools)
	ctx.Update(m.vm, []types.PropertyChange{
		{Name: "guest.toolsRunningStatus", Val: string(status)},
		{Name: "guest.guestFamily", Val: string(types.VirtualMachineGuestOsFamilyLinuxGuest)},
	})
}

func (m *machine) ShutdownGuest(ctx *simulator.Context, r *types.ShutdownGuest) (done soap.HasFault) {
	ctx.WithLock(m.vm, func() {
		if m.stubborn() && m.isOff() == nil {
			done = &methods.ShutdownGuestBody{Res: new(types.ShutdownGuestResponse)}
			return
		}
		done = m.vm.ShutdownGuest(ctx, r)
	})
	return done
}

func (m *machine) PowerOnVMTask(ctx *simulator.Context, r *types.PowerOnVM_Task) (done soap.HasFault) {
	if text := m.question(); text != "" {
		return m.startAsking(ctx, text)
	}
	if fault := m.cannotStart(ctx); fault != nil {
		task := simulator.CreateTask(m.vm, "powerOn", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
			return nil, fault
		})
		return &methods.PowerOnVM_TaskBody{Res: &types.PowerOnVM_TaskResponse{Returnval: task.Run(ctx)}}
	}
	ctx.WithLock(m.vm, func() {
		if m.vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOff {
			m.count(ctx)
			m.booted(ctx, time.Now())
		}
		done = m.vm.PowerOnVMTask(ctx, r)
	})
	return done
}

// DestroyTask ends when the files of the machine are gone. The simulator's own leaves a task behind
// that removes the folder some time later, also if a new machine is in it by then.
func (m *machine) DestroyTask(ctx *simulator.Context, r *types.Destroy_Task) soap.HasFault {
	task := simulator.CreateTask(m.vm, "destroy", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		folder, names := m.others(ctx)
		aside, _ := os.MkdirTemp("", "others")
		putting(names, folder, aside)
		inner := m.vm.DestroyTask(ctx, &types.Destroy_Task{This: m.vm.Self})
		_, fault := finished(ctx, inner.(*methods.Destroy_TaskBody).Res.Returnval)
		for _, each := range ctx.Map.AllReference("Task") {
			if other, ok := each.(*simulator.Task); ok && strings.HasPrefix(other.Info.Name, "DeleteDatastoreFile") {
				wait(ctx, other)
			}
		}
		if len(names) > 0 {
			_ = os.MkdirAll(folder, 0o755)
		}
		putting(names, aside, folder)
		_ = os.Remove(aside)
		forgetHistory(ctx, m.vm)
		insides.Delete(m.vm.Self)
		return nil, fault
	})
	return &methods.Destroy_TaskBody{Res: &types.Destroy_TaskResponse{Returnval: task.Run(ctx)}}
}

// ReconfigVMTask refuses a change that was made for an older configuration, as a server does. The
// simulator does not look at the version.
func (m *machine) ReconfigVMTask(ctx *simulator.Context, r *types.ReconfigVM_Task) soap.HasFault {
	task := simulator.CreateTask(m.vm, "reconfigVm", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		if r.Spec.ChangeVersion != "" && r.Spec.ChangeVersion != m.vm.Config.ChangeVersion {
			return nil, new(types.ConcurrentAccess)
		}
		if m.takesFromSnapshot(ctx, &r.Spec) {
			return nil, &types.InvalidState{}
		}
		if m.growsChild(&r.Spec) {
			return nil, &types.InvalidDeviceOperation{}
		}
		inner := m.vm.ReconfigVMTask(ctx, r)
		if _, fault := finished(ctx, inner.(*methods.ReconfigVM_TaskBody).Res.Returnval); fault != nil {
			return nil, fault
		}
		fitted(m.vm, &r.Spec)
		m.addresses(ctx, r.Spec.ExtraConfig)
		return nil, nil
	})
	return &methods.ReconfigVM_TaskBody{Res: &types.ReconfigVM_TaskResponse{Returnval: task.Run(ctx)}}
}

// wait is for a task inside of another. The simulator's own looks every 10 ms.
func wait(ctx *simulator.Context, task *simulator.Task) {
	for !ended(ctx, task) {
		time.Sleep(200 * time.Microsecond)
	}
}

// finished waits for a task inside of another, and tells what came of it.
func finished(ctx *simulator.Context, ref types.ManagedObjectReference) (types.AnyType, types.BaseMethodFault) {
	task, ok := ctx.Map.Get(ref).(*simulator.Task)
	if !ok {
		return nil, &types.ManagedObjectNotFound{Obj: ref}
	}
	wait(ctx, task)
	if task.Info.Error != nil {
		return nil, task.Info.Error.Fault
	}
	return task.Info.Result, nil
}

// letEnd gives a task a moment before a client's look at it. Most tasks here take less than that; a
// client that finds one still running sets up a wait of its own, which is six calls.
func letEnd(ctx *simulator.Context, method *simulator.Method) {
	request, ok := method.Body.(*types.RetrievePropertiesEx)
	if !ok || ctx.Session == nil || len(request.SpecSet) != 1 || len(request.SpecSet[0].ObjectSet) != 1 {
		return
	}
	if task, ok := ctx.Map.Get(request.SpecSet[0].ObjectSet[0].Obj).(*simulator.Task); ok {
		for end := time.Now().Add(moment); !ended(ctx, task) && time.Now().Before(end); {
			time.Sleep(200 * time.Microsecond)
		}
	}
}

const moment = 20 * time.Millisecond

func ended(ctx *simulator.Context, task *simulator.Task) (done bool) {
	ctx.Map.WithLock(&simulator.Context{}, task, func() {
		state := task.Info.State
		done = state == types.TaskInfoStateSuccess || state == types.TaskInfoStateError
	})
	return done
}

var played = map[string]bool{
	"ReconfigVM_Task": true,
	"Destroy_Task":    true, "CreateSnapshot_Task": true,
	"RevertToSnapshot_Task": true, "RemoveSnapshot_Task": true, "RemoveAllSnapshots_Task": true,
	"UnregisterVM": true, "AcquireTicket": true, "CreateScreenshot_Task": true, "SendNMI": true,
	"RelocateVM_Task": true, "PowerOffVM_Task": true, "AnswerVM": true,
	"RebootHost_Task": true, "ShutdownHost_Task": true,
	"CloneVM_Task": true, "PromoteDisks_Task": true, "MarkAsTemplate": true,
	"ResetVM_Task": true, "RebootGuest": true, "ShutdownGuest": true, "PowerOnVM_Task": true,
}

type control struct {
	mu     sync.Mutex
	calls  map[string]int
	faults map[string]*rule
	delays map[string]time.Duration
	power  power
	lost   lost

	configs map[types.ManagedObjectReference]types.VirtualMachineConfigInfo
}

// handle sees every call before the simulator does.
func (c *control) handle(ctx *simulator.Context, method *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	c.power.answer(ctx)
	c.mu.Lock()
	c.calls[method.Name]++
	delay := c.delays[method.Name]
	var fault types.BaseMethodFault
	if found, ok := c.faults[method.Name]; ok {
		fault = reflect.New(found.fault).Interface().(types.BaseMethodFault)
		if found.count--; found.count == 0 {
			delete(c.faults, method.Name)
		}
	}
	if fault == nil && c.lost.touches(method) {
		fault = new(types.InaccessibleDatastore)
	}
	c.mu.Unlock()
	time.Sleep(delay)
	letEnd(ctx, method)
	if ctx.Session == nil {
		return nil, fault // nothing is played: the simulator asks for a login
	}
	if vm, ok := ctx.Map.Get(method.This).(*simulator.VirtualMachine); ok && played[method.Name] {
		self := types.ManagedObjectReference{Type: "PlayedMachine", Value: vm.Self.Value}
		if ctx.Map.Get(self) == nil {
			ctx.Map.Put(&machine{self: self, vm: vm})
		}
		method.This = self
	}
	if found := ctx.Map.Get(method.This); method.Name == "FindAllByUuid" && lacks(found, method.Name) {
		self := types.ManagedObjectReference{Type: "PlayedIndex", Value: "index"}
		if ctx.Map.Get(self) == nil {
			ctx.Map.Put(&index{self: self})
		}
		method.This = self
	}
	if inGuest[method.Name] {
		self := types.ManagedObjectReference{Type: "PlayedGuests", Value: "guests"}
		if ctx.Map.Get(self) == nil {
			ctx.Map.Put(&managers{self: self})
		}
		method.This = self
	}
	if of, ok := ctx.Map.Get(method.This).(*simulator.HostSystem); ok && played[method.Name] {
		self := types.ManagedObjectReference{Type: "PlayedHost", Value: of.Self.Value}
		if ctx.Map.Get(self) == nil {
			ctx.Map.Put(&host{self: self, of: of, power: &c.power})
		}
		method.This = self
	}
	remember(ctx, specOf(method))
	toStorage(ctx, method)
	toCollector(ctx, method)
	if bad := mapped(ctx, specOf(method)); bad != nil && fault == nil {
		fault = bad
	}
	if bad := ruled(ctx, method); bad != nil && fault == nil {
		fault = bad
	}
	if method.Name == "CloneVM_Task" && !ctx.Map.IsVPX() {
		fault = new(types.NotSupported) // an ESXi host clones nothing
	}
	if of, ok := ctx.Map.Get(method.This).(*simulator.VirtualMachineSnapshot); ok && played[method.Name] {
		self := types.ManagedObjectReference{Type: "PlayedSnapshot", Value: of.Self.Value}
		if ctx.Map.Get(self) == nil {
			ctx.Map.Put(&snapshot{self: self, of: of})
		}
		method.This = self
	}
	if task, ok := ctx.Map.Get(method.This).(*simulator.Task); ok && method.Name == "CancelTask" {
		if task.Info.Cancelable {
			if self := (types.ManagedObjectReference{Type: "PlayedTask", Value: task.Self.Value}); !ended(ctx, task) {
				method.This = self
			}
		} else {
			// the simulator says of such a task that it was cancelled, and lets it come to its end
			fault = new(types.NotSupported)
		}
	}
	return nil, fault
}

func (c *control) serveCalls(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Method == http.MethodDelete {
		c.calls = map[string]int{}
		return
	}
	_ = json.NewEncoder(w).Encode(c.calls)
}

func (c *control) serveFault(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Method == http.MethodDelete {
		c.faults, c.delays = map[string]*rule{}, map[string]time.Duration{}
		simulator.TaskDelay = simulator.DelayConfig{}
		return
	}
	q := r.URL.Query()
	kind, ok := types.TypeFunc()(q.Get("type"))
	if !ok || !reflect.PointerTo(kind).Implements(reflect.TypeOf((*types.BaseMethodFault)(nil)).Elem()) {
		http.Error(w, "no such type of fault: "+q.Get("type"), http.StatusBadRequest)
		return
	}
	count, err := strconv.Atoi(q.Get("count"))
	if err != nil {
		count = 1
	}
	c.faults[q.Get("method")] = &rule{fault: kind, count: count}
}

func milliseconds(w http.ResponseWriter, r *http.Request) (int, bool) {
	ms, err := strconv.Atoi(r.URL.Query().Get("ms"))
	if err != nil {
		http.Error(w, "ms= must be a number", http.StatusBadRequest)
	}
	return ms, err == nil
}

func (c *control) serveDelay(w http.ResponseWriter, r *http.Request) {
	if ms, ok := milliseconds(w, r); ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.delays[r.URL.Query().Get("method")] = time.Duration(ms) * time.Millisecond
	}
}

func (c *control) serveTaskDelay(w http.ResponseWriter, r *http.Request) {
	if ms, ok := milliseconds(w, r); ok {
		// The map is replaced, never changed: tasks read it without a lock. LockHandoff=0 lets
		// property reads through while the task waits.
		delays := map[string]int{"LockHandoff": 0, r.URL.Query().Get("name"): ms}
		simulator.TaskDelay = simulator.DelayConfig{MethodDelay: delays}
	}
}

var counted = []string{
	"VirtualMachine", "Task", "Datastore", "HostSystem", "DistributedVirtualPortgroup",
	"HttpNfcLease", "VirtualMachineSnapshot", "ContainerView", "PropertyCollector", "PropertyFilter",
}

func (c *control) serveObjects(registry *simulator.Registry) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		found := map[string]int{}
		for _, kind := range counted {
			found[kind] = len(registry.AllReference(kind))
		}
		_ = json.NewEncoder(w).Encode(found)
	}
}

// unfit takes everything from a host that a machine could need.
func unfit(registry *simulator.Registry, name string) {
	for _, each := range registry.All("HostSystem") {
		if host := each.(*simulator.HostSystem); host.Name == name {
			host.Datastore, host.Network, host.Runtime.InMaintenanceMode = nil, nil, true
			compute := registry.Get(*host.Parent).(*mo.ComputeResource)
			compute.Datastore, compute.Network = nil, nil
		}
	}
}

func main() {
	mode := flag.String("mode", "vpx", "vpx: a vCenter; esx: a single host")
	api := flag.String("api", "8.0.3.0", "version of the API that the server claims")
	listen := flag.String("listen", "127.0.0.1:0", "address of the SOAP port")
	user := flag.String("user", "administrator@vsphere.local", "the only user")
	password := flag.String("password", "vcsim-secret", "that user's password")
	hosts := flag.Int("hosts", 2, "hosts of the cluster")
	datastores := flag.Int("datastores", 2, "datastores, seen by all hosts")
	machines := flag.Int("machines", 0, "machines in each resource pool from the start")
	pods := flag.Int("pods", 0, "datastore clusters, each with one of the datastores")
	clusters := flag.Int("clusters", 1, "clusters")
	standalone := flag.Int("standalone", 0, "hosts outside of any cluster")
	opaque := flag.Int("opaque", 1, "NSX segments")
	encrypts := flag.Bool("sev", true, "hosts encrypt the memory of machines")
	orphan := flag.Bool("orphan", false, "go on when standard input ends")
	flag.Parse()
	log.SetOutput(os.Stderr)

	model := simulator.VPX()
	if *mode == "esx" {
		model = simulator.ESX()
	} else {
		model.Cluster, model.ClusterHost, model.Host = *clusters, *hosts, *standalone
		model.OpaqueNetwork = *opaque
		model.Pod = *pods
	}
	model.Machine, model.Autostart, model.Datastore = *machines, false, *datastores
	model.ServiceContent.About.ApiVersion = *api
	if err := model.Create(); err != nil {
		log.Fatal(err)
	}
	registry := model.Service.Context.Map
	// a session that ends leaves its event collectors behind here, which a server removes with it
	registry.EventManager().MaxCollector = 1 << 20
	for _, each := range registry.All("HostSystem") {
		host := each.(*simulator.HostSystem)
		hardware := *host.Summary.Hardware
		hardware.NumCpuPkgs, hardware.NumCpuCores, hardware.NumCpuThreads = 2, 16, 16
		host.Summary.Hardware = &hardware
	}
	equip(registry, *encrypts)
	connect(registry)
	if *mode == "vpx" && *standalone > 1 {
		unfit(registry, fmt.Sprintf("DC0_H%d", *standalone-1))
	}
	if *mode == "vpx" {
		fill(model.Service.Context)
	}
	service := model.Service
	service.RegisterEndpoints = true
	service.TLS = new(tls.Config)
	service.Listen = &url.URL{Host: *listen, User: url.UserPassword(*user, *password)}

	state := &control{
		calls: map[string]int{}, faults: map[string]*rule{}, delays: map[string]time.Duration{},
		configs: map[types.ManagedObjectReference]types.VirtualMachineConfigInfo{},
	}
	registry.Handler = state.handle
	service.HandleFunc(guestWeb, serveGuest)
	server := service.NewServer()
	esxPort.Store(server.URL.Port())
	certified(registry, server.TLS.Certificates[0].Certificate[0])
	state.power.registry, state.power.cut = registry, server.CloseClientConnections

	mux := http.NewServeMux()
	mux.HandleFunc("/calls", state.serveCalls)
	mux.HandleFunc("/fault", state.serveFault)
	mux.HandleFunc("/delay", state.serveDelay)
	mux.HandleFunc("/task-delay", state.serveTaskDelay)
	mux.HandleFunc("/objects", state.serveObjects(registry))
	mux.HandleFunc("/datastore", state.serveDatastore(model.Service.Context))
	mux.HandleFunc("/question", serveQuestion)
	mux.HandleFunc("/lun", serveUnits)
	mux.HandleFunc("/targets", serveTargets(registry))
	mux.HandleFunc("/guests", serveGuests)
	mux.HandleFunc("/esx", func(_ http.ResponseWriter, r *http.Request) { esxPort.Store(r.URL.Query().Get("port")) })
	mux.HandleFunc("/up", func(http.ResponseWriter, *http.Request) { state.power.down.Store(false) })
	mux.HandleFunc("/kill", func(http.ResponseWriter, *http.Request) { os.Exit(3) })
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	_ = json.NewEncoder(os.Stdout).Encode(map[string]string{
		"url":     "https://" + server.URL.Host + "/sdk",
		"control": fmt.Sprintf("http://%s", port.Addr()),
	})
	if !*orphan {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
	}
	log.Fatal(http.Serve(port, mux))
}
