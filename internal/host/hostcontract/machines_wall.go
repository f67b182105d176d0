// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"botbottle.dev/bottle-operator/internal/host"
)

// machinePersisted checks that the persisted policy is exactly the policy in the
// Smolfile.
func machinePersisted(t *testing.T, f MachinesFixture) {
	m, ctx := newMachine(t, f), t.Context()
	_, err := f.Machines.Policy(ctx, m.name)
	wantKind(t, "absent", err, host.ErrNotFound)
	m.create(t)
	open := newMachine(t, f)
	open.spec.Smolfile = writeFile(t, f, "Smolfile", "env = [\"A=1\"]\n")
	open.create(t)
	for x, want := range map[*testMachine]host.Policy{m: {AllowedCIDRs: []string{"192.168.44.2/32"}}, open: {}} {
		got, err := f.Machines.Policy(ctx, x.name)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("policy: %v (-want +got):\n%s", err, diff)
		}
	}
	if err := f.Machines.DeleteMachine(ctx, m.name); err != nil {
		t.Fatal(err)
	}
	_, err = f.Machines.Policy(ctx, m.name)
	wantKind(t, "deleted", err, host.ErrNotFound)
	_, err = f.Machines.Policy(ctx, "image-seed-0123abcd")
	wantKind(t, "foreign machine", err, host.ErrInvalid)
}

func machineDenials(t *testing.T, f MachinesFixture) {
	m, ctx := newMachine(t, f), t.Context()
	m.create(t)
	_, err := f.Machines.Denials(ctx, "image-seed-0123abcd")
	wantKind(t, "foreign machine", err, host.ErrInvalid)
	if v, _ := f.Machines.Version(ctx); !v.EgressEvents {
		_, err := f.Machines.Denials(ctx, m.name)
		wantKind(t, v.Version, err, host.ErrUnsupported)
		return
	}
	for what, name := range map[string]string{"none": m.name, "unknown": newOwner("absent").ID()} {
		if got, err := f.Machines.Denials(ctx, name); err != nil || len(got) > 0 {
			t.Errorf("%s: got %v, %v, want no denials", what, got, err)
		}
	}
	var want []host.Denial
	for i := range host.MaxDenials + 5 {
		addr := netip.MustParseAddr("203.0.113.7")
		if i%2 == 0 {
			addr = netip.MustParseAddr("2001:db8::7")
		}
		want = append(want, host.Denial{Time: time.Unix(1_790_000_000+int64(i), 0).UTC(), Dest: netip.AddrPortFrom(addr, uint16(i+1))})
	}
	denied := 0
	for _, upTo := range []int{3, len(want)} {
		f.Deny(t, m.name, want[denied:upTo])
		denied = upTo
		got, err := f.Machines.Denials(ctx, m.name)
		newest := want[max(0, upTo-host.MaxDenials):upTo]
		if diff := cmp.Diff(newest, got, cmpopts.EquateComparable(netip.AddrPort{})); err != nil || diff != "" {
			t.Errorf("after %d: %v (-want +got):\n%.2000s", upTo, err, diff)
		}
	}
}

// machineNoVMM checks VMMs and KillMachine for machines that have no VMM.
func machineNoVMM(t *testing.T, f MachinesFixture) {
	m, ctx := newMachine(t, f), t.Context()
	m.create(t)
	for _, names := range [][]string{nil, {m.name, newOwner("absent").ID()}} {
		if got, err := f.Machines.VMMs(ctx, names); err != nil || len(got) > 0 {
			t.Errorf("VMMs of %q: got %v, %v, want none", names, got, err)
		}
	}
	for _, name := range []string{m.name, newOwner("absent").ID()} {
		if err := f.Machines.KillMachine(ctx, name); err != nil {
			t.Errorf("kill %s: got %v, want nil", name, err)
		}
	}
	wantKind(t, "kill a foreign machine", f.Machines.KillMachine(ctx, "image-seed-0123abcd"), host.ErrInvalid)
	if got, ok := m.find(t); !ok || got.State != host.MachineCreated {
		t.Errorf("afterwards: got %+v, want it unchanged", got)
	}
}

