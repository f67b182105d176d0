// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
)

func TestDecodeList(t *testing.T) {
	const list = `[
	 {"name":"a","state":"running","pid":7,"created_at":1795364948,"cpus":2,"memory_mib":320,"labels":{"botbottle.dev/uid":"u1","x":"y"},
	  "allowed_cidrs":["192.168.44.2/32"],"network":true,"key_of_tomorrow":{"deep":[1]}},
	 {"name":"b","state":"created","pid":null,"labels":null,"last_exit":null},
	 {"name":"c","state":"hibernating","last_exit":{"cause":"signaled","signal":9,"exited_at_unix_ms":1,"pid":7}},
	 {"name":"d","state":"stopped","last_exit":{"cause":"exited","exit_code":1}},
	 {"name":"e","state":"failed","last_exit":{"cause":"odd\u001b[31m"}},
	 {"name":"f","state":"frozen","last_exit":"text"},
	 {"name":"g","state":7,"pid":"8"},
	 {"name":"h"}
	]`
	all, err := decodeList([]byte(list))
	if err != nil {
		t.Fatal(err)
	}
	var got []host.Machine
	for _, l := range all {
		got = append(got, l.machine())
	}
	want := []host.Machine{
		{Name: "a", UID: "u1", State: host.MachineRunning, CPUs: 2, MemoryMiB: 320, AllowedCIDRs: []string{"192.168.44.2/32"}},
		{Name: "b", State: host.MachineCreated},
		{Name: "c", State: host.MachineUnknown, LastExit: "ended by signal 9"},
		{Name: "d", State: host.MachineStopped, LastExit: "ended with exit code 1"},
		{Name: "e", State: host.MachineFailed, LastExit: "odd"},
		{Name: "f", State: host.MachineFrozen},
		{Name: "g", State: host.MachineUnknown},
		{Name: "h", State: host.MachineUnknown},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("machines (-want +got):\n%s", diff)
	}
	if pid := all[0].pid(); pid != 7 {
		t.Errorf("pid: got %d, want 7", pid)
	}
	for _, bad := range []string{"", "null x", "No machines found", `{"name":"a"}`, `[{"state":"running"}]`, `[7]`} {
		if got, err := decodeList([]byte(bad)); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
	if got, err := decodeList([]byte("[]")); err != nil || len(got) != 0 {
		t.Errorf("[]: got %v, %v, want none", got, err)
	}
}

// counter is an ls that takes a second.
type counter struct{ calls atomic.Int32 }

func (c *counter) ls(ctx context.Context) ([]host.Machine, error) {
	n := c.calls.Add(1)
	if err := sleep(ctx, time.Second); err != nil {
		return nil, err
	}
	return []host.Machine{{Name: "m", CPUs: n, AllowedCIDRs: []string{"x"}}}, nil
}

func TestOneListServesEveryone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lists
		var c counter
		ask := func() int32 {
			got, err := l.get(t.Context(), 5*time.Second, c.ls)
			if err != nil || len(got) != 1 {
				t.Fatalf("got %v, %v, want a list", got, err)
			}
			got[0].AllowedCIDRs[0] = "changed by a caller"
			return got[0].CPUs
		}
		var wait sync.WaitGroup
		for range 100 {
			wait.Go(func() { ask() })
		}
		wait.Wait()
		if n := ask(); n != 1 || c.calls.Load() != 1 {
			t.Errorf("101 askers: got list %d of %d calls, want one call", n, c.calls.Load())
		}
		time.Sleep(6 * time.Second)
		if n := ask(); n != 2 {
			t.Errorf("after its time: got list %d, want a new one", n)
		}
		l.changed()
		if n := ask(); n != 3 {
			t.Errorf("after a write: got list %d, want a new one", n)
		}
		got, _ := l.get(t.Context(), 5*time.Second, c.ls)
		if got[0].AllowedCIDRs[0] != "x" {
			t.Errorf("shared: got %q, want what was listed", got[0].AllowedCIDRs)
		}
	})
}

