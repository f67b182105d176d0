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

// judgment compares the facts with the spec, and decides which faults are open.
// While the filter stands on the only link that leads out of the namespace,
// nothing that happens inside the namespace opens the wall.
type judgment struct {
	spec   host.WallSpec
	want   *expected
	facts  facts
	faults []host.WallFault
}

func judge(spec host.WallSpec, want *expected, f facts) []host.WallFault {
	j := &judgment{spec: spec, want: want, facts: f}
	if f.kind == fileAbsent && f.bundleEnd == nil {
		j.closedFault("there is no wall")
		return j.faults
	}
	j.namespace()
	if f.pod != nil && f.pod.gone {
		j.withoutPod()
		return j.faults
	}
	j.ends()
	j.filter()
	j.inside()
	if f.bridges != "" {
		j.closedFault("table %s %s", bridgesHooks, f.bridges)
	}
	if f.pod != nil {
		j.pod()
	}
	return j.faults
}

func (j *judgment) closedFault(format string, args ...any) {
	j.faults = append(j.faults, host.WallFault{What: fmt.Sprintf(format, args...)})
}

func (j *judgment) openFault(format string, args ...any) {
	j.faults = append(j.faults, host.WallFault{What: fmt.Sprintf(format, args...), Open: true})
}

// namespace checks that the namespace exists and is ours.
func (j *judgment) namespace() {
	f := j.facts
	switch {
	case f.kind == fileAbsent:
		j.closedFault("namespace %s is missing", f.path)
	case f.kind == fileForeign:
		j.closedFault("%s is not a network namespace", f.path)
	case f.node && f.pod != nil:
		j.openFault("%s is the network namespace of the node or of the Pod", f.path)
	case f.node:
		j.openFault("%s is the node's own network namespace", f.path)
	case !j.namespaceMarked():
		j.closedFault("namespace %s does not have the wall's mark", f.path)
	}
}

// known reports whether the inside of the namespace was read.
func (f facts) known() bool { return f.kind == fileNetNS && !f.node && f.inside.err == nil }

func (j *judgment) namespaceMarked() bool {
	lo := j.facts.inside.link("lo")
	return lo != nil && lo.alias == markOf(j.spec.Owner)
}

// paired reports whether the bundle's end and the link inside are the two ends of
// one veth pair.
func (f facts) paired() bool {
	end, inner := f.bundleEnd, f.inside.link(innerName)
	return f.known() && end != nil && inner != nil && end.kind == "veth" && inner.kind == "veth" &&
		end.parent == inner.index && inner.parent == end.index &&
		end.peersNS == f.inside.peersNS
}

// ends checks the link, where it leads to, and the bridge that it is in.
func (j *judgment) ends() {
	f, name, bridge := j.facts, j.spec.Owner.Veth(), j.spec.Owner.Bridge()
	inner := f.inside.link(innerName)
	switch end := f.bundleEnd; {
	case end == nil && inner != nil:
		j.openFault("link %s is missing while %s is in the namespace", name, innerName)
	case end == nil:
		j.closedFault("link %s is missing", name)
	case f.known() && !f.paired() && inner != nil:
		j.openFault("%s in the namespace does not lead to link %s", innerName, name)
	case f.known() && !f.paired():
		j.closedFault("link %s does not lead into the namespace", name)
	}
	if f.bridge == nil {
		j.closedFault("bridge %s is missing", bridge)
	}
	end := f.bundleEnd
	if end == nil {
		return
	}
	if end.alias != markOf(j.spec.Owner) {
		j.closedFault("link %s does not have the wall's mark", name)
	}
	switch {
	case end.master == 0:
		j.closedFault("link %s is not in a bridge", name)
	case f.bridge == nil || end.master != f.bridge.index:
		j.openFault("link %s is in a bridge other than %s", name, bridge)
	case end.mtu != f.bridge.mtu:
		j.closedFault("link %s has a different MTU from its bridge", name)
	}
	if !end.up {
		j.closedFault("link %s is down", name)
	}
	j.addresses()
	if end.xdp {
		j.openFault("link %s has an XDP program, which comes before the filter", name)
	}
}

// addresses checks MAC addresses. The bridge passes frames for its own MAC address
// and for those of its ports to the node's IP stack, so none of these addresses
// may be the bundle's.
func (j *judgment) addresses() {
	end, bridge, bundle := j.facts.bundleEnd, j.facts.bridge, host.BundleMAC(j.spec.BundleIP).String()
	switch {
	case end.mac == bundle:
		j.openFault("link %s has the bundle's MAC address", end.name)
	case end.mac != bundleEndMAC(j.spec.Owner).String():
		j.closedFault("link %s has a wrong MAC address", end.name)
	}
	if bridge != nil && bridge.mac == bundle && j.facts.pod == nil {
		j.openFault("bridge %s has the bundle's MAC address", bridge.name)
	}
}

