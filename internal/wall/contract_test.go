// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostcontract"
)

func background(t testing.TB) context.Context { return context.WithoutCancel(t.Context()) }

func TestWallsContract(t *testing.T) {
	hostcontract.TestWalls(t, func(t *testing.T) hostcontract.WallsFixture {
		w := newWorld(t)
		f := w.fixture(func(host.Owner) []string { return nil })
		f.Bundle = func(t *testing.T, spec host.WallSpec) { w.addBundle(t, spec, 8888, 9100, 9418) }
		f.RemoveBridge = func(t *testing.T, spec host.WallSpec) { w.removeBridge(t, spec) }
		return f
	})
}

func TestPodWallsContract(t *testing.T) {
	hostcontract.TestWalls(t, func(t *testing.T) hostcontract.WallsFixture {
		w := newPodWorld(t)
		f := w.fixture(func(owner host.Owner) []string { return []string{"nsenter", "--net=" + w.pod(owner).path} })
		f.Bundle = func(t *testing.T, spec host.WallSpec) { w.addBundle(t, spec, 8888, 9100, 9418) }
		f.RemoveBridge = func(t *testing.T, spec host.WallSpec) { w.removeBridge(t, spec) }
		f.Elsewhere = func(t *testing.T, spec host.WallSpec, port int32) error {
			_, err := dialNode(t, addrPort(w.pod(spec.Owner).ip, port), 300*time.Millisecond)
			return err
		}
		return f
	})
}

// fixture is what both kinds of walls have in common. The bundle's end of an owner's wall is
// where at leads to.
func (w *world) fixture(at func(host.Owner) []string) hostcontract.WallsFixture {
	return hostcontract.WallsFixture{
		Walls: w.tested,
		PutForeign: func(t *testing.T, owner host.Owner, kind string) func() bool {
			return w.putForeign(t, owner, kind, at(owner)...)
		},
		Open: func(t *testing.T, spec host.WallSpec) {
			run(t, append(at(spec.Owner), "nft", "flush", "chain", "netdev", tableName(spec.Owner), chainName)...)
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
}

// putForeign makes something foreign that is in the way of an owner's wall. found
// reports whether it is still there. The bundle's end of the wall is where at leads to.
func (w *world) putForeign(t *testing.T, owner host.Owner, kind string, at ...string) (found func() bool) {
	t.Helper()
	theirs := owner
	theirs.Cluster = "cluster-2"
	path := filepath.Join(DefaultDir, owner.ID())
	exists := func() bool { _, err := os.Lstat(path); return err == nil }
	there := func(argv ...string) string { return run(t, slices.Concat(at, argv)...) }
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
		there("ip", "link", "add", owner.Veth(), "type", "veth", "peer", "name", "other")
		t.Cleanup(func() { there("ip", "link", "del", owner.Veth()) })
		if kind != "link" {
			there("ip", "link", "set", owner.Veth(), "alias", markOf(theirs))
		}
		return func() bool { return strings.Contains(there("ip", "link"), owner.Veth()) }
	case "table of another cluster's":
		there("nft", "add table netdev "+tableName(owner)+"; add chain netdev "+tableName(owner)+" x; add rule netdev "+tableName(owner)+` x drop comment "`+markOf(theirs)+`"`)
		t.Cleanup(func() { there("nft", "delete", "table", "netdev", tableName(owner)) })
		return func() bool { return strings.Contains(there("nft", "list", "tables"), tableName(owner)) }
	}
	t.Fatalf("got kind %q, want one of %v", kind, hostcontract.ForeignKinds)
	return nil
}
