// SPDX-License-Identifier: Apache-2.0

package subnet

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Reserved is a network that is in use somewhere else, so that no new subnet may
// overlap it. On a node that has the subnet, the network's addresses are hidden.
type Reserved struct {
	Network netip.Prefix
	// By says whose network it is, as part of a sentence: "the API server".
	By string
}

func (r Reserved) String() string { return fmt.Sprintf("%s (%s)", r.Network, r.By) }

// maxNamed bounds how many networks a message names.
const maxNamed = 5

// Keep returns the addresses of a subnet that was chosen before; false if it is
// invalid or overlaps one of the occupied networks.
func Keep(p netip.Prefix, occupied []netip.Prefix) (Triple, bool) {
	if !p.IsValid() || slices.ContainsFunc(occupied, p.Overlaps) {
		return Triple{}, false
	}
	t, err := TripleOf(p)
	return t, err == nil
}

// KeepInPod is Keep for a network that exists only in a Pod, and whose machine has its
// addresses already. Only the bundle's and the machine's are in use there, so no more than
// these two must be free.
func KeepInPod(p netip.Prefix, occupied []netip.Prefix) (Triple, bool) {
	t, err := TripleOf(p)
	return t, err == nil && !slices.ContainsFunc(occupied, func(o netip.Prefix) bool {
		return o.Contains(t.BundleIP) || o.Contains(t.MachineIP)
	})
}

// Hidden names the reserved networks that p overlaps; "" if there are none.
func Hidden(p netip.Prefix, reserved []Reserved) string {
	var names []string
	for _, r := range reserved {
		if r.Network.Overlaps(p) {
			names = append(names, r.String())
		}
	}
	return list(names)
}

// exclusions says how many candidates each reserved network excludes, the largest
// number first; "" if none of them excludes any.
func (p *Pool) exclusions(reserved []Reserved) string {
	type exclusion struct {
		Reserved
		count uint64
	}
	var all []exclusion
	for _, r := range reserved {
		s, ok := p.span(r.Network)
		if !ok {
			continue
		}
		if n := append(slices.Clone(p.excluded), s).merged().size() - p.excluded.size(); n > 0 {
			all = append(all, exclusion{r, n})
		}
	}
	slices.SortStableFunc(all, func(a, b exclusion) int { return cmp.Compare(b.count, a.count) })
	names := make([]string, len(all))
	for i, x := range all {
		names[i] = fmt.Sprintf("%d by %s", x.count, x.Reserved)
	}
	return list(names)
}

// list joins names, of which it leaves out those after the first few.
func list(names []string) string {
	if more := len(names) - maxNamed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), more)
	}
	return strings.Join(names, ", ")
}