// A list that began before a write must not answer who asks after it.
func TestAListUnderWayIsNoAnswerAfterAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lists
		var c counter
		early := make(chan int32, 1)
		go func() {
			got, _ := l.get(t.Context(), time.Minute, c.ls)
			early <- got[0].CPUs
		}()
		time.Sleep(500 * time.Millisecond)
		l.changed()
		late, err := l.get(t.Context(), time.Minute, c.ls)
		if err != nil || late[0].CPUs != 2 || <-early != 1 {
			t.Errorf("got %v, %v, want the second list", late, err)
		}
		again, _ := l.get(t.Context(), time.Minute, c.ls)
		if again[0].CPUs != 2 || c.calls.Load() != 2 {
			t.Errorf("later: got list %d of %d, want the second kept", again[0].CPUs, c.calls.Load())
		}
	})
}

func TestAListOutlivesWhoAskedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lists
		var c counter
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := l.get(ctx, time.Minute, c.ls); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("given up: got %v, want the context's error", err)
		}
		if got, err := l.get(t.Context(), time.Minute, c.ls); err != nil || got[0].CPUs != 1 {
			t.Errorf("who waits: got %v, %v, want the first list", got, err)
		}
	})
}

func TestAFailedListIsNotKept(t *testing.T) {
	var l lists
	lost := errors.New("lost")
	if _, err := l.get(t.Context(), time.Minute, func(context.Context) ([]host.Machine, error) { return nil, lost }); !errors.Is(err, lost) {
		t.Errorf("got %v, want %v", err, lost)
	}
	if _, err := l.get(t.Context(), time.Minute, func(context.Context) ([]host.Machine, error) { return nil, nil }); err != nil {
		t.Errorf("then: got %v, want nil", err)
	}
}

func TestParseStat(t *testing.T) {
	const rest = " 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 8675309 1 2 3"
	for in, want := range map[string]uint64{
		"1 (init) S" + rest:            8675309,
		"2 (a b) R) S" + rest:          8675309,
		"3 (x) Z" + rest:               0, // a zombie is gone
		"4 (Z) X" + rest:               0,
		"5 (x) S 1 2":                  0,
		"":                             0,
		"6 (x) S" + rest[:40] + " abc": 0,
	} {
		if got, ok := parseStat([]byte(in)); got != want || ok != (want != 0) {
			t.Errorf("%q: got %d, %v, want %d", in, got, ok, want)
		}
	}
}

func TestBootsFrom(t *testing.T) {
	const dir = "/h/.cache/smolvm/vms/0123456789abcdef"
	for in, want := range map[string]string{
		"/proc/self/exe\x00_boot-vm\x00" + dir + "/boot-config.json\x00": dir,
		"smolvm\x00_boot-vm\x00" + dir + "0/boot-config.json":            dir + "0",
		"x\x00_boot-vm\x00" + dir + "/boot-config.json\x00more\x00":      dir,
		"grep\x00-f\x00_boot-vm\x00" + dir + "/boot-config.json\x00":     "",
		"pgrep\x00_boot-vm " + dir + "/boot-config.json\x00":             "",
		"x\x00_boot-vm": "",
		"":              "",
	} {
		if got, ok := bootsFrom([]byte(in)); got != want || ok != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", in, got, ok, want)
		}
	}
}

func TestReadPIDFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.pid")
	for in, want := range map[string]process{
		"4711\n8675309\n": {4711, 8675309},
		"4711 8675309":    {4711, 8675309},
		"4711\n":          {},
		"":                {},
		"-1\n5\n":         {},
		"0\n5\n":          {},
		"x\n5\n":          {},
		"5\nx\n":          {},
	} {
		if err := os.WriteFile(path, []byte(in), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := readPIDFile(path)
		if (err == nil) != (want != process{}) || err == nil && got != want {
			t.Errorf("%q: got %v, %v, want %v", in, got, err, want)
		}
	}
}
