package main

// What the simulator's hosts lack: NUMA cells, devices for machines, a GPU.
//
// Each host has two cells; a network adapter and a GPU that its administrator has passed through, an
// adapter whose passthrough waits for a start of the host, and a GPU of 16 GiB that is cut into slices of
// one size.

import (
	"fmt"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	adapter = "0000:3b:00.0"
	waiting = "0000:3b:00.1"
	passed  = "0000:5e:00.0"
	own     = "0000:d8:00.0"
	gib     = int64(1) << 30
	// functions are the virtual functions of the adapter.
	functions = 2
)

// profiles are the slices that the shared GPU can be cut into, with their GiB.
var profiles = map[string]int64{"nvidia_a2-4q": 4, "nvidia_a2-8q": 8}

func device(id string, class, vendor, product int16, maker, name string) types.HostPciDevice {
	var domain, bus, slot, function int
	_, _ = fmt.Sscanf(id, "%x:%x:%x.%x", &domain, &bus, &slot, &function)
	return types.HostPciDevice{
		Id: id, ClassId: class, Bus: byte(bus), Slot: byte(slot), Function: byte(function),
		VendorId: vendor, DeviceId: product, VendorName: maker, DeviceName: name,
	}
}

func equip(registry *simulator.Registry, encrypts bool) {
	for number, each := range registry.All("HostSystem") {
		host := each.(*simulator.HostSystem)
		hardware := types.HostHardwareInfo{}
		if host.Hardware != nil {
			hardware = *host.Hardware
		}
		cells := make([]types.HostNumaNode, 2)
		for cell := range cells {
			cells[cell] = types.HostNumaNode{
				TypeId: byte(cell), MemorySize: 2 * gib, MemoryRangeLength: 2 * gib,
			}
			for cpu := 0; cpu < 8; cpu++ {
				cells[cell].CpuID = append(cells[cell].CpuID, int16(cell*8+cpu))
			}
		}
		cells[0].PciId = []string{adapter, waiting, passed}
		cells[1].PciId = []string{own}
		hardware.NumaInfo = &types.HostNumaInfo{Type: "NUMA", NumNodes: 2, NumaNode: cells}
		devices := []types.HostPciDevice{
			device(adapter, 0x0200, -32634, 0x1572, "Intel Corporation", "Ethernet Controller X710"),
			device(waiting, 0x0200, -32634, 0x1572, "Intel Corporation", "Ethernet Controller X710"),
			// numbers above 7fff come as negative ones
			device(passed, 0x0302, 0x10de, 0x1eb8, "NVIDIA Corporation", "Tesla T4"),
			device(own, 0x0300, 0x10de, -25674, "NVIDIA Corporation", ""),
		}
		hardware.PciDevice = append(append([]types.HostPciDevice(nil), hardware.PciDevice...), devices...)
		host.Hardware = &hardware

		info := func(id string, enabled, active bool) types.BaseHostPciPassthruInfo {
			return &types.HostPciPassthruInfo{
				Id: id, DependentDevice: id, PassthruCapable: true, PassthruEnabled: enabled, PassthruActive: active,
			}
		}
		config := *host.Config
		config.PciPassthruInfo = []types.BaseHostPciPassthruInfo{
			&types.HostSriovInfo{
				HostPciPassthruInfo:         *info(adapter, true, true).GetHostPciPassthruInfo(),
				SriovCapable:                true,
				SriovEnabled:                true,
				SriovActive:                 true,
				NumVirtualFunctionRequested: functions,
				NumVirtualFunction:          functions,
				MaxVirtualFunctionSupported: 64,
			},
			info(waiting, true, false), info(passed, true, true), info(own, false, false),
		}
		config.GraphicsInfo = []types.HostGraphicsInfo{{
			DeviceName: "NVIDIA A2", VendorName: "NVIDIA Corporation", PciId: own, GraphicsType: "sharedDirect",
			MemorySizeInKB: 15 << 20, // what error correction leaves
		}}
		for name := range profiles {
			config.SharedPassthruGpuTypes = append(config.SharedPassthruGpuTypes, name)
		}
		host.Config = &config

		target := &types.ConfigTarget{SevSupported: types.NewBool(encrypts)}
		target.VgpuDeviceInfo = []types.VirtualMachineVgpuDeviceInfo{{
			DeviceName: "NVIDIA A2", DeviceVendorId: 0x9bb6_10de, MaxFbSizeInGib: 16, TimeSlicedCapable: true,
		}}
		for name, size := range profiles {
			target.VgpuProfileInfo = append(target.VgpuProfileInfo, types.VirtualMachineVgpuProfileInfo{
				ProfileName: name, DeviceVendorId: 0x9bb6_10de, FbSizeInGib: size, ProfileSharing: "timeSliced",
				ProfileClass: "quadro",
			})
		}
		for at := range devices {
			if devices[at].Id == adapter {
				target.Sriov = append(target.Sriov, types.VirtualMachineSriovInfo{
					VirtualMachinePciPassthroughInfo: types.VirtualMachinePciPassthroughInfo{
						VirtualMachineTargetInfo: types.VirtualMachineTargetInfo{Name: devices[at].Id},
						PciDevice:                devices[at], SystemId: systemOf(number),
					},
					Pnic: "vmnic9",
				})
			}
			if devices[at].Id == adapter || devices[at].Id == passed {
				target.PciPassthrough = append(target.PciPassthrough, &types.VirtualMachinePciPassthroughInfo{
					VirtualMachineTargetInfo: types.VirtualMachineTargetInfo{Name: devices[at].Id},
					PciDevice:                devices[at], SystemId: systemOf(number),
				})
			}
		}
		if cluster, ok := registry.Get(*host.Parent).(*simulator.ClusterComputeResource); ok && cluster.EnvironmentBrowser != nil {
			browser := registry.Get(*cluster.EnvironmentBrowser).(*simulator.EnvironmentBrowser)
			browser.QueryConfigTargetResponse.Returnval = &types.ConfigTarget{SevSupported: target.SevSupported}
		}
		if compute, ok := registry.Get(*host.Parent).(*mo.ComputeResource); ok && compute.EnvironmentBrowser != nil {
			browser := registry.Get(*compute.EnvironmentBrowser).(*simulator.EnvironmentBrowser)
			browser.QueryConfigTargetResponse.Returnval = target
		}
	}
}

