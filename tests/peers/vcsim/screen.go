package main

// What the simulator has not: tickets for the screen, pictures of it, the interrupt, and addresses
// that VMware Tools tell.

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

var tickets, pictures atomic.Int64

func (m *machine) AcquireTicket(_ *simulator.Context, r *types.AcquireTicket) soap.HasFault {
	body := &methods.AcquireTicketBody{}
	if fault := m.isOff(); fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	if r.TicketType != "webmks" && r.TicketType != "mks" {
		body.Fault_ = simulator.Fault("", &types.InvalidArgument{InvalidProperty: "ticketType"})
		return body
	}
	body.Res = &types.AcquireTicketResponse{Returnval: types.VirtualMachineTicket{
		Ticket: fmt.Sprintf("ticket-%d", tickets.Add(1)), CfgFile: m.vm.Config.Files.VmPathName,
		Host: "esx.example", Port: 443, SslThumbprint: "00",
	}}
	return body
}

func (m *machine) CreateScreenshotTask(ctx *simulator.Context, _ *types.CreateScreenshot_Task) soap.HasFault {
	task := simulator.CreateTask(m.vm, "createScreenshot", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		if fault := m.isOff(); fault != nil {
			return nil, fault
		}
		var home object.DatastorePath
		home.FromString(m.vm.Config.Files.VmPathName)
		home.Path = filepath.Join(filepath.Dir(home.Path), fmt.Sprintf("screen-%d.png", pictures.Add(1)))
		var picture bytes.Buffer
		_ = png.Encode(&picture, image.NewGray(image.Rect(0, 0, 8, 8)))
		if err := os.WriteFile(fileOn(ctx, m.vm, home.String()), picture.Bytes(), 0o600); err != nil {
			return nil, &types.FileFault{File: home.String()}
		}
		return home.String(), nil
	})
	return &methods.CreateScreenshot_TaskBody{Res: &types.CreateScreenshot_TaskResponse{Returnval: task.Run(ctx)}}
}

func (m *machine) SendNMI(ctx *simulator.Context, _ *types.SendNMI) soap.HasFault {
	body := &methods.SendNMIBody{}
	if fault := m.isOff(); fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	m.say(ctx, "hv-guest: nmi\r\n")
	body.Res = new(types.SendNMIResponse)
	return body
}

// addresses gives each NIC one as soon as VMware Tools are said to run.
func (m *machine) addresses(ctx *simulator.Context, extra []types.BaseOptionValue) {
	for _, each := range extra {
		option := each.GetOptionValue()
		if option.Key != "SET.guest.toolsRunningStatus" {
			continue
		}
		m.tools(ctx, types.VirtualMachineToolsRunningStatus(option.Value.(string)))
		if option.Value != "guestToolsRunning" {
			continue
		}
		found := m.vm.Guest.Net[:0:0]
		for number, nic := range m.vm.Guest.Net {
			address := fmt.Sprintf("192.0.2.%d", number+1)
			nic.Connected = true
			nic.IpAddress = []string{address}
			nic.IpConfig = &types.NetIpConfigInfo{IpAddress: []types.NetIpConfigInfoIpAddress{
				{IpAddress: address, PrefixLength: 24, State: "preferred"},
			}}
			found = append(found, nic)
		}
		ctx.Update(m.vm, []types.PropertyChange{{Name: "guest.net", Val: found}})
	}
}
