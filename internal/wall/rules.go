// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// setSize bounds how many dropped destinations of each kind are recorded.
	// setTimeout is how long a destination is kept if no more packets to it are
	// dropped.
	setSize    = 1024
	setTimeout = 5 * time.Minute

	// The sets of dropped destinations, by kind.
	setARP, setIPv4, setIPv6, setEther = "arp", "ip4", "ip6", "ether"

	protoTCP, protoUDP = unix.IPPROTO_TCP, unix.IPPROTO_UDP

	// The registers of a set's key: one of 16 bytes, or four of 4 bytes in the same
	// place.
	reg16 = unix.NFT_REG_1
	reg0  = unix.NFT_REG_1 // also the kernel's name for the first 4 bytes
	reg1  = unix.NFT_REG32_01
	reg2  = unix.NFT_REG32_02
	reg4  = unix.NFT_REG_2
	reg5  = unix.NFT_REG32_05
)

// rule is one rule of the chain. Each has exactly one counter.
type rule struct {
	exprs   []expr.Any
	comment string
	// port is set for the rules that let TCP through.
	port int32
	// drops means that the rule drops what it matches.
	drops bool
}

// rulesOf returns the rules of a wall's filter, in order. They do not depend on
// anything that is found on the node.
//
// The filter stands at the bundle's end of the link and trusts nothing:
//
//   - not the source addresses: root in a namespace can write any;
//   - not the destination MAC address: the bridge passes a frame for its own
//     address, or for a port's, to the node's IP stack, whatever its IP
//     destination;
//   - not the kernel's idea of the protocol: for a frame with a VLAN tag, it is
//     the protocol behind the tag;
//   - no fragment: only the first one has ports;
//   - no IP option: it may be a source route.
func rulesOf(s host.WallSpec) []rule {
	machine, bundle := s.MachineIP.AsSlice(), s.BundleIP.AsSlice()
	var rules []rule
	for _, port := range portsOf(s) {
		rules = append(rules, rule{port: port, comment: fmt.Sprintf("bundle port %d", port), exprs: slices.Concat(
			match(link(0, 14), header(s, host.BundleMAC(s.BundleIP), unix.ETH_P_IP)),
			match(network(0, 1), []byte{0x45}),
			matchMasked(network(6, 2), []byte{0x3f, 0xff}, []byte{0, 0}),
			match(network(9, 1), []byte{protoTCP}),
			match(network(12, 8), slices.Concat(machine, bundle)),
			match(destinationPort(), binary.BigEndian.AppendUint16(nil, uint16(port))),
			[]expr.Any{&expr.Notrack{}}, // see bridgesTable
			verdict(expr.VerdictAccept),
		)})
	}
	rules = append(rules,
		arpRule(s, broadcast, arpRequest, arpRequest),
		arpRule(s, host.BundleMAC(s.BundleIP), arpRequest, arpReply))
	return append(rules, dropRules(markOf(s.Owner))...)
}

// The operations of ARP.
const arpRequest, arpReply = 1, 2

// broadcast is the broadcast MAC address.
var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// arpRule accepts the ARP packets from the machine to dst that are about the
// bundle's address, with an operation from first to last. Requests may be
// broadcast. Requests (which Linux sends to check a neighbour that it knows) and
// replies may go to the bundle. The target's MAC address is not checked: a request
// has none, and the receiver of a reply does not read it.
func arpRule(s host.WallSpec, dst net.HardwareAddr, first, last byte) rule {
	return rule{comment: fmt.Sprintf("ARP for the bundle, to %s", dst), exprs: slices.Concat(
		match(link(0, 14), header(s, dst, unix.ETH_P_ARP)),
		match(network(0, 6), []byte{0, 1, 0x08, 0x00, 6, 4}),
		[]expr.Any{
			network(6, 2),
			&expr.Cmp{Op: expr.CmpOpGte, Register: reg0, Data: []byte{0, first}},
			&expr.Cmp{Op: expr.CmpOpLte, Register: reg0, Data: []byte{0, last}},
		},
		match(network(8, 10), slices.Concat(machineMAC(s.Owner), s.MachineIP.AsSlice())),
		match(network(24, 4), s.BundleIP.AsSlice()),
		verdict(expr.VerdictAccept),
	)}
}

// header returns the Ethernet header of an untagged frame from the machine to dst.
func header(s host.WallSpec, dst net.HardwareAddr, protocol uint16) []byte {
	return binary.BigEndian.AppendUint16(slices.Concat(dst, machineMAC(s.Owner)), protocol)
}