// machineNoNetNS checks that a machine is not started if its network namespace
// does not exist.
func machineNoNetNS(t *testing.T, f MachinesFixture) {
	m := newMachine(t, f)
	m.create(t)
	for what, path := range map[string]string{"absent": filepath.Join(f.Dir, "nonexistent"), "plain file": m.spec.Smolfile} {
		wantKind(t, what, f.Machines.StartMachine(t.Context(), m.name, path), host.ErrUnavailable)
		if got, ok := m.find(t); !ok || got.State != host.MachineCreated {
			t.Errorf("%s: got %+v, want it still created", what, got)
		}
	}
}

// wantVMMs checks the VMMs of all these machines. A machine may have other
// processes than its wanted VMM, but only in the same namespace.
func wantVMMs(t *testing.T, f MachinesFixture, names []string, want ...host.VMM) {
	t.Helper()
	got, err := f.Machines.VMMs(t.Context(), names)
	if err != nil {
		t.Fatalf("VMMs: %v", err)
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("VMMs: got %+v, want %+v among them", got, w)
		}
	}
	for _, g := range got {
		if !slices.ContainsFunc(want, func(w host.VMM) bool { return w.Name == g.Name && w.NetNS == g.NetNS }) {
			t.Errorf("VMMs: got %+v, want only those of %+v", g, want)
		}
	}
}

// machineCgroup checks that every process of a machine is in the cgroup with the
// machine's name.
func machineCgroup(t *testing.T, f MachinesFixture) {
	if f.Cgroup == nil {
		t.Fatal("fixture: Cgroup is nil; only a fake may do without it, by MachineOptions.WithoutCgroups")
	}
	m, other := newMachine(t, f), newMachine(t, f)
	m.create(t)
	other.create(t)
	for range 2 {
		for _, x := range []*testMachine{m, other} {
			pid := x.start(t).PID
			if got := f.Cgroup(t, pid); got != x.name {
				t.Errorf("process %d of %s: got cgroup %q, want %q", pid, x.name, got, x.name)
			}
		}
		vmms, err := f.Machines.VMMs(t.Context(), []string{m.name, other.name})
		if err != nil || len(vmms) < 2 {
			t.Fatalf("VMMs: got %+v, %v, want at least two", vmms, err)
		}
		for _, v := range vmms {
			if got := f.Cgroup(t, v.PID); got != v.Name {
				t.Errorf("process %d of %s: got cgroup %q, want %q", v.PID, v.Name, got, v.Name)
			}
		}
		if err := f.Machines.StopMachine(t.Context(), m.name); err != nil {
			t.Fatal(err)
		}
	}
}

// machineNetNS checks that a machine is in the network namespace in which it was
// started.
func machineNetNS(t *testing.T, f MachinesFixture) {
	walled, free := newMachine(t, f), newMachine(t, f)
	path, inside := f.NetNS(t)
	walled.create(t)
	free.create(t)
	names := []string{walled.name, free.name, newOwner("absent").ID()}
	one := walled.startIn(t, path)
	in := host.VMM{Name: walled.name, PID: one.PID, StartTime: one.StartTime, NetNS: inside}
	wantVMMs(t, f, names, in)
	two := free.start(t)
	_, own := f.OwnNetNS(t)
	out := host.VMM{Name: free.name, PID: two.PID, StartTime: two.StartTime, NetNS: own}
	if own == inside {
		t.Fatalf("namespaces: got %v for both, want two different ones", own)
	}
	wantVMMs(t, f, names, in, out)
	wantVMMs(t, f, names[1:], out)
	walled.startIn(t, "") // it is running already, so it does not move
	wantVMMs(t, f, names, in, out)
	if err := f.Machines.StopMachine(t.Context(), walled.name); err != nil {
		t.Fatal(err)
	}
	wantVMMs(t, f, names, out)
	three := walled.startIn(t, path)
	in.PID, in.StartTime = three.PID, three.StartTime
	wantVMMs(t, f, names, in, out)
}

