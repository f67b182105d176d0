// SPDX-License-Identifier: Apache-2.0

package surroundings

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/nodeaddr"
)

const (
	// bridgePrefix begins the names of the Bottles' own bridges (host.Owner).
	bridgePrefix = "bb-"
	// defaultBits is the longest prefix that counts as a default route. Some VPNs
	// use the two halves of the address space instead of 0.0.0.0/0.
	defaultBits = 1
	// maxRoutes bounds how many routes a message names.
	maxRoutes = 3
	// rest is the shortest pause before the routes are read again, so that one
	// reading sees several changes. After a slow reading it is restFactor times as
	// long as that took, up to restMax, because a router's routes may change all
	// the time.
	rest       = 50 * time.Millisecond
	restFactor = 10
	restMax    = 5 * time.Second
)

// Route is an IPv4 route of the node.
type Route struct {
	Network netip.Prefix
	Table   int
	// Link is the name of the interface; "" for routes without one, such as
	// blackhole routes.
	Link string
}

func (r Route) String() string {
	link := "no interface"
	if r.Link != "" {
		link = strconv.QuoteToASCII(r.Link)
	}
	return fmt.Sprintf("%s (%s, table %s)", r.Network, link, tableName(r.Table))
}

func tableName(table int) string {
	switch table {
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_LOCAL:
		return "local"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	}
	return strconv.Itoa(table)
}

// Routes returns the IPv4 routes in all tables of the network namespace of the
// calling thread, sorted, without default routes, without those through a Bottle's
// own bridge, and without those of type "throw", which only pass a packet on to the
// next table.
func Routes() ([]Route, error) {
	list, err := nodeaddr.Dump(func() ([]rtnl.Route, error) {
		return rtnl.RouteListFiltered(unix.AF_INET, &rtnl.Route{Table: unix.RT_TABLE_UNSPEC}, rtnl.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list the node's routes: %w", err)
	}
	links, err := nodeaddr.Dump(rtnl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the node's links: %w", err)
	}
	names := map[int]string{0: ""}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var out []Route
	for _, r := range list {
		network, ok := prefixOf(r.Dst)
		if !ok || r.Type == unix.RTN_THROW {
			continue
		}
		index := r.LinkIndex
		if index == 0 && len(r.MultiPath) > 0 {
			index = r.MultiPath[0].LinkIndex
		}
		link, ok := names[index]
		if !ok || strings.HasPrefix(link, bridgePrefix) {
			continue // a link that is gone takes its routes with it
		}
		out = append(out, Route{Network: network, Table: r.Table, Link: link})
	}
	slices.SortFunc(out, func(a, b Route) int {
		return cmp.Or(a.Network.Compare(b.Network), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Link, b.Link))
	})
	return slices.Compact(out), nil
}

// prefixOf returns a route's destination; false for a default route.
func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if addr = addr.Unmap(); !ok || size != 32 || !addr.Is4() || bits <= defaultBits {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr, bits).Masked(), true
}

// conflict names the routes that overlap a Bottle's subnet, and says what to do; "" if
// none does.
func conflict(routes []Route, p netip.Prefix) string {
	if names := overlapping(routes, p); names != "" {
		return fmt.Sprintf("routes of the node overlap the Bottle's subnet %s, so replies to the bundle can take them: %s; remove them from the node, or delete the Bottle and create it again to give it another subnet", p, names)
	}
	return ""
}

func overlapping(routes []Route, p netip.Prefix) string {
	var names []string
	for _, r := range routes {
		if r.Network.Overlaps(p) {
			names = append(names, r.String())
		}
	}
	if more := len(names) - maxRoutes; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxRoutes], ", "), more)
	}
	return strings.Join(names, ", ")
}

// Watch calls changed whenever the routes may have changed in the network namespace
// of the calling thread, until ctx ends. The kernel does not report IPv4 routes that
// go with an interface or an address, so changes to those count too.
func Watch(ctx context.Context, changed func()) error {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return fmt.Errorf("watch routes: %w", err)
	}
	defer func() { _ = conn.Close() }()
	for _, group := range []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE} {
		if err := conn.JoinGroup(group); err != nil {
			return fmt.Errorf("watch routes: %w", err)
		}
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	changed() // what happened before
	for {
		_, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS): // messages were lost: anything may have changed
		case err != nil:
			return fmt.Errorf("watch routes: %w", err)
		}
		changed()
	}
}

// watchRoutes makes followRoutes read the routes after each change.
func (s *Source) watchRoutes(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.Watch(ctx, s.signal)
		if ctx.Err() != nil {
			return
		}
		s.problem("watch", err.Error())
		s.signal() // something may have been missed
		select {
		case <-ctx.Done():
		case <-s.Clock.After(routesInterval):
		}
	}
}

func (s *Source) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // a reading is already due
	}
}

// followRoutes reads the routes when they may have changed.
func (s *Source) followRoutes(ctx context.Context) {
	for {
		start := s.Clock.Now()
		if routes, err := s.Routes(); err != nil {
			s.problem("routes", err.Error())
		} else {
			s.problem("routes", "")
			s.mu.Lock()
			s.routes = routes
			s.unlockAndReport()
		}
		took := s.Clock.Since(start)
		select {
		case <-ctx.Done():
			return
		case <-s.Clock.After(routesInterval):
		case <-s.wake:
			select {
			case <-ctx.Done():
				return
			case <-s.Clock.After(max(rest, min(restFactor*took, restMax))):
			}
		}
	}
}
