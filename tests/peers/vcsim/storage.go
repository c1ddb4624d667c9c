package main

// A storage array, and hosts that reach it over Fibre Channel and iSCSI.
//
// The array belongs to the tests (control port: /lun). A host sees what the array exports only after
// it has looked for it (RescanHba), over iSCSI only what it is logged in to, with the right secret.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	iscsiHba = "vmhba66"
	fibreHba = "vmhba67"
	disks    = "/vmfs/devices/disks/"
)

type unit struct {
	Kind, Target, User, Secret, Host, ID string
	Lun                                  int32
	Size                                 int64
}

var array = struct {
	sync.Mutex
	units []unit
}{}

// bare is what each host has without the array.
var bare = map[types.ManagedObjectReference]types.HostStorageDeviceInfo{}

func serveUnits(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	array.Lock()
	defer array.Unlock()
	kept := []unit{}
	for _, each := range array.units {
		if each.ID != q.Get("id") || (r.Method == http.MethodPost && each.Target != q.Get("target")) {
			kept = append(kept, each)
		}
	}
	array.units = kept
	if r.Method != http.MethodPost {
		return
	}
	number, _ := strconv.Atoi(q.Get("lun"))
	size, err := strconv.ParseInt(q.Get("size"), 10, 64)
	if err != nil {
		http.Error(w, "size= must be a number", http.StatusBadRequest)
		return
	}
	array.units = append(array.units, unit{
		Kind: q.Get("kind"), Target: q.Get("target"), Lun: int32(number), Size: size, ID: q.Get("id"),
		User: q.Get("user"), Secret: q.Get("secret"), Host: q.Get("host"),
	})
}

// serveTargets tells the targets that each host is told to log in to.
func serveTargets(registry *simulator.Registry) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		found := map[string][]string{}
		for _, each := range registry.All("HostSystem") {
			host := each.(*simulator.HostSystem)
			found[host.Name] = []string{}
			for _, target := range initiator(host).ConfiguredStaticTarget {
				where := fmt.Sprintf("%s:%d %s", target.Address, target.Port, target.IScsiName)
				found[host.Name] = append(found[host.Name], where)
			}
		}
		_ = json.NewEncoder(w).Encode(found)
	}
}

func initiator(host *simulator.HostSystem) *types.HostInternetScsiHba {
	for _, each := range host.Config.StorageDevice.HostBusAdapter {
		if hba, ok := each.(*types.HostInternetScsiHba); ok {
			return hba
		}
	}
	return nil
}

// connect gives each host its adapters.
func connect(registry *simulator.Registry) {
	for number, each := range registry.All("HostSystem") {
		host := each.(*simulator.HostSystem)
		device := *host.Config.StorageDevice
		device.HostBusAdapter = append(append([]types.BaseHostHostBusAdapter(nil), device.HostBusAdapter...),
			&types.HostInternetScsiHba{
				HostHostBusAdapter: types.HostHostBusAdapter{
					Key: "key-vim.host.InternetScsiHba-" + iscsiHba, Device: iscsiHba, Status: "online",
					Model: "iSCSI Software Adapter", Driver: "iscsi_vmk",
				},
				IsSoftwareBased: true, IScsiName: fmt.Sprintf("iqn.1998-01.com.vmware:hvct-%d", number),
			},
			&types.HostFibreChannelHba{
				HostHostBusAdapter: types.HostHostBusAdapter{
					Key: "key-vim.host.FibreChannelHba-" + fibreHba, Device: fibreHba, Status: "online",
					Model: "Emulex LightPulse", Driver: "lpfc",
				},
				PortWorldWideName: 0x1000_0000_c900_0000 + int64(number),
				NodeWorldWideName: 0x2000_0000_c900_0000 + int64(number),
				PortType:          "fabric",
			})
		config := *host.Config
		config.StorageDevice = &device
		host.Config = &config
		bare[host.Self] = device
	}
}

