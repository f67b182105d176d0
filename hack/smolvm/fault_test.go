// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onsi/gomega"

	"botbottle.dev/bottle-operator/test/require"
)

// worldWithMachine returns a world with a created machine "m1".
func worldWithMachine(t *testing.T) *world {
	t.Helper()
	require.Root(t)
	w := newWorld(t, "1.32.2")
	w.ok("machine", "create", "--name", "m1")
	return w
}

func TestStartFaults(t *testing.T) {
	w := worldWithMachine(t)
	w.setFaults(`{"no_kvm": true}`)
	w.fails(1, "start machine: kvm not available: KVM not available.", "machine", "start", "--name", "m1")

	w.setFaults(`{"boot_failures": 2}`)
	for range 2 {
		w.fails(1, "boot process exited (code 1) before the agent was ready", "machine", "start", "--name", "m1")
	}
	v := w.status("m1")
	if exit, _ := v["last_exit"].(map[string]any); v["state"] != "created" || exit["cause"] != "exited" || exit["exit_code"] != float64(1) {
		t.Errorf("after failed boots: got %v, want state created and the last exit", v)
	}
	w.ok("machine", "start", "--name", "m1")
	w.ok("machine", "stop", "--name", "m1")

	w.setFaults(`{"slow_start_ms": 300}`)
	start := time.Now()
	w.ok("machine", "start", "--name", "m1")
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("slow start took %v, want at least 300 ms", took)
	}
}

// vmmPID returns the pid in agent.pid, or 0 if there is none.
func vmmPID(w *world) int {
	return slices.Max(append(vmmPIDs(w), 0))
}

func TestHangingStart(t *testing.T) {
	w := worldWithMachine(t)
	g := gomega.NewWithT(t)
	w.setFaults(`{"start_hang": true}`)
	for signal, left := range map[syscall.Signal]bool{syscall.SIGINT: false, syscall.SIGKILL: true} {
		c := w.command("machine", "start", "--name", "m1")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		g.Eventually(func() int { return vmmPID(w) }).WithTimeout(patience).ShouldNot(gomega.BeZero())
		vmm := vmmPID(w)
		if err := c.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait()
		if got := syscall.Kill(vmm, 0) == nil; got != left {
			t.Errorf("VMM alive after %v: got %v, want %v", signal, got, left)
		}
		if left {
			w.setFaults(`{}`)
			w.ok("machine", "stop", "--name", "m1")
			if syscall.Kill(vmm, 0) == nil {
				t.Errorf("VMM %d survived the stop, want stop to find and kill the orphan", vmm)
			}
			w.setFaults(`{"start_hang": true}`)
		}
	}
}

func TestStartKilledLeavesItsVMM(t *testing.T) {
	w := worldWithMachine(t)
	w.setFaults(`{"start_killed_leaves_vmm": true}`)
	if r := w.run("machine", "start", "--name", "m1"); r.code != -1 {
		t.Errorf("start: got rc %d, want it killed", r.code)
	}
	orphan := vmmPID(w)
	if v := w.status("m1"); v["state"] != "created" || v["pid"] != nil || syscall.Kill(orphan, 0) != nil {
		t.Errorf("got %v, want state created, no pid, and process %d alive", v, orphan)
	}
	w.setFaults(`{}`)
	w.ok("machine", "start", "--name", "m1")
	if syscall.Kill(orphan, 0) == nil {
		t.Errorf("orphan %d is alive in addition to the new VMM %d, want it killed", orphan, w.pid("m1"))
	}
}

func TestStopFaults(t *testing.T) {
	w := worldWithMachine(t)
	w.ok("machine", "start", "--name", "m1")
	w.setFaults(`{"stop_stuck": ["m1"]}`)
	for _, argv := range [][]string{{"machine", "stop", "--name", "m1"}, {"machine", "delete", "--name", "m1", "-f"}} {
		if r := w.run(argv...); r.code != 1 || !strings.Contains(r.errors, "still alive after stop attempts") {
			t.Errorf("%v: got %+v, want the stop to fail", argv, r)
		}
	}
	if v := w.status("m1"); v["state"] != "running" {
		t.Errorf("got %v, want still running", v["state"])
	}
	w.setFaults(`{"unreachable": ["m1"]}`)
	if v := w.status("m1"); v["state"] != "unreachable" {
		t.Errorf("got %v, want unreachable", v["state"])
	}
	w.fails(1, "Error: agent operation failed: connect:", "machine", "exec", "--name", "m1", "--", "true")
	w.setFaults(`{}`)
	if v := w.status("m1"); v["state"] != "unreachable" {
		t.Errorf("got %v after a failed exec, want still unreachable", v["state"])
	}
	if got := w.ok("machine", "stop", "--name", "m1"); !strings.Contains(got, "is unreachable (PID ") {
		t.Errorf("stop: got %q, want it to report that the machine is unreachable", got)
	}
}

