// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
)

// WallsFixture is an implementation of host.Walls and its environment. Whatever a
// test creates with these functions is removed at the end of the test.
type WallsFixture struct {
	Walls host.Walls
	// Bundle creates the bridge of the wall's network, and a bundle on it that
	// listens on every port. The bridge must not exist.
	Bundle func(t *testing.T, spec host.WallSpec)
	// RemoveBridge removes that bridge.
	RemoveBridge func(t *testing.T, spec host.WallSpec)
	// PutForeign creates an object of one of the ForeignKinds with the owner's
	// names, as somebody else or the agent of another cluster would. found
	// reports whether the object still exists.
	PutForeign func(t *testing.T, owner host.Owner, kind string) (found func() bool)
	// Open breaks a wall so that the machine could reach more.
	Open func(t *testing.T, spec host.WallSpec)
	// Connect connects from inside the namespace to a port of the bundle.
	Connect func(t *testing.T, spec host.WallSpec, port int32)
	// Elsewhere connects to a port of the bundle's Pod from outside of the Pod. It is nil if
	// bundles are in no Pods: then programs of the node may connect.
	Elsewhere func(t *testing.T, spec host.WallSpec, port int32) error
	// Knock sends packets to a destination from inside the namespace.
	Knock func(t *testing.T, spec host.WallSpec, d host.Drop)
}

// ForeignKinds are the kinds of objects that can conflict with a wall.
var ForeignKinds = []string{
	"namespace", "folder", "link", "link of another cluster's", "namespace of another cluster's", "table of another cluster's",
}

// TestWalls runs the suite, with a new fixture for every test.
func TestWalls(t *testing.T, fixture func(t *testing.T) WallsFixture) {
	tests := []struct {
		name string
		run  func(t *testing.T, f WallsFixture)
	}{
		{"create, find, delete", wallLife},
		{"absent", wallAbsent},
		{"without a bridge", wallWithoutBridge},
		{"another spec keeps the namespace", wallChanged},
		{"an opened wall is repaired", wallOpened},
		{"accepted packets are counted by port", wallAccepted},
		{"nobody else connects", wallElsewhere},
		{"dropped packets are counted by destination", wallDropped},
		{"foreign objects are reported and not changed", wallForeign},
		{"several walls are read in order", wallSeveral},
		{"many in parallel", wallParallel},
		{"never observed half made", wallHalfMade},
		{"watch", wallWatch},
		{"cancelled", wallCancelled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, fixture(t)) })
	}
}

// newWall returns the spec of a wall on the subnet 192.168.third.0/24, with an
// owner that no other test has.
func newWall(third int) host.WallSpec {
	return host.WallSpec{
		Owner:     newOwner("demo"),
		Subnet:    netip.MustParsePrefix(fmt.Sprintf("192.168.%d.0/24", third)),
		BundleIP:  netip.MustParseAddr(fmt.Sprintf("192.168.%d.2", third)),
		MachineIP: netip.MustParseAddr(fmt.Sprintf("192.168.%d.3", third)),
		Ports:     []int32{8888, 9418},
	}
}

// madeWall makes a wall, which is deleted at the end of the test.
func madeWall(t *testing.T, f WallsFixture, third int) (host.WallSpec, host.Wall) {
	t.Helper()
	spec := newWall(third)
	f.Bundle(t, spec)
	return spec, ensureWall(t, f, spec)
}

func ensureWall(t *testing.T, f WallsFixture, spec host.WallSpec) host.Wall {
	t.Helper()
	t.Cleanup(func() {
		if err := f.Walls.DeleteWall(context.WithoutCancel(t.Context()), spec.Owner); err != nil {
			t.Errorf("delete: got %v, want nil", err)
		}
	})
	w, err := f.Walls.EnsureWall(t.Context(), spec)
	mustDo(t, "ensure", err)
	wantNoFaults(t, "ensure", w)
	return w
}

func wantNoFaults(t *testing.T, what string, w host.Wall) {
	t.Helper()
	if len(w.Faults) > 0 || w.NetNS == (host.NetNS{}) || w.Path == "" {
		t.Fatalf("%s: got %+v, want a namespace, its path and no faults", what, w)
	}
}

// wantNoWall wants no namespace and one fault, which is not open: nothing runs
// behind a wall that does not exist.
func wantNoWall(t *testing.T, what string, w host.Wall) {
	t.Helper()
	if w.NetNS != (host.NetNS{}) || len(w.Faults) != 1 || w.Faults[0].Open {
		t.Fatalf("%s: got %+v, want no namespace and one fault that is not open", what, w)
	}
}

func inspectWall(t *testing.T, f WallsFixture, spec host.WallSpec) host.Wall {
	t.Helper()
	walls, err := f.Walls.InspectWalls(t.Context(), []host.WallSpec{spec})
	mustDo(t, "inspect", err)
	if len(walls) != 1 {
		t.Fatalf("inspect one: got %d walls, want 1", len(walls))
	}
	return walls[0]
}

