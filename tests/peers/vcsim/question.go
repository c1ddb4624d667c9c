package main

// A machine with the extraConfig value hvct.question waits with that question when it is switched on,
// until it has an answer: 0 goes on, 1 ends the start. It asks once. So does the next machine that is
// switched on after a request to the control port, whatever its configuration.

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const questionKey = "hvct.question"

// asked has the answer to each machine's question; an empty one until there is one.
var asked sync.Map

// next is what the next machine that is switched on asks; empty if nothing.
var next atomic.Value

func serveQuestion(_ http.ResponseWriter, r *http.Request) { next.Store(r.URL.Query().Get("text")) }

// question is what the machine will ask; empty if nothing, or if it has asked already.
func (m *machine) question() string {
	if _, done := asked.Load(m.vm.Self); done {
		return ""
	}
	if text, _ := next.Swap("").(string); text != "" {
		return text
	}
	for _, each := range m.vm.Config.ExtraConfig {
		if option := each.GetOptionValue(); option.Key == questionKey {
			text, _ := option.Value.(string)
			return text
		}
	}
	return ""
}

// asks waits for the answer to a question, and tells whether the start goes on.
func (m *machine) asks(ctx *simulator.Context, text string) bool {
	choices := []types.BaseElementDescription{
		&types.ElementDescription{Description: types.Description{Label: "button.retry", Summary: "Retry"}, Key: "0"},
		&types.ElementDescription{Description: types.Description{Label: "button.abort", Summary: "Cancel"}, Key: "1"},
	}
	asked.Store(m.vm.Self, "")
	ctx.WithLock(m.vm, func() {
		ctx.Update(m.vm, []types.PropertyChange{{Name: "runtime.question", Val: &types.VirtualMachineQuestionInfo{
			Id: "7", Text: text, Choice: types.ChoiceOption{ChoiceInfo: choices},
		}}})
	})
	answer := any("")
	for answer == "" {
		time.Sleep(5 * time.Millisecond)
		answer, _ = asked.Load(m.vm.Self)
	}
	ctx.WithLock(m.vm, func() {
		ctx.Update(m.vm, []types.PropertyChange{{Name: "runtime.question", Val: nil}})
	})
	return answer == "0"
}

func (m *machine) AnswerVM(_ *simulator.Context, r *types.AnswerVM) soap.HasFault {
	body := &methods.AnswerVMBody{}
	if m.vm.Runtime.Question == nil || m.vm.Runtime.Question.Id != r.QuestionId {
		body.Fault_ = simulator.Fault("", &types.InvalidArgument{InvalidProperty: "questionId"})
		return body
	}
	asked.Store(m.vm.Self, r.AnswerChoice)
	body.Res = new(types.AnswerVMResponse)
	return body
}

// startAsking is PowerOnVM_Task of a machine that asks. The machine can be read meanwhile.
func (m *machine) startAsking(ctx *simulator.Context, text string) soap.HasFault {
	task := simulator.CreateTask(m, "powerOn", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		if !m.asks(ctx, text) {
			return nil, &types.GenericVmConfigFault{Reason: "The start was cancelled."}
		}
		inner := m.PowerOnVMTask(ctx, &types.PowerOnVM_Task{This: m.vm.Self})
		return finished(ctx, inner.(*methods.PowerOnVM_TaskBody).Res.Returnval)
	})
	ref := task.Run(ctx)
	ctx.Map.AtomicUpdate(ctx, task, []types.PropertyChange{{Name: "info.entity", Val: &m.vm.Self}})
	return &methods.PowerOnVM_TaskBody{Res: &types.PowerOnVM_TaskResponse{Returnval: ref}}
}
