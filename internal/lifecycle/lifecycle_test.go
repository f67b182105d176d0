// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestDecide(t *testing.T) {
	run := &state.Run{PID: 7, StartTime: epoch}
	ran := &state.Record{Run: run}
	running := host.Machine{State: host.MachineRunning, PID: 7, StartTime: epoch}
	in := func(s host.MachineState) host.Machine { return host.Machine{State: s} }
	here := func(m host.Machine, r *state.Record) Facts {
		return Facts{Machine: m, Present: true, Ours: true, Record: r, Now: epoch}
	}
	with := func(f Facts, change func(*Facts)) Facts { change(&f); return f }
	failed := func(n int, ago time.Duration) *state.Record {
		return &state.Record{BootFailures: n, LastBootFailure: epoch.Add(-ago), BootError: "no boot"}
	}
	tests := map[string]struct {
		facts      Facts
		action     Action
		reason     string // of the wait
		loss       string
		wantOnlyIn time.Duration // of the wait; 0 is not checked
	}{
		"absent":                         {Facts{}, Create, "", "", 0},
		"absent, having run":             {Facts{Record: ran}, Create, "", "smolvm no longer lists it", 0},
		"absent, node not ready":         {Facts{NodeProblem: "kvm"}, Nothing, "NodeNotReady", "", 0},
		"absent, start under way":        {Facts{Starting: true}, Nothing, "MachineStarting", "", 0},
		"someone else's":                 {Facts{Present: true, Machine: running}, Nothing, "MachineConflict", "", 0},
		"someone else's, recreate":       {Facts{Present: true, Machine: running, Recreate: true}, Nothing, "MachineConflict", "", 0},
		"created":                        {here(in(host.MachineCreated), &state.Record{}), Start, "", "", 0},
		"created, node not ready":        {with(here(in(host.MachineCreated), nil), func(f *Facts) { f.NodeProblem = "kvm" }), Nothing, "NodeNotReady", "", 0},
		"created, differs":               {with(here(in(host.MachineCreated), &state.Record{}), func(f *Facts) { f.Differs = true }), Replace, "", "", 0},
		"created, differs, node fails":   {with(here(in(host.MachineCreated), &state.Record{}), func(f *Facts) { f.Differs, f.NodeProblem = true, "kvm" }), Nothing, "NodeNotReady", "", 0},
		"created, differs, just failed":  {with(here(in(host.MachineCreated), failed(1, 0)), func(f *Facts) { f.Differs = true }), Nothing, "BootFailed", "", firstPause},
		"created, differs, having run":   {with(here(in(host.MachineCreated), &state.Record{FirstRun: epoch}), func(f *Facts) { f.Differs = true }), Start, "", "", 0},
		"stopped, differs":               {with(here(in(host.MachineStopped), ran), func(f *Facts) { f.Differs = true }), Start, "", "its VM ended", 0},
		"stopped":                        {here(in(host.MachineStopped), &state.Record{}), Start, "", "", 0},
		"stopped, having run":            {here(in(host.MachineStopped), ran), Start, "", "its VM ended", 0},
		"stopped, with an exit text":     {here(host.Machine{State: host.MachineStopped, LastExit: "ended by signal 9"}, ran), Start, "", "ended by signal 9", 0},
		"lost while the node fails":      {with(here(in(host.MachineStopped), ran), func(f *Facts) { f.NodeProblem = "kvm" }), Nothing, "NodeNotReady", "its VM ended", 0},
		"failed":                         {here(in(host.MachineFailed), &state.Record{}), Start, "", "", 0},
		"running":                        {here(running, ran), RecordRun, "", "", 0},
		"running, node not ready":        {with(here(running, ran), func(f *Facts) { f.NodeProblem = "kvm" }), RecordRun, "", "", 0},
		"running, first seen":            {here(running, &state.Record{}), RecordRun, "", "", 0},
		"running, record lost":           {here(running, nil), RecordRun, "", "", 0},
		"running, another VMM":           {here(host.Machine{State: host.MachineRunning, PID: 8, StartTime: epoch.Add(time.Hour)}, ran), RecordRun, "", "it was stopped and started by someone else", 0},
		"running, restart requested":     {with(here(running, ran), func(f *Facts) { f.Restart = true }), Stop, "", "", 0},
		"running, recreate requested":    {with(here(running, ran), func(f *Facts) { f.Recreate = true }), Replace, "", "", 0},
		"recreate, node not ready":       {with(here(running, ran), func(f *Facts) { f.Recreate, f.NodeProblem = true, "kvm" }), Nothing, "NodeNotReady", "", 0},
		"start under way, recreate":      {with(here(in(host.MachineCreated), ran), func(f *Facts) { f.Recreate, f.Starting = true, true }), Nothing, "MachineStarting", "", 0},
		"unreachable once":               {with(here(in(host.MachineUnreachable), ran), func(f *Facts) { f.Unreachable = 1 }), Nothing, "MachineUnreachable", "", 0},
		"unreachable twice":              {with(here(in(host.MachineUnreachable), ran), func(f *Facts) { f.Unreachable = 2 }), Nothing, "MachineUnreachable", "", 0},
		"unreachable for good":           {with(here(in(host.MachineUnreachable), ran), func(f *Facts) { f.Unreachable = 3 }), Stop, "", "it stopped answering", 0},
		"frozen":                         {here(in(host.MachineFrozen), ran), Nothing, "MachineUnreachable", "", 0},
		"an unknown state":               {here(in(host.MachineUnknown), ran), Nothing, "MachineUnreachable", "", 0},
		"boot failed just now":           {here(in(host.MachineStopped), failed(1, 0)), Nothing, "BootFailed", "", firstPause},
		"boot failed again":              {here(in(host.MachineStopped), failed(3, 0)), Nothing, "BootFailed", "", 4 * firstPause},
		"boot failed long ago":           {here(in(host.MachineStopped), failed(1, firstPause)), Start, "", "", 0},
		"boot failed very often":         {here(in(host.MachineStopped), failed(90, 0)), Nothing, "BootFailed", "", longestPause},
		"boot failed, restart requested": {with(here(in(host.MachineStopped), failed(9, 0)), func(f *Facts) { f.Restart = true }), Start, "", "", 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := Decide(tt.facts)
			if d.Action != tt.action || d.Loss != tt.loss {
				t.Errorf("got %q, loss %q, want %q, loss %q", d.Action, d.Loss, tt.action, tt.loss)
			}
			if (d.Action == Nothing) != (d.Wait != nil) {
				t.Fatalf("wait: got %v with action %q", d.Wait, d.Action)
			}
			if d.Wait == nil {
				return
			}
			if d.Wait.Reason != tt.reason {
				t.Errorf("reason: got %q, want %q", d.Wait.Reason, tt.reason)
			}
			if tt.wantOnlyIn != 0 && d.Wait.After != tt.wantOnlyIn {
				t.Errorf("pause: got %s, want %s", d.Wait.After, tt.wantOnlyIn)
			}
		})
	}
}

func TestShort(t *testing.T) {
	if got, want := Short("a\n b\t c"), "a b c"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	long := make([]rune, 300)
	for i := range long {
		long[i] = 'é'
	}
	if got := Short(string(long)); len(got) > 256 {
		t.Errorf("length: got %d, want at most 256", len(got))
	}
}
