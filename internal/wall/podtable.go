// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// podTableName is the name of a table in a Pod's network namespace.
const podTableName = "bottle-pod"

// podTable returns the second filter: the table that stands in a Pod's network namespace
// beside the filter of the wall. It replaces the table of the bridges there.
//
// Its chain prerouting keeps everybody but the machine from the bundle, over IPv4 and IPv6
// and whatever the destination address: the Pod has an address that every other Pod and
// every node can reach, and the bundle may hold credentials. It drops every TCP packet that
// requests a connection, to any port, unless it arrives through the bundle's bridge or comes
// from the Pod itself. So the bundle can connect to others, but others cannot connect to it,
// not even to a port that it does not declare. A fragment that would bring the flags of a
// TCP header alone is dropped, too, because that rule cannot see them. (For IPv6, the kernel
// refuses such fragments.) From elsewhere, no packet at all passes to a declared port: this
// also ends connections that are older than the table. The chain comes before any rule that
// redirects packets. It names the links that are accepted, so that a link that is added
// later is not. It also comes before connection tracking, so it would drop the answers to a
// connection that the bundle opened from one of its declared ports. The kernel never chooses
// such a port, because the bundle listens on it.
//
// Its chain output marks the bundle's answers as untracked, as the filter does with what the
// machine sends. Otherwise, a rule of the Pod's, such as a service mesh's, could redirect
// them.
//
// Its chain forward drops what the Pod would forward from or to the bridge. The bridge does
// not forward what it receives, but eth0 does: another Pod could send packets to the
// machine.
//
// The table does not keep the machine in, so a wall without the table is not open.
func podTable(s host.WallSpec) hookTable {
	named := func(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
		whole := make([]byte, unix.IFNAMSIZ) // with the zeros, so that a longer name differs
		copy(whole, name)
		return []expr.Any{&expr.Meta{Key: key, Register: reg0}, &expr.Cmp{Op: op, Register: reg0, Data: whole}}
	}
	is := func(key expr.MetaKey, value byte) []expr.Any {
		return []expr.Any{&expr.Meta{Key: key, Register: reg0}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{value}}}
	}
	drop := func(what string, matches ...[]expr.Any) rule {
		elsewhere := slices.Concat(named(expr.MetaKeyIIFNAME, expr.CmpOpNeq, "lo"), named(expr.MetaKeyIIFNAME, expr.CmpOpNeq, s.Owner.Bridge()), is(expr.MetaKeyL4PROTO, protoTCP))
		return rule{drops: true, comment: markPrefix + what + " from elsewhere", exprs: slices.Concat(elsewhere, slices.Concat(matches...), verdict(expr.VerdictDrop))}
	}
	drops := []rule{
		drop("new connection", matchMasked(payload(expr.PayloadBaseTransportHeader, 13, 1), []byte{tcpSYN | tcpACK}, []byte{tcpSYN})),
		drop("tiny fragment", is(expr.MetaKeyNFPROTO, unix.NFPROTO_IPV4), matchMasked(network(6, 2), []byte{0x1f, 0xff}, []byte{0, 1})),
	}
	for _, port := range portsOf(s) {
		drops = append(drops, drop(fmt.Sprintf("bundle port %d", port), match(destinationPort(), binary.BigEndian.AppendUint16(nil, uint16(port)))))
	}
	answers := rule{comment: markPrefix + "to the machine", exprs: append(named(expr.MetaKeyOIFNAME, expr.CmpOpEq, s.Owner.Bridge()), &expr.Counter{}, &expr.Notrack{})}
	return hookTable{family: nftables.TableFamilyINet, name: podTableName, chains: []hookChain{
		{"prerouting", nftables.ChainHookPrerouting, priority, drops},
		{"forward", nftables.ChainHookForward, priority, []rule{
			{drops: true, comment: markPrefix + "from the bridge", exprs: append(named(expr.MetaKeyIIFNAME, expr.CmpOpEq, s.Owner.Bridge()), verdict(expr.VerdictDrop)...)},
			{drops: true, comment: markPrefix + "to the bridge", exprs: append(named(expr.MetaKeyOIFNAME, expr.CmpOpEq, s.Owner.Bridge()), verdict(expr.VerdictDrop)...)},
		}},
		{"output", nftables.ChainHookOutput, nftables.ChainPriorityRaw, []rule{answers}},
	}}
}

// tcpSYN and tcpACK are flags of a TCP header. A packet with the first one alone requests a
// connection.
const tcpSYN, tcpACK = 0x02, 0x10

// secureBridge turns forwarding off and takes other links out of the bridge. EnsureWall has
// written the podTable before.
func (p podSide) secureBridge(spec host.WallSpec, f facts) error {
	bridge := spec.Owner.Bridge()
	on, err := forwards(bridge)
	if err == nil && on {
		err = os.WriteFile(forwarding(bridge), []byte("0"), 0)
	}
	if err != nil {
		return fmt.Errorf("forwarding of bridge %s: %w", bridge, err)
	}
	for _, name := range f.pod.ports {
		l, err := netlink.LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue
		}
		if err == nil {
			err = netlink.LinkSetNoMaster(l)
		}
		if err != nil {
			return fmt.Errorf("take link %q out of bridge %s: %w", name, bridge, err)
		}
	}
	return nil
}
