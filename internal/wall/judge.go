// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// verdictOn compares what was found with what is wanted. It is where a fault
// is told to be open: while the filter stands on the only link that leads out
// of the namespace, nothing that happens inside is.
type verdictOn struct {
	spec   host.WallSpec
	want   *expected
	facts  facts
	faults []host.WallFault
}

func judge(spec host.WallSpec, want *expected, f facts) []host.WallFault {
	v := &verdictOn{spec: spec, want: want, facts: f}
	if f.kind == fileAbsent && f.nodeEnd == nil {
		v.shut("there is no wall")
		return v.faults
	}
	v.namespace()
	v.ends()
	v.filter()
	v.inside()
	return v.faults
}

func (v *verdictOn) shut(format string, args ...any) {
	v.faults = append(v.faults, host.WallFault{What: fmt.Sprintf(format, args...)})
}

func (v *verdictOn) open(format string, args ...any) {
	v.faults = append(v.faults, host.WallFault{What: fmt.Sprintf(format, args...), Open: true})
}

// namespace: is it one, and ours.
func (v *verdictOn) namespace() {
	f := v.facts
	switch {
	case f.kind == fileAbsent:
		v.shut("namespace %s is missing", f.path)
	case f.kind == fileForeign:
		v.shut("%s is no network namespace", f.path)
	case f.node:
		v.open("%s is the node's own network namespace", f.path)
	case !v.namespaceMarked():
		v.shut("namespace %s does not bear the wall's mark", f.path)
	}
}

// known says whether the inside of the namespace was read.
func (f facts) known() bool { return f.kind == fileNetNS && !f.node && f.inside.err == nil }

func (v *verdictOn) namespaceMarked() bool {
	lo := v.facts.inside.link("lo")
	return lo != nil && lo.alias == markOf(v.spec.Owner)
}

// paired says whether the node's end and the link inside are two ends of one.
func (f facts) paired() bool {
	end, inner := f.nodeEnd, f.inside.link(innerName)
	return f.known() && end != nil && inner != nil && end.kind == "veth" && inner.kind == "veth" &&
		end.parent == inner.index && inner.parent == end.index &&
		end.peersNS == f.inside.peersNS
}

// ends: the link, where it leads to, and the bridge that it is in.
func (v *verdictOn) ends() {
	f, name, bridge := v.facts, v.spec.Owner.Veth(), v.spec.Owner.Bridge()
	inner := f.inside.link(innerName)
	switch end := f.nodeEnd; {
	case end == nil && inner != nil:
		v.open("link %s is missing while %s is in the namespace", name, innerName)
	case end == nil:
		v.shut("link %s is missing", name)
	case f.known() && !f.paired() && inner != nil:
		v.open("%s in the namespace does not lead to link %s", innerName, name)
	case f.known() && !f.paired():
		v.shut("link %s does not lead into the namespace", name)
	}
	if f.bridge == nil {
		v.shut("bridge %s is missing", bridge)
	}
	end := f.nodeEnd
	if end == nil {
		return
	}
	if end.alias != markOf(v.spec.Owner) {
		v.shut("link %s does not bear the wall's mark", name)
	}
	switch {
	case end.master == 0:
		v.shut("link %s is in no bridge", name)
	case f.bridge == nil || end.master != f.bridge.index:
		v.open("link %s is in another bridge than %s", name, bridge)
	case end.mtu != f.bridge.mtu:
		v.shut("link %s has another MTU than its bridge", name)
	}
	if !end.up {
		v.shut("link %s is down", name)
	}
	v.addresses()
	if end.xdp {
		v.open("link %s has an XDP program, which comes before the filter", name)
	}
}

// addresses: the bridge hands frames to its own MAC address and to its ports' to
// the node's IP stack, so that none of them may be the bundle's.
func (v *verdictOn) addresses() {
	end, bridge, bundle := v.facts.nodeEnd, v.facts.bridge, host.BundleMAC(v.spec.BundleIP).String()
	switch {
	case end.mac == bundle:
		v.open("link %s has the bundle's MAC address", end.name)
	case end.mac != nodeMAC(v.spec.Owner).String():
		v.shut("link %s has another MAC address", end.name)
	}
	if bridge != nil && bridge.mac == bundle {
		v.open("bridge %s has the bundle's MAC address", bridge.name)
	}
}

// leadsOut says whether there is a link at which the filter is needed.
func (f facts) leadsOut() bool {
	return f.nodeEnd != nil || slices.ContainsFunc(f.inside.links, func(l attrs) bool { return !harmless(l) })
}

// filter: is it there, as written, and the first to see a packet.
func (v *verdictOn) filter() {
	say := v.shut
	if v.facts.leadsOut() {
		say = v.open
	}
	f, name := v.facts.filter, tableName(v.spec.Owner)
	if what := filterFault(f, v.want); what != "" {
		say("filter %s %s", name, what)
		v.faults[len(v.faults)-1].Rules = what == otherRules
	}
	for _, chain := range f.earlier {
		say("chain %q sees packets before filter %s", chain, name)
	}
}