func machineKillMachine(t *testing.T, f MachinesFixture) {
	m, other, ctx := newMachine(t, f), newMachine(t, f), t.Context()
	m.create(t)
	other.create(t)
	killed, survivor := m.start(t), other.start(t)
	exits := make(chan string, 1)
	if err := f.Machines.WatchExit(ctx, killed, func(name string) { exits <- name }); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Machines.KillMachine(ctx, m.name); err != nil {
			t.Fatalf("kill: got %v, want nil", err)
		}
		if got, err := f.Machines.VMMs(ctx, []string{m.name}); err != nil || len(got) > 0 {
			t.Errorf("killed: got %v, %v, want no VMM", got, err)
		}
	}
	waitExit(t, exits, m.name)
	if got, ok := m.find(t); !ok || got.State == host.MachineRunning || got.PID != 0 {
		t.Errorf("killed: got %+v, want it listed, down and without a process", got)
	}
	if got, _ := other.find(t); got.PID != survivor.PID {
		t.Errorf("the other machine: got %+v, want it still in process %d", got, survivor.PID)
	}
	m.start(t)
	m.exec(t, "true")
}

// machineMounts checks that the guest can read a folder of the node, but not
// write to it.
func machineMounts(t *testing.T, f MachinesFixture) {
	m, ctx := newMachine(t, f), t.Context()
	source, err := os.MkdirTemp(f.Dir, "mount-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(source, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(source, "ca.pem"), []byte("a certificate\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.spec.Mounts = []host.Mount{{Source: source, Target: "/run/bottle-ca"}}
	m.create(t)
	m.start(t)
	if got := m.exec(t, "cat", "/run/bottle-ca/ca.pem"); got != "a certificate\n" {
		t.Errorf("in the guest: got %q, want the file", got)
	}
	code, err := f.Machines.Exec(ctx, m.name, host.ExecRequest{Command: []string{"sh", "-c", "cat >/run/bottle-ca/ca.pem"}})
	if err != nil || code == 0 {
		t.Errorf("write: got %d, %v, want it refused", code, err)
	}
	if b, err := os.ReadFile(filepath.Join(source, "ca.pem")); err != nil || string(b) != "a certificate\n" {
		t.Errorf("on the node: got %q, %v, want it unchanged", b, err)
	}
}

// machineWritableMount checks that the guest can write to a folder of the node that is
// mounted writable, with whatever user its VMM runs as.
func machineWritableMount(t *testing.T, f MachinesFixture) {
	m := newMachine(t, f)
	source, err := os.MkdirTemp(f.Dir, "mount-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(source, 0o777); err != nil {
		t.Fatal(err)
	}
	m.spec.Mounts = []host.Mount{{Source: source, Target: "/run/bottle-out", Writable: true}}
	m.create(t)
	m.start(t)
	req := host.ExecRequest{Command: []string{"sh", "-c", "cat >/run/bottle-out/report"}, Stdin: strings.NewReader("done\n")}
	if code, err := f.Machines.Exec(t.Context(), m.name, req); err != nil || code != 0 {
		t.Fatalf("write: got %d, %v, want success", code, err)
	}
	if b, err := os.ReadFile(filepath.Join(source, "report")); err != nil || string(b) != "done\n" {
		t.Errorf("on the node: got %q, %v, want what the guest wrote", b, err)
	}
}

// machineProgram checks that a program of 3 MiB can be copied into the guest, run,
// written to and read from.
func machineProgram(t *testing.T, f MachinesFixture) {
	m, ctx := newMachine(t, f), t.Context()
	program, err := os.ReadFile(f.Program)
	if err != nil {
		t.Fatal(err)
	}
	// The kernel ignores the padding after the program.
	program = append(program, bytes.Repeat([]byte("padding\n"), max(0, 3<<20-len(program))/8)...)
	from := writeFile(t, f, "program", string(program))
	m.create(t)
	m.start(t)
	in := bytes.Repeat([]byte("one line of a request\n"), 5000)
	for _, to := range []string{"/tmp/busybox", "/run/busybox"} {
		if err := f.Machines.Copy(ctx, m.name, from, to); err != nil {
			t.Fatalf("copy to %s: %v", to, err)
		}
		var out, errs bytes.Buffer
		req := host.ExecRequest{Command: []string{to, "cat"}, Stdin: bytes.NewReader(in), Stdout: &out, Stderr: &errs, Timeout: 2 * time.Minute}
		if code, err := f.Machines.Exec(ctx, m.name, req); err != nil || code != 0 || !bytes.Equal(out.Bytes(), in) || errs.Len() > 0 {
			t.Errorf("%s: got %d, %v, %d bytes, stderr %q, want the input back", to, code, err, out.Len(), errs.String())
		}
	}
}
