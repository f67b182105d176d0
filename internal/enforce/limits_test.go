// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/egress"
)

// close sets limits that close these networks, below a ceiling if there is one.
func (f *fixture) close(ceiling []string, networks ...string) {
	f.t.Helper()
	l := egress.Limits{}
	for _, n := range networks {
		l.Closed = append(l.Closed, egress.Closed{Network: netip.MustParsePrefix(n), By: egress.ByNode})
	}
	if ceiling != nil {
		s := rules(f.t, ceiling...)
		l.Ceiling = &s
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limits = l
}

// file returns the rules that the bundle reads.
func (f *fixture) file() egress.Set {
	f.t.Helper()
	folder, err := f.dir.Folder(uid)
	if err != nil {
		f.t.Fatal(err)
	}
	data, err := folder.Rules()
	if err != nil {
		f.t.Fatal(err)
	}
	s, err := egress.DecodeFile(bytes.NewReader(data))
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (f *fixture) wantClosed(address string, want bool) {
	f.t.Helper()
	err := f.file().CheckAddr(netip.MustParseAddr(address), 443)
	if (egress.ClosedReason(err) == egress.ByNode) != want {
		f.t.Errorf("%s: got %v, want closed %t", address, err, want)
	}
}

// Every way of writing rules applies the limits.
func TestLimitsApplyToEveryWrite(t *testing.T) {
	f := newFixture(t)
	f.close([]string{"a.example.com", "b.example.com", "203.0.113.0/24"}, "203.0.113.9/32")
	if err := f.open(1, "a.example.com", "b.example.com", "evil.test", "203.0.113.9", "203.0.113.8"); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"a.example.com:443", "b.example.com:443", "203.0.113.8:443"}, f.rulesInForce()); d != "" {
		t.Errorf("opened (-want +got):\n%s", d)
	}
	f.wantClosed("203.0.113.9", true)
	if err := f.file().Refusal("evil.test", 443); egress.ClosedReason(err) != egress.ByCeiling {
		t.Errorf("evil.test: got %v, want the ceiling", err)
	}
	f.close([]string{"a.example.com", "203.0.113.0/24"}, "203.0.113.8/32")
	if err := f.narrow(2, []int32{8888}, "a.example.com", "b.example.com", "203.0.113.8"); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"a.example.com:443"}, f.rulesInForce()); d != "" {
		t.Errorf("narrowed (-want +got):\n%s", d)
	}
	f.wantClosed("203.0.113.8", true)
	f.wantClosed("203.0.113.9", true) // narrowing opens nothing
	if err := f.open(2, "a.example.com"); err != nil {
		t.Fatal(err)
	}
	f.wantClosed("203.0.113.8", true)
	f.wantClosed("203.0.113.9", false) // the node does not have it any more
}

// Changed limits apply immediately to what runs, without a change of the Bottle.
func TestApplyLimits(t *testing.T) {
	f := newFixture(t)
	if err := f.open(1, "a.example.com", "172.17.0.1:2375", "0.0.0.0/0"); err != nil {
		t.Fatal(err)
	}
	f.wantClosed("172.17.0.1", false)
	f.mu.Lock()
	f.changed = nil
	f.mu.Unlock()
	f.faults.ResetCalls()
	f.close(nil, "172.17.0.1/32", "198.51.100.9/32")
	if err := f.enforcer.ApplyLimits(); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"a.example.com:443", "0.0.0.0/0:443"}, f.rulesInForce()); d != "" {
		t.Errorf("rules (-want +got):\n%s", d)
	}
	f.wantClosed("198.51.100.9", true)
	if err := f.file().Refusal("172.17.0.1", 2375); egress.ClosedReason(err) != egress.ByNode {
		t.Errorf("the refused rule: got %v, want the reason to be known to the bundle", err)
	}
	f.mu.Lock()
	if !slices.Contains(f.changed, uid) {
		t.Error("notified: got nothing, want the Bottle, whose conditions change")
	}
	f.mu.Unlock()
	if got := f.faults.Calls(); len(got) != 0 {
		t.Errorf("calls: got %q, want none", got)
	}
	f.wantRuns(true)
	// A ceiling applies in the same way, and so do the limits of the next agent.
	f.restart()
	f.close([]string{"b.example.com"}, "172.17.0.1/32")
	if err := f.enforcer.ApplyLimits(); err != nil {
		t.Fatal(err)
	}
	if got := f.rulesInForce(); len(got) != 0 {
		t.Errorf("rules under the ceiling: got %q, want none", got)
	}
	f.wantClosed("198.51.100.9", true)
}

// Rules that do not fit into a file together with what is closed open nothing.
func TestLimitsThatDoNotFit(t *testing.T) {
	f := newFixture(t)
	if err := f.open(1, "a.example.com"); err != nil {
		t.Fatal(err)
	}
	l := egress.Limits{}
	for i := range 1 << 18 {
		a := netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)})
		l.Closed = append(l.Closed, egress.Closed{Network: netip.PrefixFrom(a, 32), By: egress.ByNode})
	}
	f.mu.Lock()
	f.limits = l
	f.mu.Unlock()
	if err := f.enforcer.ApplyLimits(); err != nil {
		t.Fatal(err)
	}
	if got := f.rulesInForce(); len(got) != 0 {
		t.Errorf("rules: got %q, want none", got)
	}
	if err := f.open(1, "a.example.com"); err == nil || !strings.Contains(err.Error(), "rules file") {
		t.Errorf("opened: got %v, want an error about the file's size", err)
	}
}

// One Bottle whose file cannot be written does not keep the limits from the others,
// and the error makes the caller try again.
func TestApplyLimitsDoesNotWaitForABrokenFolder(t *testing.T) {
	f := newFixture(t)
	if err := f.open(1, "172.17.0.1:2375"); err != nil {
		t.Fatal(err)
	}
	other := owner()
	other.UID = "2a2b3c4d-0000-4000-8000-000000000000"
	folder, err := f.dir.Folder(other.UID)
	if err != nil {
		t.Fatal(err)
	}
	if err := folder.Ensure(other); err != nil {
		t.Fatal(err)
	}
	if err := f.enforcer.OpenRules(other, 1, rules(t, "a.example.com")); err != nil {
		t.Fatal(err)
	}
	path := folder.BundleDir() + "/egress.json"
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o755)); err != nil {
		t.Fatal(err)
	}
	f.close(nil, "172.17.0.1/32")
	if err := f.enforcer.ApplyLimits(); err == nil || !strings.Contains(err.Error(), other.UID) {
		t.Errorf("got %v, want an error that names the Bottle", err)
	}
	if got := f.rulesInForce(); len(got) != 0 {
		t.Errorf("the other Bottle's rules: got %q, want none", got)
	}
}

// An agent that cannot read what its predecessor recorded about a wall applies the
// limits to the guest's rules nevertheless.
func TestLimitsWithoutAReadableWall(t *testing.T) {
	f := newFixture(t)
	if err := f.open(1, "172.17.0.1:2375", "a.example.com"); err != nil {
		t.Fatal(err)
	}
	folder, err := f.dir.Folder(uid)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(folder.BundleDir()), "wall.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.restart()
	f.close(nil, "172.17.0.1/32")
	if err := f.enforcer.ApplyLimits(); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"a.example.com:443"}, f.rulesInForce()); d != "" {
		t.Errorf("rules (-want +got):\n%s", d)
	}
}