// filterFault says what is wrong with a filter; "" is nothing.
func filterFault(f filterFacts, want *expected) string {
	switch {
	case f.table == nil:
		return "is missing"
	case f.table.dormant:
		return "is switched off"
	case !slices.ContainsFunc(f.table.chains, func(c chain) bool { return c.name == chainName }):
		return "has lost its chain"
	case len(f.table.chains) > 1:
		return "has a chain that is not the wall's"
	case !wantedChain(f.table.chains[0], want.spec.Owner.Veth()):
		return "is not where packets come by"
	case !want.equal(f.rules):
		return otherRules
	}
	return ""
}

// otherRules is the fault of a filter that is where it should be.
const otherRules = "has other rules than the wall's"

func wantedChain(c chain, device string) bool {
	return c.base && c.kind == string(nftables.ChainTypeFilter) && c.hook == unix.NF_NETDEV_INGRESS &&
		c.priority == int32(*priority) && c.policy == uint32(nftables.ChainPolicyDrop) && slices.Equal(c.devices, []string{device})
}

// inside: nothing of it can open the wall but another link.
func (v *verdictOn) inside() {
	if !v.facts.known() {
		return
	}
	in := v.facts.inside
	if lo := in.link("lo"); lo != nil && lo.up {
		v.shut("lo in the namespace is up")
	}
	for _, name := range extraLinks(in) {
		v.open("link %q is in the namespace", name)
	}
	inner := in.link(innerName)
	if inner == nil {
		v.shut("%s is missing in the namespace", innerName)
		return
	}
	if !inner.up {
		v.shut("%s in the namespace is down", innerName)
	}
	if inner.mac != machineMAC(v.spec.Owner).String() {
		v.shut("%s in the namespace has another MAC address", innerName)
	}
	if v.facts.bridge != nil && inner.mtu != v.facts.bridge.mtu {
		v.shut("%s in the namespace has another MTU than the bridge", innerName)
	}
	if !slices.Equal(in.addresses, []netip.Prefix{machinePrefix(v.spec)}) {
		v.shut("the namespace has other addresses than %s", machinePrefix(v.spec))
	}
	if len(extraRoutes(v.spec, in)) > 0 {
		v.shut("the namespace has other routes than the one to %s", v.spec.Subnet)
	}
	if inner.up && !connected(v.spec, in) {
		v.shut("the namespace has no route to %s", v.spec.Subnet)
	}
}

func machinePrefix(s host.WallSpec) netip.Prefix {
	return netip.PrefixFrom(s.MachineIP, s.Subnet.Bits())
}

// extraLinks names, in order, the links of a namespace that are not the wall's.
func extraLinks(in insideFacts) (names []string) {
	for _, l := range in.links {
		if l.name != innerName && !harmless(l) {
			names = append(names, l.name)
		}
	}
	slices.Sort(names)
	return names
}

// fallbacks are the tunnels without a peer that some kernels put into every
// new namespace, down, once their module is loaded. Nobody can delete them.
var fallbacks = map[string]string{
	"tunl0": "ipip", "gre0": "gre", "gretap0": "gretap", "erspan0": "erspan", "ip_vti0": "vti",
	"sit0": "sit", "ip6tnl0": "ip6tnl", "ip6gre0": "ip6gre", "ip6_vti0": "vti6",
}

// harmless says whether nothing can get out by a link.
func harmless(l attrs) bool {
	return l.name == "lo" || !l.up && fallbacks[l.name] == l.kind && l.kind != ""
}

// extraRoutes are the routes but those that the kernel adds with the address.
func extraRoutes(s host.WallSpec, in insideFacts) (extra []netlink.Route) {
	inner := in.link(innerName)
	for _, r := range in.routes {
		if !kernelRoute(s, r) || inner != nil && r.LinkIndex != inner.index {
			extra = append(extra, r)
		}
	}
	return extra
}

// connected says whether the route to the bundle's network is there.
func connected(s host.WallSpec, in insideFacts) bool {
	return slices.ContainsFunc(in.routes, func(r netlink.Route) bool {
		return r.Table == unix.RT_TABLE_MAIN && r.Dst != nil && prefixOf(*r.Dst) == s.Subnet && kernelRoute(s, r)
	})
}

func kernelRoute(s host.WallSpec, r netlink.Route) bool {
	if r.Protocol != unix.RTPROT_KERNEL || r.Gw != nil || len(r.MultiPath) > 0 || r.Dst == nil {
		return false
	}
	dst := prefixOf(*r.Dst)
	if dst.Addr().Is6() { // fe80::/64 and ff00::/8, where IPv6 could not be turned off
		return dst.Addr().IsLinkLocalUnicast() || dst.Addr().IsMulticast()
	}
	if r.Table == unix.RT_TABLE_LOCAL {
		return dst.IsSingleIP() && s.Subnet.Contains(dst.Addr())
	}
	return r.Table == unix.RT_TABLE_MAIN && dst == s.Subnet
}

func prefixOf(n net.IPNet) netip.Prefix {
	ip, _ := netip.AddrFromSlice(n.IP)
	ones, size := n.Mask.Size()
	if ip.Is4In6() && size == 32 {
		ip = ip.Unmap()
	}
	return netip.PrefixFrom(ip, ones)
}