// dropRules returns rules that record the destination of a packet and drop the
// packet. If a set is full, its rule ends early, and the packet falls through to
// the last rule, which always drops. Here the kernel's idea of the protocol is
// right: the destination of a tagged frame is the one behind the tag.
func dropRules(mark string) []rule {
	of := func(protocol uint16) []expr.Any {
		return slices.Concat([]expr.Any{&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: reg0}},
			[]expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: binary.BigEndian.AppendUint16(nil, protocol)}})
	}
	rules := [][]expr.Any{
		slices.Concat(of(unix.ETH_P_ARP), []expr.Any{network(24, 4), recordIn(setARP)}),
	}
	for _, proto := range []byte{protoTCP, protoUDP} {
		rules = append(rules, slices.Concat(of(unix.ETH_P_IP), match(network(9, 1), []byte{proto}),
			matchMasked(network(6, 2), []byte{0x1f, 0xff}, []byte{0, 0}), // later fragments have no ports
			[]expr.Any{into(network(16, 4), reg0), into(network(9, 1), reg1), into(destinationPort(), reg2), recordIn(setIPv4)}))
	}
	rules = append(rules, slices.Concat(of(unix.ETH_P_IP),
		[]expr.Any{into(network(16, 4), reg0), into(network(9, 1), reg1), noPort(reg2), recordIn(setIPv4)}))
	for _, proto := range []byte{protoTCP, protoUDP} {
		rules = append(rules, slices.Concat(of(unix.ETH_P_IPV6), match(network(6, 1), []byte{proto}),
			[]expr.Any{into(network(24, 16), reg16), into(network(6, 1), reg4), into(destinationPort(), reg5), recordIn(setIPv6)}))
	}
	rules = append(rules,
		slices.Concat(of(unix.ETH_P_IPV6), []expr.Any{into(network(24, 16), reg16), into(network(6, 1), reg4), noPort(reg5), recordIn(setIPv6)}),
		[]expr.Any{&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: reg0}, recordIn(setEther)},
		nil, // everything else
	)
	out := make([]rule, len(rules))
	for i, exprs := range rules {
		out[i] = rule{drops: true, exprs: append(exprs, verdict(expr.VerdictDrop)...)}
	}
	out[len(out)-1].comment = mark
	return out
}

// portsOf returns the ports in order, each once.
func portsOf(s host.WallSpec) []int32 {
	return slices.Compact(slices.Sorted(slices.Values(s.Ports)))
}

func payload(base expr.PayloadBase, offset, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: reg0, Base: base, Offset: offset, Len: length}
}

func link(offset, length uint32) *expr.Payload {
	return payload(expr.PayloadBaseLLHeader, offset, length)
}

func network(offset, length uint32) *expr.Payload {
	return payload(expr.PayloadBaseNetworkHeader, offset, length)
}

// destinationPort is the destination port of TCP and UDP.
func destinationPort() *expr.Payload {
	return payload(expr.PayloadBaseTransportHeader, 2, 2)
}

func into(p *expr.Payload, register uint32) *expr.Payload {
	p.DestRegister = register
	return p
}

func match(p *expr.Payload, want []byte) []expr.Any {
	return []expr.Any{p, &expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: want}}
}

func matchMasked(p *expr.Payload, mask, want []byte) []expr.Any {
	return []expr.Any{p,
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: want}}
}

func noPort(register uint32) expr.Any {
	return &expr.Immediate{Register: register, Data: []byte{0, 0}}
}

// recordIn counts a packet under the key in the registers. Another packet to the
// same destination renews the timeout.
func recordIn(set string) expr.Any {
	return &expr.Dynset{SrcRegKey: reg0, SetName: set, SetID: setIDs[set], Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{&expr.Counter{}}}
}

func verdict(kind expr.VerdictKind) []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: kind}}
}

// setIDs identify the sets within the transaction that makes them.
var setIDs = map[string]uint32{setARP: 1, setIPv4: 2, setIPv6: 3, setEther: 4}

// setsOf returns the sets of a wall's table.
func setsOf(table *nftables.Table) []*nftables.Set {
	sets := []*nftables.Set{
		{Name: setARP, KeyType: nftables.TypeIPAddr},
		{Name: setIPv4, KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService), Concatenation: true},
		{Name: setIPv6, KeyType: nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService), Concatenation: true},
		{Name: setEther, KeyType: nftables.TypeEtherType},
	}
	for _, s := range sets {
		s.Table, s.ID, s.Size = table, setIDs[s.Name], setSize
		s.Dynamic, s.HasTimeout, s.Timeout = true, true, setTimeout
	}
	return sets
}

// priority is the earliest priority that a chain can have.
var priority = nftables.ChainPriorityFirst

// replaceFilter replaces the wall's table in one transaction. At every moment there
// is a table, and the new chain drops everything until its rules are there.
func replaceFilter(s host.WallSpec, rules []rule) error {
	c, err := nftables.New(nftables.WithSockOptions(withRoom))
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyNetdev, Name: tableName(s.Owner)}
	c.AddTable(table) // so that there is a table to delete
	c.DelTable(table)
	c.AddTable(table)
	drop := nftables.ChainPolicyDrop
	chain := c.AddChain(&nftables.Chain{
		Name: chainName, Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookIngress, Priority: priority, Policy: &drop, Device: s.Owner.Veth(),
	})
	for _, set := range setsOf(table) {
		if err := c.AddSet(set, nil); err != nil {
			return err
		}
	}
	for _, r := range rules {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: r.exprs, UserData: commentOf(r)})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write nftables table netdev %s: %w", table.Name, err)
	}
	return nil
}

// room is the socket buffer size in bytes. It has room for a transaction of
// hundreds of rules and the kernel's reply to each. A lost reply looks like a
// failed transaction.
const room = 8 << 20

func withRoom(c *netlink.Conn) error {
	return errors.Join(c.SetReadBuffer(room), c.SetWriteBuffer(room))
}

func commentOf(r rule) []byte {
	if r.comment == "" {
		return nil
	}
	return userdata.AppendString(nil, userdata.TypeComment, r.comment)
}

// deleteFilter deletes the table of a wall. It returns nil if there is none.
func deleteFilter(name string) error { return deleteTable(nftables.TableFamilyNetdev, name) }

func deleteTable(family nftables.TableFamily, name string) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: family, Name: name}
	c.AddTable(table)
	c.DelTable(table)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("delete nftables table %s: %w", name, err)
	}
	return nil
}

func addrOf(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}
