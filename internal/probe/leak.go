// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

const shownPaths = 3 // a condition's message is bounded

// leaks are the ways out that the evidence shows, in words; "" for none. What
// canaries saw comes first: that the guest cannot have made up.
func (e Evidence) leaks() string {
	var paths []string
	add := func(path string) {
		if !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	for _, t := range e.Touches {
		if path := e.touched(t); path != "" {
			add(path)
		}
	}
	for _, t := range e.confessed() {
		add(t.String() + ", as the prober says")
	}
	if more := len(paths) - shownPaths; more > 0 {
		paths = append(paths[:shownPaths], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(paths, "; ")
}

// touched is the path of a touch that this machine made; "" for any other. The
// nonce is known to this guest alone, and from its network only the bundle and
// the node itself may come.
func (e Evidence) touched(t Touch) string {
	remote, local := plainAddr(t.Remote.Addr()), plainAddr(t.Local.Addr())
	ours := e.Plan.Nonce != "" && t.Nonce == e.Plan.Nonce
	inside := e.Subnet.IsValid() && e.Subnet.Contains(remote) && remote != e.Plan.bundle() && remote != e.Plan.gateway()
	if !ours && !inside {
		return ""
	}
	path := fmt.Sprintf("%s to %s%s", t.Proto, e.kindOf(local), netip.AddrPortFrom(local, t.Local.Port()))
	if remote.IsValid() && remote == e.Plan.bundle() {
		path += " by way of the bundle"
	}
	return path
}

// kindOf is what the plan calls an address of the node, and a space.
func (e Evidence) kindOf(local netip.Addr) string {
	if local.IsLoopback() {
		return string(KindLoopback) + " "
	}
	for _, t := range e.Plan.Avoid {
		if t.Addr == local {
			return string(t.Kind) + " "
		}
	}
	return ""
}

// confessed are what the report itself says was reached. A guest that lies
// here harms itself. Its loopback is its own: only a canary can tell that it
// was the node's.
func (e Evidence) confessed() []Target {
	results := e.results()
	var out []Target
	for _, t := range e.Plan.Avoid {
		if t.Kind != KindLoopback && results[t].Outcome == Reached {
			out = append(out, t)
		}
	}
	return out
}

// plainAddr is an address as plans spell it.
func plainAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