// looks is what the host sees of the array now.
func looks(host *simulator.HostSystem) {
	array.Lock()
	defer array.Unlock()
	device := bare[host.Self]
	device.HostBusAdapter = host.Config.StorageDevice.HostBusAdapter
	topology := types.HostScsiTopology{}
	if device.ScsiTopology != nil {
		topology.Adapter = append(topology.Adapter, device.ScsiTopology.Adapter...)
	}
	device.ScsiLun = append([]types.BaseScsiLun(nil), device.ScsiLun...)
	hba := initiator(host)
	there := map[string]bool{}
	faces := map[string]*types.HostScsiTopologyInterface{
		"fc":    {Key: "key-vim.host.ScsiTopology.Interface-" + fibreHba, Adapter: "key-vim.host.FibreChannelHba-" + fibreHba},
		"iscsi": {Key: "key-vim.host.ScsiTopology.Interface-" + iscsiHba, Adapter: hba.Key},
	}
	for number, each := range array.units {
		if (each.Host != "" && each.Host != host.Name) || (each.Kind == "iscsi" && !loggedIn(hba, each)) {
			continue
		}
		uuid := fmt.Sprintf("02000%03x00%x", each.Lun, each.ID)
		key := "key-vim.host.ScsiDisk-" + uuid
		if !there[each.ID] {
			there[each.ID] = true
			device.ScsiLun = append(device.ScsiLun, &types.HostScsiDisk{
				ScsiLun: types.ScsiLun{
					HostDevice: types.HostDevice{DeviceName: disks + each.ID, DeviceType: "disk"},
					Key:        key, Uuid: uuid, CanonicalName: each.ID, LunType: "disk",
					OperationalState: []string{"ok"}, Vendor: "HVCT", Model: "array", Revision: "1",
				},
				Capacity:   types.HostDiskDimensionsLba{BlockSize: 512, Block: each.Size / 512},
				DevicePath: disks + each.ID,
			})
		}
		var transport types.BaseHostTargetTransport = &types.HostInternetScsiTargetTransport{IScsiName: each.Target}
		if each.Kind == "fc" {
			name, _ := strconv.ParseUint(each.Target, 16, 64)
			transport = &types.HostFibreChannelTargetTransport{PortWorldWideName: int64(name)}
		}
		face := faces[each.Kind]
		face.Target = append(face.Target, types.HostScsiTopologyTarget{
			Key: fmt.Sprintf("%s:%d", face.Key, number), Target: int32(number), Transport: transport,
			Lun: []types.HostScsiTopologyLun{{Key: key, Lun: each.Lun, ScsiLun: key}},
		})
	}
	topology.Adapter = append(topology.Adapter, *faces["fc"], *faces["iscsi"])
	device.ScsiTopology = &topology
	host.Config.StorageDevice = &device
}

func loggedIn(hba *types.HostInternetScsiHba, wanted unit) bool {
	for _, each := range hba.ConfiguredStaticTarget {
		if !strings.EqualFold(each.IScsiName, wanted.Target) { // such names have no case
			continue
		}
		if wanted.User == "" {
			return true
		}
		auth := each.AuthenticationProperties
		if auth != nil && auth.ChapAuthEnabled && auth.ChapName == wanted.User && auth.ChapSecret == wanted.Secret {
			return true
		}
	}
	return false
}

// storage stands before a host's storage system for the methods that are played.
type storage struct {
	mo.HostDateTimeSystem // as machine has it

	self types.ManagedObjectReference
	host *simulator.HostSystem
}

func (s *storage) Reference() types.ManagedObjectReference { return s.self }

var inStorage = map[string]bool{
	"RescanHba": true, "AddInternetScsiStaticTargets": true, "RemoveInternetScsiStaticTargets": true,
	"UpdateInternetScsiAuthenticationProperties": true,
}

// toStorage directs a call to what plays it.
func toStorage(ctx *simulator.Context, method *simulator.Method) {
	of, ok := ctx.Map.Get(method.This).(*simulator.HostStorageSystem)
	if !ok || !inStorage[method.Name] || ctx.Session == nil {
		return
	}
	self := types.ManagedObjectReference{Type: "PlayedStorage", Value: of.Host.Self.Value}
	if ctx.Map.Get(self) == nil {
		ctx.Map.Put(&storage{self: self, host: ctx.Map.Get(of.Host.Self).(*simulator.HostSystem)})
	}
	method.This = self
}

