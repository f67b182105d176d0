// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/await"
)

// manyPods is a node with so many walls in Pods.
type manyPods struct {
	*podWorld
	manyWalls
}

func newManyPods(t testing.TB) *manyPods {
	t.Helper()
	m := &manyPods{podWorld: newPodWorld(t)}
	m.inspected, m.manyWalls.settled = m.pods, m.settled
	m.pods.memory.now = m.now
	for i := range few + 2 {
		spec := newSpec(t, 10+i)
		m.specs = append(m.specs, spec)
		m.addBundle(t, spec, 8888)
		m.stand(t, spec)
	}
	m.settle(t)
	return m
}

func (m *manyPods) settled() bool {
	mem := &m.pods.memory
	known := mem.events != nil && len(mem.walls) == len(m.specs)
	for _, k := range mem.walls {
		known = known && settled(k.readAt, k.changed) && !due(k.spec.Owner.ID(), k.readAt, mem.now())
	}
	return known
}

// TestPodCheckSeesDamage breaks a wall of which everything is known. The next check must
// find it, and nothing in the other walls.
func TestPodCheckSeesDamage(t *testing.T) {
	m := newManyPods(t)
	spec := m.specs[broken]
	pod, path := m.pod(spec.Owner), m.walls.path(spec.Owner)
	for _, d := range slices.Concat(podDamages(), moreDamages) {
		if d.name == "bridge of another MTU" || strings.HasPrefix(d.name, "bridge of the bundle's") || d.name == "the Pod's own link renamed" || d.name == "the Pod's own link in the bridge" {
			continue // it is not, or not the same, damage in a Pod
		}
		ok := t.Run(d.name, func(t *testing.T) {
			wallNS(t, host.Wall{Path: path}) // holds the namespace, and therefore its link
			d.do(t, spec, path, "nsenter", "--net="+pod.path)
			m.ahead += time.Second
			for i, got := range m.check(t) {
				want := ""
				if i == broken {
					want = damageWords(spec, path).Replace(strings.Join(d.found, "\n"))
				}
				if got != want {
					t.Errorf("wall %d: got\n%s\nwant\n%s", i, got, want)
				}
			}
			runIn(t, pod.path, "sh", "-c", "ip link del other 2>/dev/null; true")
			wall, err := m.pods.EnsureWall(t.Context(), spec)
			if must(t, err); len(wall.Faults) > 0 {
				t.Fatalf("repaired: got faults %s, want none", describe(wall.Faults))
			}
		})
		if !ok {
			return
		}
		m.settle(t)
	}
}

// TestPodCheckSeesTheSandbox: what a check of many walls sees of a Pod.
func TestPodCheckSeesTheSandbox(t *testing.T) {
	m := newManyPods(t)
	spec := m.specs[broken]
	m.fail(spec.Owner, host.ErrUnavailable)
	walls, err := m.pods.InspectWalls(t.Context(), m.specs)
	must(t, err)
	mustErr(t, "inspect", walls[broken].Err, host.ErrUnavailable)
	m.fail(spec.Owner, nil)
	m.settle(t)
	m.removePod(t, spec.Owner)
	if got := m.check(t)[broken]; got != withoutSandbox {
		t.Errorf("without a sandbox: got faults %s, want %s", got, withoutSandbox)
	}
	// The kernel removes the link with the namespace, some time later.
	machine := wallNS(t, walls[broken])
	await.True(t, "the end of the link", func() (gone bool) {
		must(t, in(t, machine, func() error { gone = linkGone(innerName); return nil }))
		return gone
	})
	m.addBundle(t, spec, 8888)
	if got := m.check(t)[broken]; got == "" || strings.Contains(got, "open:") {
		t.Errorf("in a new sandbox: got faults %s, want some that are not open", got)
	}
	_, err = m.pods.EnsureWall(t.Context(), spec)
	must(t, err)
	m.settle(t)
}

// TestPodCheckAfterLostEvents: when notifications are lost, everything is read.
func TestPodCheckAfterLostEvents(t *testing.T) {
	m := newManyPods(t)
	spec := m.specs[broken]
	path := m.walls.path(spec.Owner)
	must(t, unix.SetsockoptInt(int(m.pods.memory.events.socket.Fd()), unix.SOL_SOCKET, unix.SO_RCVBUF, 1))
	for range 20 {
		run(t, "ip", "link", "set", m.pod(spec.Owner).veth, "alias", "x")
	}
	damage{how: []string{"inside ip route add default via GATEWAY"}}.do(t, spec, path)
	want := "closed: the namespace has routes other than the one to " + spec.Subnet.String()
	if got := m.check(t)[broken]; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestPodCheckReadsLittle: a check of walls in which nothing changes reads none in full, and
// counts are read again when a wall was inspected alone.
func TestPodCheckReadsLittle(t *testing.T) {
	m := newManyPods(t)
	spec := m.specs[broken]
	read := func() time.Time { return m.pods.memory.walls[spec.Owner.ID()].readAt }
	for due(spec.Owner.ID(), read(), m.pods.memory.now().Add(5*time.Second)) {
		m.ahead += 5 * time.Second
		m.settle(t)
	}
	before := read()
	m.ahead += time.Second
	m.check(t)
	if read() != before {
		t.Error("unchanged: got the wall read in full, want it remembered")
	}
	greet(t, m.inspect(t, spec), spec)
	if m.check(t); read() == before {
		t.Error("inspected alone: got old counts, want the wall read")
	}
	before = read()
	m.ahead += fullReading
	if m.check(t); read() == before {
		t.Errorf("after %s: got the wall remembered, want it read in full", fullReading)
	}
}

// TestPodCheckSeesXDP: a program that is attached with a BPF link is reported to nobody.
func TestPodCheckSeesXDP(t *testing.T) {
	m := newManyPods(t)
	spec := m.specs[broken]
	ns := podNSFile(t, m.pod(spec.Owner))
	var detach func()
	must(t, in(t, ns, func() error {
		links, err := linksByName()
		if err != nil || links[spec.Owner.Veth()] == nil {
			return errors.Join(err, os.ErrNotExist)
		}
		detach = attachXDP(t, links[spec.Owner.Veth()].index)
		return nil
	}))
	want := "open: link " + spec.Owner.Veth() + " has an XDP program, which comes before the filter"
	if got := m.check(t)[broken]; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	detach()
}
