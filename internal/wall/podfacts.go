// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/ownthread"
)

// podFacts are what was observed in the network namespace of a Pod, besides the link, its
// filter and the bridge.
type podFacts struct {
	// gone means that the Pod has no network namespace. Nothing else is known then.
	gone bool
	// forwards means that the Pod forwards what arrives through the bridge.
	forwards bool
	// table says what is wrong with the podTable; "" if nothing is.
	table string
	// ports are the other links in the bridge, sorted.
	ports []string
	err   error
}

// podSide is the bundle's side of a wall, in a Pod. Its methods must be called on a thread in
// the Pod's network namespace.
type podSide struct{ *PodWalls }

func (p podSide) observeOne(ctx context.Context, spec host.WallSpec) (facts, error) {
	p.memory.inspected.mark([]host.WallSpec{spec})
	own, err := processNetNS()
	if err != nil {
		return facts{}, err
	}
	links, err := linksByName()
	if err != nil {
		return facts{}, err
	}
	f, err := p.observeEnd(ctx, spec, links)
	if err != nil {
		return facts{}, err
	}
	node, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return facts{}, err
	}
	defer node.Close()
	pod, err := threadsNetNS()
	if err != nil {
		return facts{}, err
	}
	all := []facts{f}
	err = ownthread.Run(func() error { return readInsides(ctx, all, node, own, pod) })
	return all[0], err
}

// observeEnd reads the bundle's end of a wall. links are all those of the Pod.
func (p podSide) observeEnd(ctx context.Context, spec host.WallSpec, links map[string]*attrs) (facts, error) {
	all, err := p.walls.observeEnds(ctx, []host.WallSpec{spec}, links)
	if err != nil {
		return facts{}, err
	}
	f := all[0]
	f.pod = &podFacts{}
	if f.bridge != nil {
		f.pod.forwards, f.pod.err = forwards(spec.Owner.Bridge())
		for name, l := range links {
			if l.master == f.bridge.index && name != spec.Owner.Veth() {
				f.pod.ports = append(f.pod.ports, name)
			}
		}
		slices.Sort(f.pod.ports)
	}
	table, err := podTable(spec).fault()
	f.pod.table, f.pod.err = table, errors.Join(f.pod.err, err)
	return f, nil
}

// forwarding is the file that says whether IPv4 packets that arrive at a link are forwarded.
func forwarding(link string) string { return "/proc/sys/net/ipv4/conf/" + link + "/forwarding" }

func forwards(link string) (bool, error) {
	text, err := os.ReadFile(forwarding(link))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // the link went away
	}
	return string(bytes.TrimSpace(text)) != "0", err
}