func (s *storage) RescanHba(ctx *simulator.Context, r *types.RescanHba) soap.HasFault {
	if r.HbaDevice != iscsiHba && r.HbaDevice != fibreHba {
		return &methods.RescanHbaBody{Fault_: simulator.Fault("", new(types.NotFound))}
	}
	ctx.WithLock(s.host, func() { looks(s.host) })
	return &methods.RescanHbaBody{Res: new(types.RescanHbaResponse)}
}

func (s *storage) AddInternetScsiStaticTargets(ctx *simulator.Context, r *types.AddInternetScsiStaticTargets) soap.HasFault {
	if r.IScsiHbaDevice != iscsiHba {
		return &methods.AddInternetScsiStaticTargetsBody{Fault_: simulator.Fault("", new(types.NotFound))}
	}
	ctx.WithLock(s.host, func() {
		hba := initiator(s.host)
		hba.ConfiguredStaticTarget = append(without(hba, r.Targets), r.Targets...)
	})
	return &methods.AddInternetScsiStaticTargetsBody{Res: new(types.AddInternetScsiStaticTargetsResponse)}
}

func (s *storage) RemoveInternetScsiStaticTargets(ctx *simulator.Context, r *types.RemoveInternetScsiStaticTargets) soap.HasFault {
	missing := false
	ctx.WithLock(s.host, func() {
		hba := initiator(s.host)
		kept := without(hba, r.Targets)
		missing = len(kept) == len(hba.ConfiguredStaticTarget)
		hba.ConfiguredStaticTarget = kept
	})
	if missing {
		return &methods.RemoveInternetScsiStaticTargetsBody{Fault_: simulator.Fault("", new(types.NotFound))}
	}
	return &methods.RemoveInternetScsiStaticTargetsBody{Res: new(types.RemoveInternetScsiStaticTargetsResponse)}
}

func (s *storage) UpdateInternetScsiAuthenticationProperties(
	ctx *simulator.Context, r *types.UpdateInternetScsiAuthenticationProperties,
) soap.HasFault {
	ctx.WithLock(s.host, func() {
		hba := initiator(s.host)
		for at := range hba.ConfiguredStaticTarget {
			for _, each := range r.TargetSet.StaticTargets {
				if same(each, hba.ConfiguredStaticTarget[at]) {
					hba.ConfiguredStaticTarget[at].AuthenticationProperties = &r.AuthenticationProperties
				}
			}
		}
	})
	return &methods.UpdateInternetScsiAuthenticationPropertiesBody{
		Res: new(types.UpdateInternetScsiAuthenticationPropertiesResponse),
	}
}

func same(one, other types.HostInternetScsiHbaStaticTarget) bool {
	return one.IScsiName == other.IScsiName && one.Address == other.Address && one.Port == other.Port
}

func without(hba *types.HostInternetScsiHba, gone []types.HostInternetScsiHbaStaticTarget) []types.HostInternetScsiHbaStaticTarget {
	kept := []types.HostInternetScsiHbaStaticTarget{}
	for _, each := range hba.ConfiguredStaticTarget {
		stays := true
		for _, one := range gone {
			stays = stays && !same(one, each)
		}
		if stays {
			kept = append(kept, each)
		}
	}
	return kept
}

// mappings are the disks that map a LUN, by their file. The simulator knows disks with a file of their
// own only: a mapping is such a disk for it, and a client is told what it is.
var mappings sync.Map

// specOf is the configuration that a call asks for.
func specOf(method *simulator.Method) *types.VirtualMachineConfigSpec {
	switch body := method.Body.(type) {
	case *types.ReconfigVM_Task:
		return &body.Spec
	case *types.CreateVM_Task:
		return &body.Config
	case *types.CloneVM_Task:
		return body.Spec.Config
	}
	return nil
}