// leadsOut reports whether there is a link that needs the filter.
func (f facts) leadsOut() bool {
	return f.bundleEnd != nil || slices.ContainsFunc(f.inside.links, func(l attrs) bool { return !harmless(l) })
}

// filter checks that the filter exists, is as written, and sees packets first.
func (j *judgment) filter() {
	report := j.closedFault
	if j.facts.leadsOut() {
		report = j.openFault
	}
	f, name := j.facts.filter, tableName(j.spec.Owner)
	if what := filterFault(f, j.want); what != "" {
		report("filter %s %s", name, what)
		j.faults[len(j.faults)-1].Rules = what == otherRules
	}
	for _, chain := range f.earlier {
		report("chain %q sees packets before filter %s", chain, name)
	}
}

// filterFault says what is wrong with a filter; "" if nothing is.
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
		return "has a chain with other settings than the wall's"
	case !want.equal(f.rules):
		return otherRules
	}
	return ""
}

// otherRules is the fault of a filter that is in place but has wrong rules.
const otherRules = "has other rules than the wall's"

func wantedChain(c chain, device string) bool {
	return c.base && c.kind == string(nftables.ChainTypeFilter) && c.hook == unix.NF_NETDEV_INGRESS &&
		c.priority == int32(*priority) && c.policy == uint32(nftables.ChainPolicyDrop) && slices.Equal(c.devices, []string{device})
}

// inside checks the inside of the namespace. Only another link there can open the
// wall.
func (j *judgment) inside() {
	if !j.facts.known() {
		return
	}
	in := j.facts.inside
	if lo := in.link("lo"); lo != nil && lo.up {
		j.closedFault("lo in the namespace is up")
	}
	j.extraLinks()
	inner := in.link(innerName)
	if inner == nil {
		j.closedFault("%s is missing in the namespace", innerName)
		return
	}
	if !inner.up {
		j.closedFault("%s in the namespace is down", innerName)
	}
	if inner.mac != machineMAC(j.spec.Owner).String() {
		j.closedFault("%s in the namespace has a wrong MAC address", innerName)
	}
	if j.facts.bridge != nil && inner.mtu != j.facts.bridge.mtu {
		j.closedFault("%s in the namespace has a different MTU from the bridge", innerName)
	}
	if !slices.Equal(in.addresses, []netip.Prefix{machinePrefix(j.spec)}) {
		j.closedFault("the namespace does not have exactly the address %s", machinePrefix(j.spec))
	}
	if len(extraRoutes(j.spec, in)) > 0 {
		j.closedFault("the namespace has routes other than the one to %s", j.spec.Subnet)
	}
	if inner.up && !connected(j.spec, in) {
		j.closedFault("the namespace has no route to %s", j.spec.Subnet)
	}
}

func (j *judgment) extraLinks() {
	for _, name := range extraLinks(j.facts.inside) {
		j.openFault("link %q is in the namespace", name)
	}
}

func machinePrefix(s host.WallSpec) netip.Prefix {
	return netip.PrefixFrom(s.MachineIP, s.Subnet.Bits())
}

// extraLinks returns the sorted names of the links in a namespace that are not
// the wall's.
func extraLinks(in insideFacts) (names []string) {
	for _, l := range in.links {
		if l.name != innerName && !harmless(l) {
			names = append(names, l.name)
		}
	}
	slices.Sort(names)
	return names
}

// fallbacks are the tunnels without a peer that some kernels put into every new
// namespace once their module is loaded. They are down, and nobody can delete
// them.
var fallbacks = map[string]string{
	"tunl0": "ipip", "gre0": "gre", "gretap0": "gretap", "erspan0": "erspan", "ip_vti0": "vti",
	"sit0": "sit", "ip6tnl0": "ip6tnl", "ip6gre0": "ip6gre", "ip6_vti0": "vti6",
}

// harmless reports whether nothing can get out through a link.
func harmless(l attrs) bool {
	return l.name == "lo" || !l.up && fallbacks[l.name] == l.kind && l.kind != ""
}

// extraRoutes returns all routes except those that the kernel adds with the
// address.
func extraRoutes(s host.WallSpec, in insideFacts) (extra []netlink.Route) {
	inner := in.link(innerName)
	for _, r := range in.routes {
		if !kernelRoute(s, r) || inner != nil && r.LinkIndex != inner.index {
			extra = append(extra, r)
		}
	}
	return extra
}

// connected reports whether the route to the bundle's network exists.
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
	if dst.Addr().Is6() { // fe80::/64 and ff00::/8, if IPv6 could not be turned off
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
