// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

func TestDecide(t *testing.T) {
	run := &state.Run{PID: 7, StartTime: epoch}
	ran := &state.Record{Run: run}
	running := host.Machine{State: host.MachineRunning, PID: 7, StartTime: epoch}
	in := func(s host.MachineState) host.Machine { return host.Machine{State: s} }
	here := func(m host.Machine, r *state.Record) machineFacts {
		return machineFacts{machine: m, present: true, ours: true, record: r, now: epoch}
	}
	with := func(f machineFacts, change func(*machineFacts)) machineFacts { change(&f); return f }
	failed := func(n int, ago time.Duration) *state.Record {
		return &state.Record{BootFailures: n, LastBootFailure: epoch.Add(-ago), BootError: "no boot"}
	}
	tests := map[string]struct {
		facts      machineFacts
		action     action
		reason     string // of the wait
		loss       string
		wantOnlyIn time.Duration // of the wait; 0 is not looked at
	}{
		"absent":                     {machineFacts{}, actCreate, "", "", 0},
		"absent, having run":         {machineFacts{record: ran}, actCreate, "", "it is gone from smolvm", 0},
		"absent, node not ready":     {machineFacts{nodeFault: "kvm"}, actNothing, "NodeNotReady", "", 0},
		"absent, start under way":    {machineFacts{starting: true}, actNothing, "MachineStarting", "", 0},
		"someone else's":             {machineFacts{present: true, machine: running}, actNothing, "MachineConflict", "", 0},
		"someone else's, recreate":   {machineFacts{present: true, machine: running, recreate: true}, actNothing, "MachineConflict", "", 0},
		"created":                    {here(in(host.MachineCreated), &state.Record{}), actStart, "", "", 0},
		"created, node not ready":    {with(here(in(host.MachineCreated), nil), func(f *machineFacts) { f.nodeFault = "kvm" }), actNothing, "NodeNotReady", "", 0},
		"stopped":                    {here(in(host.MachineStopped), &state.Record{}), actStart, "", "", 0},
		"stopped, having run":        {here(in(host.MachineStopped), ran), actStart, "", "its VM ended", 0},
		"stopped, with its own word": {here(host.Machine{State: host.MachineStopped, LastExit: "ended by signal 9"}, ran), actStart, "", "ended by signal 9", 0},
		"lost while the node fails":  {with(here(in(host.MachineStopped), ran), func(f *machineFacts) { f.nodeFault = "kvm" }), actNothing, "NodeNotReady", "its VM ended", 0},
		"failed":                     {here(in(host.MachineFailed), &state.Record{}), actStart, "", "", 0},
		"running":                    {here(running, ran), actNote, "", "", 0},
		"running, node not ready":    {with(here(running, ran), func(f *machineFacts) { f.nodeFault = "kvm" }), actNote, "", "", 0},
		"running, first seen":        {here(running, &state.Record{}), actNote, "", "", 0},
		"running, record lost":       {here(running, nil), actNote, "", "", 0},
		"running, another VMM":       {here(host.Machine{State: host.MachineRunning, PID: 8, StartTime: epoch.Add(time.Hour)}, ran), actNote, "", "it was stopped and started by someone else", 0},
		"running, restart asked":     {with(here(running, ran), func(f *machineFacts) { f.restart = true }), actStop, "", "", 0},
		"running, recreate asked":    {with(here(running, ran), func(f *machineFacts) { f.recreate = true }), actReplace, "", "", 0},
		"recreate, node not ready":   {with(here(running, ran), func(f *machineFacts) { f.recreate, f.nodeFault = true, "kvm" }), actNothing, "NodeNotReady", "", 0},
		"start under way, recreate":  {with(here(in(host.MachineCreated), ran), func(f *machineFacts) { f.recreate, f.starting = true, true }), actNothing, "MachineStarting", "", 0},
		"unreachable once":           {with(here(in(host.MachineUnreachable), ran), func(f *machineFacts) { f.unreachable = 1 }), actNothing, "MachineUnreachable", "", 0},
		"unreachable twice":          {with(here(in(host.MachineUnreachable), ran), func(f *machineFacts) { f.unreachable = 2 }), actNothing, "MachineUnreachable", "", 0},
		"unreachable for good":       {with(here(in(host.MachineUnreachable), ran), func(f *machineFacts) { f.unreachable = 3 }), actStop, "", "it did not answer any more", 0},
		"frozen":                     {here(in(host.MachineFrozen), ran), actNothing, "MachineUnreachable", "", 0},
		"a state of the future":      {here(in(host.MachineUnknown), ran), actNothing, "MachineUnreachable", "", 0},
		"boot failed just now":       {here(in(host.MachineStopped), failed(1, 0)), actNothing, "BootFailed", "", firstPause},
		"boot failed again":          {here(in(host.MachineStopped), failed(3, 0)), actNothing, "BootFailed", "", 4 * firstPause},
		"boot failed long ago":       {here(in(host.MachineStopped), failed(1, firstPause)), actStart, "", "", 0},
		"boot failed very often":     {here(in(host.MachineStopped), failed(90, 0)), actNothing, "BootFailed", "", longestPause},
		"boot failed, restart asked": {with(here(in(host.MachineStopped), failed(9, 0)), func(f *machineFacts) { f.restart = true }), actStart, "", "", 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := decide(tt.facts)
			if d.action != tt.action || d.loss != tt.loss {
				t.Errorf("got %q, loss %q, want %q, loss %q", d.action, d.loss, tt.action, tt.loss)
			}
			if (d.action == actNothing) != (d.wait != nil) {
				t.Fatalf("wait: got %v with action %q", d.wait, d.action)
			}
			if d.wait == nil {
				return
			}
			if d.wait.Reason != tt.reason {
				t.Errorf("reason: got %q, want %q", d.wait.Reason, tt.reason)
			}
			if tt.wantOnlyIn != 0 && d.wait.After != tt.wantOnlyIn {
				t.Errorf("pause: got %s, want %s", d.wait.After, tt.wantOnlyIn)
			}
		})
	}
}

func TestShort(t *testing.T) {
	if got, want := short("a\n b\t c"), "a b c"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	long := make([]rune, 300)
	for i := range long {
		long[i] = 'é'
	}
	if got := short(string(long)); len(got) > 256 {
		t.Errorf("length: got %d, want at most 256", len(got))
	}
}