// mapped takes the mappings out of a configuration. A disk that maps a LUN cannot be added if nothing makes
// its file, or no host has such a LUN.
func mapped(ctx *simulator.Context, spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	if spec == nil {
		return nil
	}
	for at, change := range spec.DeviceChange {
		each := change.GetVirtualDeviceConfigSpec()
		disk, is := each.Device.(*types.VirtualDisk)
		if !is {
			continue
		}
		backing, is := disk.Backing.(*types.VirtualDiskRawDiskMappingVer1BackingInfo)
		if !is {
			continue
		}
		if each.Operation == types.VirtualDeviceConfigSpecOperationAdd {
			made := each.FileOperation == types.VirtualDeviceConfigSpecFileOperationCreate
			known, there := mappings.Load(backing.FileName)
			again := there && known.(types.VirtualDiskRawDiskMappingVer1BackingInfo).LunUuid == backing.LunUuid
			if made == again || backing.CompatibilityMode != "physicalMode" {
				return &types.InvalidDeviceSpec{DeviceIndex: int32(at)}
			}
			if !hasUnit(ctx, backing) {
				return new(types.InvalidDeviceBacking)
			}
			mappings.Store(backing.FileName, *backing)
		}
		disk.Backing = &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: backing.FileName},
			DiskMode:                     backing.DiskMode, ThinProvisioned: types.NewBool(true),
		}
	}
	return nil
}

func hasUnit(ctx *simulator.Context, backing *types.VirtualDiskRawDiskMappingVer1BackingInfo) bool {
	for _, each := range ctx.Map.All("HostSystem") {
		for _, lun := range each.(*simulator.HostSystem).Config.StorageDevice.ScsiLun {
			found := lun.GetScsiLun()
			if found.Uuid == backing.LunUuid && found.DeviceName == backing.DeviceName {
				return true
			}
		}
	}
	return false
}

// collector stands before the property collector, and tells of mappings.
type collector struct {
	mo.HostDateTimeSystem // as machine has it

	self types.ManagedObjectReference
	of   *simulator.PropertyCollector
}

func (c *collector) Reference() types.ManagedObjectReference { return c.self }

// toCollector directs a read to what tells of mappings, if there are any.
func toCollector(ctx *simulator.Context, method *simulator.Method) {
	of, ok := ctx.Map.Get(method.This).(*simulator.PropertyCollector)
	if !ok || method.Name != "RetrievePropertiesEx" || ctx.Session == nil {
		return
	}
	some := false
	mappings.Range(func(any, any) bool { some = true; return false })
	if !some {
		return
	}
	self := types.ManagedObjectReference{Type: "PlayedCollector", Value: of.Self.Value}
	if ctx.Map.Get(self) == nil {
		ctx.Map.Put(&collector{self: self, of: of})
	}
	method.This = self
}

func (c *collector) RetrievePropertiesEx(ctx *simulator.Context, r *types.RetrievePropertiesEx) soap.HasFault {
	done := c.of.RetrievePropertiesEx(ctx, r)
	body, ok := done.(*methods.RetrievePropertiesExBody)
	if !ok || body.Res == nil || body.Res.Returnval == nil {
		return done
	}
	for _, object := range body.Res.Returnval.Objects {
		for at := range object.PropSet {
			switch value := object.PropSet[at].Val.(type) {
			case types.ArrayOfVirtualDevice:
				object.PropSet[at].Val = types.ArrayOfVirtualDevice{VirtualDevice: asMapped(value.VirtualDevice)}
			case types.VirtualMachineConfigInfo:
				value.Hardware.Device = asMapped(value.Hardware.Device)
				object.PropSet[at].Val = value
			}
		}
	}
	return done
}

func asMapped(devices []types.BaseVirtualDevice) []types.BaseVirtualDevice {
	found := append([]types.BaseVirtualDevice(nil), devices...)
	for at, each := range found {
		disk, ok := each.(*types.VirtualDisk)
		if !ok {
			continue
		}
		backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		if !ok {
			continue
		}
		if mapping, ok := mappings.Load(backing.FileName); ok {
			copied, shown := *disk, mapping.(types.VirtualDiskRawDiskMappingVer1BackingInfo)
			copied.Backing = &shown
			found[at] = &copied
		}
	}
	return found
}
