// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
)

func wallAccepted(t *testing.T, f WallsFixture) {
	spec, made := madeWall(t, f, 80)
	if got, want := made.Accepted, (map[int32]uint64{8888: 0, 9418: 0}); !cmp.Equal(got, want) {
		t.Errorf("accepted, new: got %v, want %v", got, want)
	}
	f.Connect(t, spec, 9418)
	got := inspectWall(t, f, spec)
	if got.Accepted[9418] == 0 || got.Accepted[8888] != 0 || got.Dropped != 0 {
		t.Errorf("after a connection to 9418: got %v accepted and %d dropped, want packets only to 9418", got.Accepted, got.Dropped)
	}
	// Ensuring a sound wall changes nothing, not even the counts.
	if again := ensureWall(t, f, spec); again.Accepted[9418] < got.Accepted[9418] {
		t.Errorf("ensured again: got %v accepted, want no less than %v", again.Accepted, got.Accepted)
	}
}

func wallElsewhere(t *testing.T, f WallsFixture) {
	if f.Elsewhere == nil {
		return
	}
	spec, _ := madeWall(t, f, 82)
	f.Connect(t, spec, 9418)   // something listens there
	spec.Ports = []int32{8888} // and no longer 9418
	ensureWall(t, f, spec)
	for _, port := range []int32{8888, 9418, 9100} {
		if err := f.Elsewhere(t, spec, port); err == nil {
			t.Errorf("port %d from elsewhere: got a connection, want none", port)
		}
	}
	f.Connect(t, spec, 8888)
	mustDo(t, "delete", f.Walls.DeleteWall(t.Context(), spec.Owner))
	for _, port := range []int32{8888, 9418, 9100} {
		if err := f.Elsewhere(t, spec, port); err == nil {
			t.Errorf("port %d from elsewhere, after the wall is deleted: got a connection, want none", port)
		}
	}
}

func wallDropped(t *testing.T, f WallsFixture) {
	spec, _ := madeWall(t, f, 81)
	gateway := spec.Subnet.Addr().Next()
	want := []host.Drop{
		{Proto: "arp", Addr: gateway, Packets: 1},
		{Proto: "icmp", Addr: gateway, Packets: 2},
		{Proto: "icmpv6", Addr: netip.MustParseAddr("ff02::1"), Packets: 1},
		{Proto: "tcp", Addr: gateway, Port: 443, Packets: 3},
		{Proto: "tcp", Addr: spec.BundleIP, Port: 9099, Packets: 1},
		{Proto: "udp", Addr: spec.BundleIP, Port: 8888, Packets: 1},
		{Proto: "udp", Addr: netip.MustParseAddr("fe80::1"), Port: 53, Packets: 1},
	}
	total := uint64(0)
	for _, d := range slices.Backward(want) {
		f.Knock(t, spec, d)
		total += d.Packets
	}
	byAddr := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	got, err := f.Walls.Drops(t.Context(), spec.Owner)
	mustDo(t, "drops", err)
	if diff := cmp.Diff(want, got, byAddr); diff != "" {
		t.Errorf("drops (-want +got):\n%s", diff)
	}
	if got := inspectWall(t, f, spec); got.Dropped != total {
		t.Errorf("dropped: got %d, want %d", got.Dropped, total)
	}
	mustDo(t, "forget", f.Walls.ForgetDrops(t.Context(), spec.Owner))
	f.Knock(t, spec, want[0])
	got, err = f.Walls.Drops(t.Context(), spec.Owner)
	mustDo(t, "drops", err)
	if diff := cmp.Diff(want[:1], got, byAddr); diff != "" {
		t.Errorf("drops since ForgetDrops (-want +got):\n%s", diff)
	}
	if got := inspectWall(t, f, spec); got.Dropped != total+1 || len(got.Faults) > 0 {
		t.Errorf("dropped in total: got %d and faults %v, want %d and none", got.Dropped, got.Faults, total+1)
	}
}

func wallForeign(t *testing.T, f WallsFixture) {
	for i, kind := range ForeignKinds {
		t.Run(kind, func(t *testing.T) {
			spec := newWall(90 + i)
			f.Bundle(t, spec)
			found := f.PutForeign(t, spec.Owner, kind)
			for range 2 {
				_, err := f.Walls.EnsureWall(t.Context(), spec)
				word, _, _ := strings.Cut(kind, " ")
				if !errors.Is(err, host.ErrConflict) || !strings.Contains(err.Error(), spec.Owner.UID8()) {
					t.Errorf("ensure: got %v, want ErrConflict that names the %s", err, word)
				}
				mustDo(t, "delete", f.Walls.DeleteWall(t.Context(), spec.Owner))
				if !found() {
					t.Fatalf("the %s: got none, want it unchanged", kind)
				}
			}
			if got := ownWalls(t, f, spec); len(got) != 0 && got[0].Cluster == spec.Owner.Cluster {
				t.Errorf("list: got %v, want none of this cluster", got)
			}
		})
	}
}
