// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Where br_netfilter is on, as it is on the nodes of most clusters, the kernel passes
// what a bridge forwards through the node's IPv4 hooks, too. A rule of kube-proxy or of
// a CNI could then redirect what a machine sends to its bundle to a Pod or to the node. Such
// rules (NAT) apply to tracked connections only, so the filter of a wall marks as
// untracked what it lets through.
//
// The bundle's answers must then be untracked as well: otherwise the kernel would see
// them as invalid, and kube-proxy drops those. One table of the node does that for all
// walls.
//
// The same table keeps everything that is forwarded, such as the traffic of Pods, from
// opening connections to bundles, which may hold credentials. Docker Engine 28 and newer
// do that themselves. Older ones rely on the policy DROP of the chain FORWARD, which they
// do not set on a node that forwards packets already.
//
// The table keeps no machine in: a wall without it is closed.
const (
	bridgesTable = "bottle-bridges"
	bridgePrefix = "bb-" // see host.Owner
)

// bridgesChain is a chain of the table, which has one rule.
type bridgesChain struct {
	name     string
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	rule     rule
}

var bridgesChains = []bridgesChain{
	{"prerouting", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, rule{
		comment: markPrefix + "stays in its bridge", exprs: slices.Concat(
			bridge(expr.MetaKeyIIFNAME),
			[]expr.Any{
				// It leaves through the bridge on which it arrived.
				&expr.Fib{Register: reg0, ResultOIF: true, FlagDADDR: true, FlagIIF: true, FlagPRESENT: true},
				&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{1}},
				&expr.Counter{},
				&expr.Notrack{},
			}),
	}},
	{"forward", nftables.ChainHookForward, nftables.ChainPriorityFilter, rule{
		comment: markPrefix + "to a bundle from elsewhere", exprs: slices.Concat(
			bridge(expr.MetaKeyOIFNAME),
			[]expr.Any{
				&expr.Ct{Key: expr.CtKeySTATE, Register: reg0},
				&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, expr.CtStateBitNEW|expr.CtStateBitINVALID), Xor: make([]byte, 4)},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: make([]byte, 4)},
			},
			verdict(expr.VerdictDrop)),
	}},
}

// bridge matches the bridges of bundles.
func bridge(key expr.MetaKey) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: reg0}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte(bridgePrefix)}}
}

// bridgesFault says what is wrong with the table; "" if nothing is.
func bridgesFault() (string, error) {
	rs, err := openFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return "", err
	}
	defer rs.close()
	found, err := rs.one(unix.NFT_MSG_GETTABLE, netlink.Attribute{Type: unix.NFTA_TABLE_NAME, Data: cString(bridgesTable)})
	switch {
	case err != nil:
		return "", fmt.Errorf("read nftables table ip %s: %w", bridgesTable, err)
	case found == nil:
		return "is missing", nil
	case parseTable(found).dormant:
		return "is switched off", nil
	}
	var want []string
	for _, c := range bridgesChains {
		found, err := rs.one(unix.NFT_MSG_GETCHAIN, netlink.Attribute{Type: unix.NFTA_CHAIN_TABLE, Data: cString(bridgesTable)},
			netlink.Attribute{Type: unix.NFTA_CHAIN_NAME, Data: cString(c.name)})
		if err != nil {
			return "", fmt.Errorf("read nftables chain ip %s %s: %w", bridgesTable, c.name, err)
		}
		if found == nil || !c.equal(parseChain(found)) {
			return "has lost a chain", nil
		}
		form, err := normalOf(c.rule)
		if err != nil {
			return "", err
		}
		want = append(want, c.name+" "+string(form))
	}
	rules, err := rs.rules(bridgesTable)
	if err != nil {
		return "", err
	}
	var got []string
	for _, r := range rules {
		got = append(got, r.chain+" "+string(r.normal))
	}
	if !slices.Equal(got, want) {
		return "has other rules than it should", nil
	}
	return "", nil
}

func (c bridgesChain) equal(found chain) bool {
	return found.base && found.kind == string(nftables.ChainTypeFilter) && found.hook == uint32(*c.hook) &&
		found.priority == int32(*c.priority) && found.policy == uint32(nftables.ChainPolicyAccept)
}

// ensureBridgesTable writes the table unless it is as it should be.
func (w *Walls) ensureBridgesTable() error {
	w.bridgesMu.Lock()
	defer w.bridgesMu.Unlock()
	if fault, err := bridgesFault(); err != nil || fault == "" {
		return err
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: bridgesTable}
	c.AddTable(table) // so that there is a table to delete
	c.DelTable(table)
	c.AddTable(table)
	for _, b := range bridgesChains {
		chain := c.AddChain(&nftables.Chain{Name: b.name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: b.hook, Priority: b.priority})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: b.rule.exprs, UserData: commentOf(b.rule)})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write nftables table ip %s: %w", table.Name, err)
	}
	return nil
}

// dropBridgesTable deletes the table if no wall is left. If a wall is being made
// meanwhile, its next inspection finds that the table is missing.
func (w *Walls) dropBridgesTable() error {
	w.bridgesMu.Lock()
	defer w.bridgesMu.Unlock()
	rs, err := openRuleset()
	if err != nil {
		return err
	}
	tables, err := rs.tables()
	rs.close()
	if err != nil {
		return err
	}
	for name := range tables {
		if isWallTable(name) {
			return nil
		}
	}
	return deleteTable(nftables.TableFamilyIPv4, bridgesTable)
}

// one gets a single object; nil if there is none. It strips the header.
func (r *ruleset) one(kind int, key ...netlink.Attribute) ([]byte, error) {
	name, err := netlink.MarshalAttributes(key)
	if err != nil {
		return nil, err
	}
	messages, err := r.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request},
		Data:   append([]byte{byte(r.family), unix.NFNETLINK_V0, 0, 0}, name...),
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		if len(m.Data) >= 4 {
			return m.Data[4:], nil
		}
	}
	return nil, errors.New("no answer")
}

func cString(s string) []byte { return append([]byte(s), 0) }