func wallLife(t *testing.T, f WallsFixture) {
	spec, first := madeWall(t, f, 60)
	for range 2 {
		again := ensureWall(t, f, spec)
		if again.NetNS != first.NetNS {
			t.Errorf("ensure again: got namespace %v, want the same %v", again.NetNS, first.NetNS)
		}
		if got := inspectWall(t, f, spec); got.NetNS != first.NetNS || got.Path != first.Path || len(got.Faults) > 0 {
			t.Errorf("inspect: got %+v, want the same as ensure: %+v", got, first)
		}
	}
	// Keep the namespace open, so that no new one can get its inode number.
	if held, err := os.Open(first.Path); err == nil {
		defer held.Close()
	}
	want := host.WallOwner{ID: spec.Owner.ID(), UID: spec.Owner.UID, Cluster: spec.Owner.Cluster}
	if got := ownWalls(t, f, spec); len(got) != 1 || got[0] != want {
		t.Errorf("list: got %v, want one %v", got, want)
	}
	for range 2 {
		mustDo(t, "delete", f.Walls.DeleteWall(t.Context(), spec.Owner))
		wantNoWall(t, "after delete", inspectWall(t, f, spec))
		if got := ownWalls(t, f, spec); len(got) != 0 {
			t.Errorf("list after delete: got %v, want none", got)
		}
	}
	if again := ensureWall(t, f, spec); again.NetNS == first.NetNS {
		t.Errorf("ensure after delete: got the same namespace %v, want another", again.NetNS)
	}
}

func ownWalls(t *testing.T, f WallsFixture, spec host.WallSpec) []host.WallOwner {
	t.Helper()
	list, err := f.Walls.ListWalls(t.Context())
	mustDo(t, "list", err)
	return slices.DeleteFunc(list, func(o host.WallOwner) bool { return o.UID != spec.Owner.UID })
}

func wallAbsent(t *testing.T, f WallsFixture) {
	spec := newWall(61)
	mustDo(t, "delete", f.Walls.DeleteWall(t.Context(), spec.Owner))
	wantNoWall(t, "inspect", inspectWall(t, f, spec))
	_, err := f.Walls.Drops(t.Context(), spec.Owner)
	if !errors.Is(err, host.ErrNotFound) {
		t.Errorf("drops: got %v, want ErrNotFound", err)
	}
	if err := f.Walls.ForgetDrops(t.Context(), spec.Owner); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("forget drops: got %v, want ErrNotFound", err)
	}
	none, err := f.Walls.InspectWalls(t.Context(), nil)
	if err != nil || len(none) != 0 {
		t.Errorf("inspect none: got %v, %v, want none", none, err)
	}
}

func wallWithoutBridge(t *testing.T, f WallsFixture) {
	spec := newWall(62)
	f.Bundle(t, spec)
	f.RemoveBridge(t, spec)
	if _, err := f.Walls.EnsureWall(t.Context(), spec); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("ensure: got %v, want ErrNotFound", err)
	}
	// The attempt must leave nothing behind.
	wantNoWall(t, "inspect", inspectWall(t, f, spec))
	if got := ownWalls(t, f, spec); len(got) != 0 {
		t.Errorf("list: got %v, want none", got)
	}
	f.Bundle(t, spec)
	first := ensureWall(t, f, spec)
	// A missing bridge, as while a network is replaced, opens nothing.
	f.RemoveBridge(t, spec)
	got := inspectWall(t, f, spec)
	if got.NetNS != first.NetNS || len(got.Faults) == 0 || isOpen(got) {
		t.Errorf("without its bridge: got %+v, want faults that are not open", got)
	}
	f.Bundle(t, spec)
	if got := ensureWall(t, f, spec); got.NetNS != first.NetNS {
		t.Errorf("with a new bridge: got namespace %v, want the same %v", got.NetNS, first.NetNS)
	}
}

func isOpen(w host.Wall) bool {
	return slices.ContainsFunc(w.Faults, func(f host.WallFault) bool { return f.Open })
}

func wallChanged(t *testing.T, f WallsFixture) {
	old, first := madeWall(t, f, 63)
	changed := old
	changed.Ports = []int32{8888, 9100}
	if got := inspectWall(t, f, changed); !isOpen(got) {
		t.Errorf("inspect with other ports: got %+v, want an open fault", got)
	}
	if got := ensureWall(t, f, changed); got.NetNS != first.NetNS {
		t.Errorf("ensure with other ports: got namespace %v, want the same %v", got.NetNS, first.NetNS)
	}
	if got := inspectWall(t, f, old); !isOpen(got) {
		t.Errorf("inspect with the old ports: got %+v, want an open fault", got)
	}
	f.Connect(t, changed, 9100)
	if got := inspectWall(t, f, changed).Accepted; got[9100] == 0 || len(got) != 2 {
		t.Errorf("accepted: got %v, want 8888 and packets to 9100", got)
	}
}

func wallOpened(t *testing.T, f WallsFixture) {
	spec, first := madeWall(t, f, 64)
	f.Open(t, spec)
	once := inspectWall(t, f, spec)
	if !isOpen(once) {
		t.Fatalf("inspect: got %+v, want an open fault", once)
	}
	if diff := cmp.Diff(once.Faults, inspectWall(t, f, spec).Faults); diff != "" {
		t.Errorf("faults, read twice (-first +second):\n%s", diff)
	}
	if got := ensureWall(t, f, spec); got.NetNS != first.NetNS {
		t.Errorf("ensure: got namespace %v, want the same %v", got.NetNS, first.NetNS)
	}
	wantNoFaults(t, "inspect", inspectWall(t, f, spec))
}

func wallSeveral(t *testing.T, f WallsFixture) {
	a, wallA := madeWall(t, f, 66)
	absent := newWall(67)
	b, wallB := madeWall(t, f, 68)
	got, err := f.Walls.InspectWalls(t.Context(), []host.WallSpec{b, absent, a})
	mustDo(t, "inspect", err)
	if len(got) != 3 || got[0].NetNS != wallB.NetNS || got[2].NetNS != wallA.NetNS {
		t.Fatalf("inspect: got %+v, want the namespaces %v, none and %v", got, wallB.NetNS, wallA.NetNS)
	}
	wantNoWall(t, "inspect", got[1])
	mustDo(t, "delete", f.Walls.DeleteWall(t.Context(), a.Owner))
	wantNoFaults(t, "the other wall", inspectWall(t, f, b))
}
