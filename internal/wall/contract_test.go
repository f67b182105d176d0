// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostcontract"
)

func background(t testing.TB) context.Context { return context.WithoutCancel(t.Context()) }

func TestWallsContract(t *testing.T) {
	hostcontract.TestWalls(t, func(t *testing.T) hostcontract.WallsFixture {
		w := newWorld(t)
		return hostcontract.WallsFixture{
			Walls:        w.walls,
			Bundle:       func(t *testing.T, spec host.WallSpec) { w.addBundle(t, spec, 8888, 9100, 9418) },
			RemoveBridge: func(t *testing.T, spec host.WallSpec) { w.removeBridge(t, spec) },
			PutForeign:   w.putForeign,
			Open: func(t *testing.T, spec host.WallSpec) {
				run(t, "nft", "flush", "chain", "netdev", tableName(spec.Owner), chainName)
			},
			Connect: func(t *testing.T, spec host.WallSpec, port int32) {
				ns := wallNS(t, w.inspect(t, spec))
				got, err := dial(t, ns, addrPort(spec.BundleIP, port), 5*time.Second)
				if got != "hello" {
					t.Errorf("connect to %d: got %q, %v, want hello", port, got, err)
				}
			},
			Knock: func(t *testing.T, spec host.WallSpec, d host.Drop) {
				sender := newSender(t, wallNS(t, w.inspect(t, spec)))
				for range d.Packets {
					sender.send(t, frameTo(spec, d))
				}
			},
		}
	})
}

// putForeign makes something foreign that is in the way of an owner's wall. found
// reports whether it is still there.
func (w *world) putForeign(t *testing.T, owner host.Owner, kind string) (found func() bool) {
	t.Helper()
	theirs := owner
	theirs.Cluster = "cluster-2"
	path := filepath.Join(DefaultDir, owner.ID())
	exists := func() bool { _, err := os.Lstat(path); return err == nil }
	link := func() bool { _, err := netlink.LinkByName(owner.Veth()); return err == nil }
	switch kind {
	case "namespace":
		run(t, "ip", "netns", "add", owner.ID())
		t.Cleanup(func() { run(t, "ip", "netns", "del", owner.ID()) })
		return exists
	case "namespace of another cluster's":
		must(t, w.walls.makeNetNS(path, markOf(theirs)))
		t.Cleanup(func() { must(t, removeNetNS(path)) })
		return exists
	case "folder":
		must(t, os.MkdirAll(path, 0o755))
		t.Cleanup(func() { must(t, os.Remove(path)) })
		return exists
	case "link", "link of another cluster's":
		run(t, "ip", "link", "add", owner.Veth(), "type", "veth", "peer", "name", "other")
		t.Cleanup(func() { run(t, "ip", "link", "del", owner.Veth()) })
		if kind != "link" {
			run(t, "ip", "link", "set", owner.Veth(), "alias", markOf(theirs))
		}
		return link
	case "table of another cluster's":
		run(t, "nft", "add table netdev "+tableName(owner)+"; add chain netdev "+tableName(owner)+" x; add rule netdev "+tableName(owner)+` x drop comment "`+markOf(theirs)+`"`)
		t.Cleanup(func() { run(t, "nft", "delete", "table", "netdev", tableName(owner)) })
		return func() bool {
			rs, err := openRuleset()
			must(t, err)
			defer rs.close()
			tables, err := rs.tables()
			must(t, err)
			return tables[tableName(owner)] != nil
		}
	}
	t.Fatalf("got kind %q, want one of %v", kind, hostcontract.ForeignKinds)
	return nil
}
