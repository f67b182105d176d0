// SPDX-License-Identifier: Apache-2.0

// Package surroundings knows the networks around the Bottles of a node: those that
// are in use elsewhere, where a Bottle's subnet would hide them from the node, and
// the routes of the node, which can come to overlap a Bottle's subnet. It chooses
// no subnet, changes no route, and does not know docker's networks.
package surroundings

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/subnet"
)

// Host is a host that the agent is configured to use.
type Host struct {
	// Name is a host name or an IP address, without a port.
	Name string
	// By says what the host is, as in subnet.Reserved.
	By string
}

// Options of a Source. All are required unless the comment says otherwise.
type Options struct {
	// Fixed are networks that flags name; there may be none.
	Fixed []subnet.Reserved
	// Hosts may be empty.
	Hosts []Host
	// ResolvConf are the files that name the node's resolvers. They need not exist.
	ResolvConf []string
	// Resolve returns the addresses of a host name.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)
	// Routes reads the node's routes; see Routes. Watch calls changed whenever they
	// may have changed, until ctx ends; see Watch.
	Routes func() ([]Route, error)
	Watch  func(ctx context.Context, changed func()) error
	Clock  clock.WithTicker
	Log    logr.Logger
}

// Source holds what is known at present. It is safe for concurrent use, and none
// of its methods except Run and FollowCluster waits for anything.
type Source struct {
	Options
	names names // used by New, and then by one goroutine of Run
	wake  chan struct{}

	mu       sync.Mutex
	parts    map[string][]subnet.Reserved // by what they were read from
	reserved []subnet.Reserved            // all of parts, sorted, each once
	routes   []Route
	asked    map[string]answer // by the UID of the Bottle
	changed  func(uid string)  // nil until Subscribe
	logged   map[string]string // the last problem of each part
}

// answer is what Inspect said about a Bottle's subnet.
type answer struct {
	subnet         netip.Prefix
	hidden, routed string
}

// New reads the node's routes and resolvers. It resolves no name.
func New(o Options) (*Source, error) {
	s := &Source{Options: o, wake: make(chan struct{}, 1), parts: map[string][]subnet.Reserved{}, asked: map[string]answer{}, logged: map[string]string{}}
	routes, err := s.Routes()
	if err != nil {
		return nil, err
	}
	s.routes = routes
	fixed := slices.Clone(o.Fixed)
	for _, h := range o.Hosts {
		if a, err := netip.ParseAddr(h.Name); err == nil {
			fixed = append(fixed, reservedAddr(a, h.By)...)
		} else {
			s.names.hosts = append(s.names.hosts, h)
		}
	}
	s.set("fixed", fixed)
	s.readResolvers()
	return s, nil
}

// Reserved returns the networks that a new subnet must not overlap. The caller
// must not change them.
func (s *Source) Reserved() []subnet.Reserved {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reserved
}

// Inspect names the reserved networks that a Bottle's subnet hides. If routes of the
// node overlap the subnet, routed is a message that says so. Both may be "". From then on, until
// Forget, a change of either is reported to the subscriber.
func (s *Source) Inspect(owner host.Owner, p netip.Prefix) (hidden, routed string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.answer(p)
	s.asked[owner.UID] = a
	return a.hidden, a.routed
}

func (s *Source) answer(p netip.Prefix) answer {
	return answer{subnet: p, hidden: subnet.Hidden(p, s.reserved), routed: conflict(s.routes, p)}
}

// Forget ends the reports about a Bottle.
func (s *Source) Forget(owner host.Owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.asked, owner.UID)
}

// Subscribe sets the callback for Bottles about which Inspect now says something
// else.
func (s *Source) Subscribe(changed func(uid string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = changed
}

const (
	// filesInterval and namesInterval are the times between two readings of the
	// node's resolvers and of the hosts' addresses.
	filesInterval = time.Minute
	namesInterval = 5 * time.Minute
	// routesInterval is the time between two readings without a notification.
	routesInterval = time.Minute
)

// Run follows the node's routes, resolvers and the addresses of hosts until ctx
// ends.
func (s *Source) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { s.watchRoutes(ctx) })
	all.Go(func() { s.followRoutes(ctx) })
	all.Go(func() { s.every(ctx, filesInterval, s.readResolvers) })
	all.Go(func() { s.every(ctx, namesInterval, func() { s.resolve(ctx) }) })
}

// every calls f at once and then at each interval until ctx ends.
func (s *Source) every(ctx context.Context, interval time.Duration, f func()) {
	ticker := s.Clock.NewTicker(interval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		f()
		select {
		case <-ctx.Done():
		case <-ticker.C():
		}
	}
}

// set replaces the networks that were read from one place.
func (s *Source) set(part string, networks []subnet.Reserved) {
	s.mu.Lock()
	s.parts[part] = networks
	var all []subnet.Reserved
	for _, p := range s.parts {
		all = append(all, p...)
	}
	slices.SortFunc(all, func(a, b subnet.Reserved) int {
		return cmp.Or(a.Network.Compare(b.Network), cmp.Compare(a.By, b.By))
	})
	s.reserved = slices.Compact(all)
	s.unlockAndReport()
}

// unlockAndReport unlocks s.mu and reports the Bottles whose answers have changed.
func (s *Source) unlockAndReport() {
	var uids []string
	for uid, old := range s.asked {
		if now := s.answer(old.subnet); now != old {
			s.asked[uid] = now
			uids = append(uids, uid)
		}
	}
	changed := s.changed
	s.mu.Unlock()
	if changed == nil {
		return
	}
	for _, uid := range uids {
		changed(uid)
	}
}

// problem logs that a part could not be read, unless it logged the same before. An
// empty text means that it was read.
func (s *Source) problem(part, text string) {
	s.mu.Lock()
	last := s.logged[part]
	s.logged[part] = text
	s.mu.Unlock()
	if text != "" && text != last {
		s.Log.Info("Some networks that new subnets should avoid are not known; the agent tries again", "part", part, "problem", text)
	}
}

// reservedAddr returns the network of a single address, or nothing if no Bottle can
// be in its way: Bottles have IPv4 only.
func reservedAddr(a netip.Addr, by string) []subnet.Reserved {
	a = a.Unmap()
	if !a.Is4() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
		return nil
	}
	return []subnet.Reserved{{Network: netip.PrefixFrom(a, 32), By: by}}
}

// reservedNetwork does the same for a network. A network as wide as a default route
// names nothing.
func reservedNetwork(p netip.Prefix, by string) []subnet.Reserved {
	if !p.IsValid() || !p.Addr().Is4() || p.Bits() < minBits {
		return nil
	}
	return []subnet.Reserved{{Network: p.Masked(), By: by}}
}

// minBits is the shortest prefix of a network that is taken from an object in the
// cluster: whoever writes a wider one means something else, or harm.
const minBits = 8
