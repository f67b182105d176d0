// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/runner"
)

func TestOnlyStartUsesNetworkNamespace(t *testing.T) {
	c, d := newCLI(t, "1.32.2")
	name := specOf("demo").Owner.ID()
	c.states[name] = "created"
	if err := d.StartMachine(t.Context(), name, "/run/netns/x"); err != nil {
		t.Fatal(err)
	}
	for _, call := range c.calls {
		want := ""
		if verb(call) == "start" {
			want = "/run/netns/x"
		}
		if call.NetNS != want {
			t.Errorf("%s: got namespace %q, want %q", verb(call), call.NetNS, want)
		}
	}
	c.states[name] = "stopped"
	d.runner = noNetNS{c}
	err := d.StartMachine(t.Context(), name, "/run/netns/gone")
	if !errors.Is(err, host.ErrUnavailable) || errors.Is(err, host.ErrBootFailed) || !strings.Contains(err.Error(), "network namespace") {
		t.Errorf("missing namespace: got %v, want ErrUnavailable and a text that names the network namespace", err)
	}
}

// noNetNS is a runner that cannot enter any network namespace.
type noNetNS struct{ runner.Runner }

func (n noNetNS) Run(ctx context.Context, c runner.Command) (runner.Result, error) {
	if c.NetNS != "" {
		return runner.Result{}, &runner.Error{Err: fmt.Errorf("%w: no such file", runner.ErrNetNS)}
	}
	return n.Runner.Run(ctx, c)
}

func TestVMMs(t *testing.T) {
	_, d := newNode(t, "1.32.2")
	const name, other = "bottle-demo-1a2b3c4d", "bottle-other-1a2b3c4d"
	first, _ := vmmIn(t, d, name)
	second, _ := spawn(t, "_boot-vm", d.dataDir(name)+"/boot-config.json") // a stray
	zombie, _ := vmmIn(t, d, name)
	third, _ := vmmIn(t, d, other)
	vmmIn(t, d, "bottle-third-1a2b3c4d")
	if err := syscall.Kill(zombie.pid, syscall.SIGKILL); err != nil { // without reaping it
		t.Fatal(err)
	}
	for zombie.alive() {
		time.Sleep(time.Millisecond)
	}
	var want []host.VMM
	for _, p := range []machineProcess{{first, name}, {second, name}, {third, other}} {
		ns, err := netnsOf(p.pid)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, host.VMM{Name: p.name, PID: p.pid, StartTime: d.booted.at(p.ticks), NetNS: ns})
	}
	got, err := d.VMMs(t.Context(), []string{other, name, "bottle-none-1a2b3c4d", "no/machine"})
	byPID := cmpopts.SortSlices(func(a, b host.VMM) bool { return a.PID < b.PID })
	if diff := cmp.Diff(want, got, byPID); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// A call in progress on a machine blocks neither VMMs nor KillMachine.
func TestKillMachineDoesNotWait(t *testing.T) {
	c, d := newNode(t, "0.8.0") // the release that serializes most
	const name = "bottle-demo-1a2b3c4d"
	c.states[name] = "created"
	c.bootTime = time.Minute
	started := make(chan error, 1)
	go func() { started <- d.StartMachine(t.Context(), name, "") }()
	for !slices.Contains(c.verbs(), "start") {
		time.Sleep(time.Millisecond)
	}
	p, reap := spawn(t, "_boot-vm", d.dataDir(name)+"/boot-config.json")
	before := len(c.verbs())
	began := time.Now()
	if got, err := d.VMMs(t.Context(), []string{name}); err != nil || len(got) != 1 || got[0].PID != p.pid {
		t.Errorf("VMMs: got %+v, %v, want process %d", got, err, p.pid)
	}
	if err := d.KillMachine(t.Context(), name); err != nil {
		t.Errorf("kill: got %v, want nil", err)
	}
	if _, alive := startTicks(p.pid); alive || time.Since(began) > 20*time.Second {
		t.Errorf("process %d: got alive %v after %v, want it gone immediately", p.pid, alive, time.Since(began))
	}
	reap()
	select {
	case err := <-started:
		t.Errorf("start: got %v, want it still in progress", err)
	default:
	}
	if n := len(c.verbs()); n != before {
		t.Errorf("calls of smolvm: got %d, want none", n-before)
	}
}

func TestDecodeDenials(t *testing.T) {
	at := time.Date(2026, 8, 13, 2, 31, 5, 123456000, time.UTC)
	long := `{"timestamp":"","operation":"connect","dest":"10.0.0.1:1"},`
	for in, want := range map[string][]host.Denial{
		`[]`: nil,
		`[{"timestamp":"2026-08-13T02:31:05.123456Z","operation":"connect","dest":"93.184.215.14:443"}]`: {{Time: at, Dest: netip.MustParseAddrPort("93.184.215.14:443")}},
		`[{"timestamp":"","operation":"sendto","dest":"[fe80::1]:53"},{"dest":"1.2.3.4:5","key":{}}]`: {
			{Dest: netip.MustParseAddrPort("[fe80::1]:53")}, {Dest: netip.MustParseAddrPort("1.2.3.4:5")}},
		`[{"dest":"\"evil\", and more"},{"dest":7},{"dest":"host.name:80"},{"dest":"1.2.3.4"},{},{"timestamp":5,"dest":"1.2.3.4:5"}]`: {
			{Dest: netip.MustParseAddrPort("1.2.3.4:5")}},
		`[` + strings.Repeat(long, 1500) + `{"dest":"9.9.9.9:9"}]`: append(
			slices.Repeat([]host.Denial{{Dest: netip.MustParseAddrPort("10.0.0.1:1")}}, 999), host.Denial{Dest: netip.MustParseAddrPort("9.9.9.9:9")}),
	} {
		got, err := decodeDenials([]byte(in))
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); err != nil || diff != "" {
			t.Errorf("%.200s: %v (-want +got):\n%.2000s", in, err, diff)
		}
	}
	for _, in := range []string{"", "{}", "null and void", `["x"]`} {
		if got, err := decodeDenials([]byte(in)); err == nil {
			t.Errorf("%q: got %v, want an error", in, got)
		}
	}
}

func TestDenialsArgs(t *testing.T) {
	c, d := newCLI(t, "1.8.1")
	const name = "bottle-demo-1a2b3c4d"
	_, err := d.Denials(t.Context(), name)
	if got := strings.Join(c.calls[len(c.calls)-1].Args, " "); got != "machine egress-events --name="+name+" --json --limit=1000" || !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("got %q, %v, want a bounded list, and ErrUnavailable for an invalid answer", got, err)
	}
	_, d = newCLI(t, "1.8.0")
	if _, err := d.Denials(t.Context(), name); !errors.Is(err, host.ErrUnsupported) {
		t.Errorf("1.8.0: got %v, want ErrUnsupported", err)
	}
}
