// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Where br_netfilter is on, as it is on the nodes of most clusters, the kernel passes
// what a bridge forwards through the node's IPv4 hooks, too. A rule of kube-proxy or of
// a CNI could then send what a machine says to its bundle to a Pod or to the node. Such
// rules (NAT) apply to tracked connections only, so the filter of a wall marks as
// untracked what it lets through.
//
// The bundle's answers must then be untracked as well: otherwise the kernel would see
// them as invalid, and kube-proxy drops those. One table of the node does that for all
// walls. It keeps nothing out: without it, guests cannot reach their bundles on some
// nodes.
const (
	bridgesTable = "bottle-bridges"
	bridgesChain = "prerouting"
	bridgePrefix = "bb-" // see host.Owner
)

// bridgesRule matches IPv4 packets that arrive on the bridge of a bundle and leave
// through the same bridge.
var bridgesRule = rule{comment: markPrefix + "stays in its bridge", exprs: []expr.Any{
	&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg0},
	&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte(bridgePrefix)},
	&expr.Fib{Register: reg0, ResultOIF: true, FlagDADDR: true, FlagIIF: true, FlagPRESENT: true},
	&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{1}},
	&expr.Counter{},
	&expr.Notrack{},
}}

// bridgesFault says what is wrong with the table; "" if nothing is.
func bridgesFault() (string, error) {
	rs, err := openFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return "", err
	}
	defer rs.close()
	found, err := rs.one(unix.NFT_MSG_GETTABLE, netlink.Attribute{Type: unix.NFTA_TABLE_NAME, Data: cString(bridgesTable)})
	if err != nil {
		return "", fmt.Errorf("read nftables table ip %s: %w", bridgesTable, err)
	}
	if found == nil {
		return "is missing", nil
	}
	if parseTable(found).dormant {
		return "is switched off", nil
	}
	if found, err = rs.one(unix.NFT_MSG_GETCHAIN, netlink.Attribute{Type: unix.NFTA_CHAIN_TABLE, Data: cString(bridgesTable)},
		netlink.Attribute{Type: unix.NFTA_CHAIN_NAME, Data: cString(bridgesChain)}); err != nil {
		return "", fmt.Errorf("read nftables chain ip %s %s: %w", bridgesTable, bridgesChain, err)
	}
	if found == nil || !bridgesHook(parseChain(found)) {
		return "has lost its chain", nil
	}
	rules, err := rs.rules(bridgesTable)
	if err != nil {
		return "", err
	}
	want, err := normalOf(bridgesRule)
	if err != nil {
		return "", err
	}
	if len(rules) != 1 || rules[0].chain != bridgesChain || string(rules[0].normal) != string(want) {
		return "has other rules than it should", nil
	}
	return "", nil
}

func bridgesHook(c chain) bool {
	return c.base && c.kind == string(nftables.ChainTypeFilter) && c.hook == unix.NF_INET_PRE_ROUTING &&
		c.priority == int32(*nftables.ChainPriorityRaw) && c.policy == uint32(nftables.ChainPolicyAccept)
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
	chain := c.AddChain(&nftables.Chain{
		Name: bridgesChain, Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: bridgesRule.exprs, UserData: commentOf(bridgesRule)})
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