// TestFrozenMachineIsUnreachable checks that a machine whose process does not
// answer is unreachable, without any injected fault.
func TestFrozenMachineIsUnreachable(t *testing.T) {
	w := worldWithMachine(t)
	w.ok("machine", "start", "--name", "m1")
	pid := w.pid("m1")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if v := w.status("m1"); v["state"] != "unreachable" {
		t.Errorf("got %v, want unreachable", v["state"])
	}
	if got := w.ok("machine", "start", "--name", "m1"); !strings.Contains(got, "cleaning up.") || w.pid("m1") == pid {
		t.Errorf("start: got %q, want a new VMM instead of %d", got, pid)
	}
}

func TestDatabaseFaults(t *testing.T) {
	w := worldWithMachine(t)
	w.setFaults(`{"database_locked": 2}`)
	w.ok("machine", "ls")
	w.fails(1, "Error: database operation failed: reserve vm 'm2': database is locked", "machine", "create", "--name", "m2")
	w.fails(1, "Error: database operation failed: remove vm 'm1': database is locked", "machine", "delete", "--name", "m1", "-f")
	w.ok("machine", "create", "--name", "m2")
}

func TestListFaults(t *testing.T) {
	w := worldWithMachine(t)
	w.setFaults(`{"json_extra_keys": true, "unknown_state": ["m1"], "stderr_noise": true, "image_seed_machine": true, "slow_ls_ms": 200}`)
	start := time.Now()
	r := w.run("machine", "ls", "--json")
	if took := time.Since(start); took < 200*time.Millisecond {
		t.Errorf("slow ls took %v, want at least 200 ms", took)
	}
	var got []map[string]any
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 0 || len(got) != 2 {
		t.Fatalf("got rc %d, %v, %v, want two machines", r.code, got, err)
	}
	if name, _ := got[0]["name"].(string); !strings.HasPrefix(name, "image-seed-") {
		t.Errorf("got %v, want an image seed first", name)
	}
	if _, extra := got[1]["zz_future"]; !extra || got[1]["state"] != "hibernating" {
		t.Errorf("got %v, want an unknown key and an unknown state", got[1])
	}
	if !strings.Contains(r.errors, "\x1b[33m WARN\x1b[0m") {
		t.Errorf("stderr: got %q, want a coloured warning", r.errors)
	}
	w.setFaults(`{"slow_ls": 200}`)
	w.fails(1, "unknown field", "machine", "ls")
}

func TestCallLog(t *testing.T) {
	w := newWorld(t, "1.32.2")
	w.ok("machine", "ls")
	w.write(".standin/log-calls", "")
	w.ok("machine", "create", "--name", "m1", "-e", "A=hunter2", "--env=B=hunter2", "-eC=hunter2")
	w.fails(1, "vm not found", "machine", "stop", "--name", "m2")
	b, err := os.ReadFile(w.home + "/.standin/calls.jsonl")
	if err != nil || strings.Contains(string(b), "hunter2") {
		t.Fatalf("got %s, %v, want a log without values", b, err)
	}
	var codes []int
	for line := range strings.Lines(string(b)) {
		var c struct {
			Argv []string `json:"argv"`
			Time string   `json:"time"`
			Code int      `json:"exit_code"`
		}
		if err := json.Unmarshal([]byte(line), &c); err != nil || c.Argv[0] != "machine" || c.Time == "" {
			t.Errorf("got %s, %v, want argv and time", line, err)
		}
		codes = append(codes, c.Code)
	}
	if !slices.Equal(codes, []int{0, 1}) {
		t.Errorf("got exit codes %v, want 0 and 1", codes)
	}
}