func systemOf(number int) string { return fmt.Sprintf("5f0b2a00-0000-0000-0000-%012d", number) }

// devicesOf are the addresses of a machine's devices that its host has passed to it.
func devicesOf(vm *simulator.VirtualMachine) map[string]*types.VirtualPCIPassthroughDeviceBackingInfo {
	found := map[string]*types.VirtualPCIPassthroughDeviceBackingInfo{}
	for _, each := range vm.Config.Hardware.Device {
		card, ok := each.(*types.VirtualPCIPassthrough)
		if !ok {
			continue
		}
		if backing, ok := card.Backing.(*types.VirtualPCIPassthroughDeviceBackingInfo); ok {
			found[backing.Id] = backing
		}
	}
	return found
}

// slicesOf are the profiles of a machine's slices of GPUs.
func slicesOf(vm *simulator.VirtualMachine) (found []string) {
	for _, each := range vm.Config.Hardware.Device {
		if card, ok := each.(*types.VirtualPCIPassthrough); ok {
			if backing, ok := card.Backing.(*types.VirtualPCIPassthroughVmiopBackingInfo); ok {
				found = append(found, backing.Vgpu)
			}
		}
	}
	return found
}

// noSlice is why a machine's slices cannot be had: the GPU takes those of one size, up to its memory.
func (m *machine) noSlice(ctx *simulator.Context) types.BaseMethodFault {
	taken, size := int64(0), int64(0)
	for _, each := range ctx.Map.All("VirtualMachine") {
		other := each.(*simulator.VirtualMachine)
		if other.Self != m.vm.Self && other.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
			continue
		}
		if *other.Runtime.Host != *m.vm.Runtime.Host {
			continue
		}
		for _, name := range slicesOf(other) {
			each, known := profiles[name]
			if !known || (size != 0 && size != each) {
				return new(types.InvalidDeviceBacking)
			}
			size = each
			taken += each
		}
	}
	if taken > 16 {
		return new(types.InsufficientGraphicsResourcesFault)
	}
	return nil
}

