// SPDX-License-Identifier: Apache-2.0

package surroundings

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"botbottle.dev/bottle-operator/internal/subnet"
)

const (
	// resolveTimeout bounds the resolution of one name. Nothing waits for it.
	resolveTimeout = 5 * time.Second
	// keepAddress is how long an address of a name counts after an answer last had
	// it: resolvers hand out the addresses of a large site by turns.
	keepAddress = 24 * time.Hour
	// maxAddresses bounds how many addresses count for one name. Whoever answers for
	// it must not be able to exclude all subnets.
	maxAddresses = 16
	// maxResolvConf and maxResolvers bound what is read of each file.
	maxResolvConf = 64 << 10
	maxResolvers  = 16
)

// names holds the addresses of host names. It is not safe for concurrent use.
type names struct {
	hosts []Host
	seen  map[string]map[netip.Addr]time.Time // by name: when an answer last had the address
}

// record adds the addresses of an answer, and removes those that are too old or too
// many, the oldest first.
func (n *names) record(name string, addrs []netip.Addr, now time.Time) {
	if n.seen == nil {
		n.seen = map[string]map[netip.Addr]time.Time{}
	}
	seen := n.seen[name]
	if seen == nil {
		seen = map[netip.Addr]time.Time{}
		n.seen[name] = seen
	}
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			seen[a] = now
		}
	}
	maps.DeleteFunc(seen, func(_ netip.Addr, at time.Time) bool { return now.Sub(at) > keepAddress })
	all := slices.SortedFunc(maps.Keys(seen), func(a, b netip.Addr) int {
		if c := seen[b].Compare(seen[a]); c != 0 {
			return c
		}
		return a.Compare(b)
	})
	for _, a := range all[min(len(all), maxAddresses):] {
		delete(seen, a)
	}
}

func (n *names) reserved() (out []subnet.Reserved) {
	for _, h := range n.hosts {
		for a := range n.seen[h.Name] {
			out = append(out, reservedAddr(a, h.By)...)
		}
	}
	return out
}

// resolve resolves the names of all hosts, one after the other.
func (s *Source) resolve(ctx context.Context) {
	var failed []string
	tried := map[string]bool{}
	for _, h := range s.names.hosts {
		if tried[h.Name] {
			continue
		}
		tried[h.Name] = true
		ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
		addrs, err := s.Resolve(ctx, h.Name)
		cancel()
		if err != nil {
			failed = append(failed, h.By)
		}
		s.names.record(h.Name, addrs, s.Clock.Now())
		s.set("names", s.names.reserved())
	}
	if ctx.Err() != nil {
		return
	}
	text := ""
	if len(failed) > 0 {
		text = "the host names of these cannot be resolved: " + strings.Join(slices.Compact(failed), ", ")
	}
	s.problem("names", text)
}

// readResolvers reads which resolvers the node uses. A file that cannot be read
// leaves out its resolvers.
func (s *Source) readResolvers() {
	var out []subnet.Reserved
	problem := ""
	for _, path := range s.ResolvConf {
		text, err := readBounded(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			problem = err.Error()
		}
		for _, a := range resolversIn(text) {
			out = append(out, reservedAddr(a, "a resolver of the node")...)
		}
	}
	s.problem("resolvers", problem)
	s.set("resolvers", out)
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxResolvConf))
}

// resolversIn returns the addresses in the lines "nameserver ADDRESS" (resolv.conf(5)).
func resolversIn(text []byte) (out []netip.Addr) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() && len(out) < maxResolvers {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			out = append(out, a)
		}
	}
	return out
}
