// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/ownthread"
)

// podReader reads walls one after the other, on a thread that moves from one network
// namespace to the next.
type podReader struct {
	*PodWalls
	own host.NetNS // the network namespace of this process
	// home and links are a handle and a socket in the network namespace of this process.
	home  *netlink.Handle
	links *linkSocket
	buf   []byte
	now   time.Time // when a check of many walls began; zero in any other reading
}

// podReading is what was read of a wall.
type podReading struct {
	facts facts
	// links are those of the Pod, and generation is that of its ruleset. Both were read before
	// the rest.
	links      []keptLink
	generation uint32
	// machine is the ID of the machine's namespace in the network namespace of this process;
	// -1 if there is no such namespace.
	machine int
}

// withReader runs f with a reader, on a thread of its own. buf has linkRoom bytes.
func (p *PodWalls) withReader(buf []byte, f func(r *podReader) error) error {
	return ownthread.Run(func() error {
		own, err := processNetNS()
		if err != nil {
			return err
		}
		home, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer home.Close()
		links, err := openLinkSocket(buf)
		if err != nil {
			return err
		}
		defer links.close()
		return f(&podReader{PodWalls: p, own: own, home: home, links: links, buf: buf})
	})
}

// read reads walls back in full and judges them.
func (p *PodWalls) read(ctx context.Context, specs []host.WallSpec) ([]host.Wall, error) {
	p.memory.inspected.mark(specs)
	pods := p.lookupAll(ctx, specs)
	walls := make([]host.Wall, len(specs))
	err := p.withReader(make([]byte, linkRoom), func(r *podReader) error {
		for i, s := range specs {
			if err := ctx.Err(); err != nil {
				return err
			}
			walls[i], _ = r.wall(ctx, s, pods[i])
		}
		return nil
	})
	return walls, errors.Join(err, ctx.Err())
}

// wall reads one wall back and judges it.
func (r *podReader) wall(ctx context.Context, s host.WallSpec, pod podNS) (host.Wall, podReading) {
	want, err := r.walls.expect(s)
	var reading podReading
	if err == nil {
		reading, err = r.read(ctx, s, pod)
	}
	if err != nil {
		return host.Wall{Path: r.walls.path(s.Owner), Err: fmt.Errorf("wall %s cannot be read: %w", s.Owner.ID(), err)}, reading
	}
	return wallOf(s, want, reading.facts), reading
}

func (r *podReader) read(ctx context.Context, s host.WallSpec, pod podNS) (podReading, error) {
	out := podReading{machine: -1}
	ns, err := r.open(pod, r.home)
	if errors.Is(err, host.ErrNotFound) {
		out.facts = facts{path: r.walls.path(s.Owner), pod: &podFacts{gone: true}}
		r.readMachine(&out, r.home)
		return out, nil
	}
	if err != nil {
		return out, err
	}
	defer ns.Close()
	if err := enter(ns); err != nil {
		return out, err
	}
	if out.generation, err = generationHere(r.buf); err != nil {
		return out, err
	}
	if out.links, err = linksHere(r.buf); err != nil {
		return out, err
	}
	byName := make(map[string]*attrs, len(out.links))
	for i := range out.links {
		byName[out.links[i].name] = &out.links[i].attrs
	}
	if out.facts, err = (podSide{r.PodWalls}).observeEnd(ctx, s, byName); err != nil {
		return out, err
	}
	node, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return out, err
	}
	defer node.Close()
	r.readMachine(&out, node, pod.id)
	return out, nil
}

// readMachine reads the machine's side. It first gives the machine's namespace an ID in the
// network namespace of this process, so that whatever changes later is reported. node is a
// handle in the namespace of the bundle's end. others are namespaces, beside that of this
// process, that cannot be the machine's.
func (r *podReader) readMachine(out *podReading, node *netlink.Handle, others ...host.NetNS) {
	f := &out.facts
	var ns *os.File
	ns, f.kind, f.id, f.inside.err = openNetNS(f.path)
	if ns == nil {
		return
	}
	defer ns.Close()
	if f.node = f.id == r.own || slices.Contains(others, f.id); f.node {
		return
	}
	if out.machine, f.inside.err = idOf(ns, r.home); f.inside.err == nil {
		f.inside = readInside(node, ns)
	}
}

// linksHere returns the links in the calling thread's network namespace.
func linksHere(buf []byte) (links []keptLink, err error) {
	s, err := openLinkSocket(buf)
	if err != nil {
		return nil, err
	}
	defer s.close()
	request := linkRequest(0, -1)
	for range dumpTries {
		links = links[:0]
		err = s.links(unix.NLM_F_DUMP, request, func(body []byte) {
			if m, ok := parseLink(body); ok {
				links = append(links, keptLink{attrs: m.attrs(), mac: slices.Clone(m.mac)})
			}
		})
		if !errors.Is(err, errInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list the Pod's links: %w", err)
	}
	return links, nil
}