// cardsOf are the adapters of which a machine's NICs have a virtual function, once for each NIC.
func cardsOf(vm *simulator.VirtualMachine) (found []string) {
	for _, each := range vm.Config.Hardware.Device {
		card, ok := each.(*types.VirtualSriovEthernetCard)
		if !ok {
			continue
		}
		if card.SriovBacking == nil || card.SriovBacking.PhysicalFunctionBacking == nil {
			found = append(found, "")
		} else {
			found = append(found, card.SriovBacking.PhysicalFunctionBacking.Id)
		}
	}
	return found
}

// noFunction is why a machine's NICs do not get their functions: the adapter has none left.
func (m *machine) noFunction(ctx *simulator.Context) types.BaseMethodFault {
	taken := 0
	for _, each := range ctx.Map.All("VirtualMachine") {
		other := each.(*simulator.VirtualMachine)
		if other.Self != m.vm.Self && other.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
			continue
		}
		if *other.Runtime.Host != *m.vm.Runtime.Host {
			continue
		}
		for _, id := range cardsOf(other) {
			if id != adapter {
				return new(types.InvalidDeviceBacking)
			}
			taken++
		}
	}
	if taken > functions {
		return new(types.InsufficientHostCapacityFault)
	}
	return nil
}

// cannotStart is why a machine with devices of its host does not start: another machine that runs has
// one, the host does not have it so, or not all of its memory is reserved.
func (m *machine) cannotStart(ctx *simulator.Context) types.BaseMethodFault {
	mine := devicesOf(m.vm)
	if slices := slicesOf(m.vm); len(slices) > 0 {
		if fault := m.noSlice(ctx); fault != nil {
			return fault
		}
	} else if len(mine) == 0 && len(cardsOf(m.vm)) == 0 {
		return nil
	}
	if fault := m.noFunction(ctx); fault != nil {
		return fault
	}
	host, ok := ctx.Map.Get(*m.vm.Runtime.Host).(*simulator.HostSystem)
	if !ok {
		return new(types.InvalidState)
	}
	for id, backing := range mine {
		there := false
		for _, each := range host.Config.PciPassthruInfo {
			info := each.GetHostPciPassthruInfo()
			there = there || (info.Id == id && info.PassthruActive)
		}
		for _, each := range host.Hardware.PciDevice {
			same := each.VendorId == backing.VendorId && fmt.Sprint(each.DeviceId) == backing.DeviceId
			there = there && (each.Id != id || same)
		}
		if !there || backing.SystemId == "" {
			return new(types.InvalidDeviceBacking)
		}
	}
	for _, each := range ctx.Map.All("VirtualMachine") {
		other := each.(*simulator.VirtualMachine)
		if other.Self == m.vm.Self || other.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
			continue
		}
		for id := range devicesOf(other) {
			if mine[id] != nil && *other.Runtime.Host == *m.vm.Runtime.Host {
				return &types.DeviceNotSupported{Device: id}
			}
		}
	}
	memory := m.vm.Config.MemoryAllocation
	reserved := memory != nil && memory.Reservation != nil &&
		*memory.Reservation >= int64(m.vm.Config.Hardware.MemoryMB)
	if locked := m.vm.Config.MemoryReservationLockedToMax; !reserved && (locked == nil || !*locked) {
		return &types.GenericVmConfigFault{Reason: "Invalid memory setting: memory reservation should be equal to memsize"}
	}
	return nil
}
