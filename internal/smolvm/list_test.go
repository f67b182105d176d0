// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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

func TestParseStat(t *testing.T) {
	const rest = " 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 8675309 1 2 3"
	for in, want := range map[string]uint64{
		"1 (init) S" + rest:   8675309,
		"2 (a b) R) S" + rest: 8675309,
		"3 (x) Z" + rest:      0, // a zombie counts as gone
		"4 (Z) X" + rest:      0,
		// The main thread has exited, the others have not.
		"7 (x) Z" + strings.Replace(rest, " 20 0 1 0 ", " 20 0 2 0 ", 1): 8675309,
		"5 (x) S 1 2":                  0,
		"":                             0,
		"6 (x) S" + rest[:40] + " abc": 0,
	} {
		if got, ok := parseStat([]byte(in)); got != want || ok != (want != 0) {
			t.Errorf("%q: got %d, %v, want %d", in, got, ok, want)
		}
	}
}

func TestParseBootFolder(t *testing.T) {
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
		if got := parseBootFolder([]byte(in)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
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
