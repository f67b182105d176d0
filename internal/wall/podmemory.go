// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// podMemory does for walls in Pods what memory does for the node's: it keeps what was read
// of walls without faults while nothing has changed. The Pod's links, the generation of its
// ruleset, its forwarding, the file of the machine's namespace and the mark of its loopback
// are read each time. The rest of the machine's namespace is read after a notification about
// it, and at the latest after fullReading.
type podMemory struct {
	mu     sync.Mutex // held during a check of many walls
	events *events    // nil while notifications cannot be received
	walls  map[string]*keptPod
	buf    []byte
	now    func() time.Time

	inspected inspections
}

// keptPod is what is known of one wall.
type keptPod struct {
	podReading
	spec host.WallSpec
	want *expected
	pod  podNS
	wall host.Wall

	readAt  time.Time
	changed time.Time // when a change was last seen
}

// drainEvents marks what has changed since the last check. Without notifications,
// everything counts as changed.
func (m *podMemory) drainEvents(now time.Time) {
	if m.events == nil {
		m.events, _ = openEvents() // before anything is read
		clear(m.walls)
		return
	}
	c, err := m.events.read()
	if err != nil {
		m.events.close()
		m.events = nil
	}
	if err != nil || c.all {
		clear(m.walls)
		return
	}
	for _, k := range m.walls {
		if c.insides[k.machine] {
			k.changed = now
		}
	}
}

// readMany is like read, for many walls. The packet counts that it returns may be as old as
// fullReading.
func (p *PodWalls) readMany(ctx context.Context, specs []host.WallSpec) ([]host.Wall, error) {
	pods := p.lookupAll(ctx, specs)
	m := &p.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.buf == nil {
		m.buf, m.walls = make([]byte, linkRoom), map[string]*keptPod{}
	}
	now := m.now()
	m.drainEvents(now) // first: what is read afterwards shows what they report
	m.inspected.drain(func(id string) { delete(m.walls, id) })
	kept := make(map[string]*keptPod, len(specs))
	walls := make([]host.Wall, len(specs))
	err := p.withReader(m.buf, func(r *podReader) error {
		r.now = now
		for i, s := range specs {
			if err := ctx.Err(); err != nil {
				return err
			}
			k := m.walls[s.Owner.ID()]
			if m.events == nil || k == nil || !r.unchanged(k, s, pods[i]) {
				k = r.keep(ctx, k, s, pods[i])
			}
			walls[i] = k.wall
			if k.wall.Err == nil && len(k.wall.Faults) == 0 {
				kept[s.Owner.ID()] = k
			}
		}
		return nil
	})
	m.walls = kept
	return walls, errors.Join(err, ctx.Err())
}

// keep reads a wall in full. before is what was known of it; nil if nothing was.
func (r *podReader) keep(ctx context.Context, before *keptPod, s host.WallSpec, pod podNS) *keptPod {
	k := &keptPod{spec: s, pod: pod, readAt: r.now, changed: r.now}
	k.wall, k.podReading = r.wall(ctx, s, pod)
	k.want, _ = r.walls.expect(s)
	if before != nil {
		k.changed = before.changed
	}
	filter := &k.facts.filter
	if t := filter.table; t != nil && t.owned {
		k.changed = r.now.Add(settling) // it can disappear without a new generation
	}
	*filter = filterFacts{} // it is large, and read again before it is needed
	return k
}

// unchanged reports whether a wall is as it was when it was read. It sets k.changed if it
// sees a change.
func (r *podReader) unchanged(k *keptPod, s host.WallSpec, pod podNS) bool {
	want, err := r.walls.expect(s)
	switch {
	case err != nil || k.want != want || k.spec.Subnet != s.Subnet || pod.err != nil || k.pod.path != pod.path || k.pod.id != pod.id:
		return false
	case !settled(k.readAt, k.changed) || due(s.Owner.ID(), k.readAt, r.now):
		return false
	case !sameFile(k.facts) || !loopbackMarked(r.links, k.machine, markOf(s.Owner)):
		return false
	}
	ns, _, id, err := openAny(pod.path, 0)
	if err != nil || ns == nil {
		return false
	}
	defer ns.Close()
	if id != pod.id || enter(ns) != nil {
		return false
	}
	if generation, err := generationHere(r.buf); err != nil || generation != k.generation || !r.sameLinks(k) {
		k.changed = r.now
		return false
	}
	on, err := forwards(s.Owner.Bridge())
	return err == nil && !on
}

// sameLinks reports whether the Pod's links are as they were.
func (r *podReader) sameLinks(k *keptPod) bool {
	s, err := openLinkSocket(r.buf)
	if err != nil {
		return false
	}
	defer s.close()
	n, same := 0, true
	err = s.links(unix.NLM_F_DUMP, linkRequest(0, -1), func(body []byte) {
		if m, ok := parseLink(body); ok {
			same = same && n < len(k.links) && k.links[n].is(m)
			n++
		}
	})
	return err == nil && same && n == len(k.links)
}

// generationHere returns the generation of the ruleset in the calling thread's network
// namespace. See ruleset.generation.
func generationHere(buf []byte) (uint32, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	request := make([]byte, unix.SizeofNlMsghdr+4)
	binary.NativeEndian.PutUint32(request, uint32(len(request)))
	binary.NativeEndian.PutUint16(request[4:], unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST)
	if _, err := unix.Write(fd, request); err != nil {
		return 0, os.NewSyscallError("write", err)
	}
	n, err := unix.Read(fd, buf) // the kernel has answered already
	if err != nil {
		return 0, os.NewSyscallError("read", err)
	}
	var generation uint32
	found := false
	err = eachMessage(buf[:n], func(h unix.NlMsghdr, body []byte) error {
		if h.Type == unix.NLMSG_ERROR || len(body) < 4 {
			return errorIn(body)
		}
		attributes(body[4:], func(kind uint16, b []byte) {
			if kind == unix.NFTA_GEN_ID && len(b) == 4 {
				generation, found = number(b), true
			}
		})
		return nil
	})
	if err == nil && !found {
		err = errors.New("no answer")
	}
	if err != nil {
		return 0, fmt.Errorf("generation of the Pod's nftables ruleset: %w", err)
	}
	return generation, nil
}
