// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
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

// bridgesHooks is that table.
var bridgesHooks = hookTable{family: nftables.TableFamilyIPv4, name: bridgesTable, chains: []hookChain{
	{"prerouting", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, []rule{{
		comment: markPrefix + "stays in its bridge", exprs: slices.Concat(
			bridge(expr.MetaKeyIIFNAME),
			[]expr.Any{
				// It leaves through the bridge on which it arrived.
				&expr.Fib{Register: reg0, ResultOIF: true, FlagDADDR: true, FlagIIF: true, FlagPRESENT: true},
				&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{1}},
				&expr.Counter{},
				&expr.Notrack{},
			}),
	}}},
	{"forward", nftables.ChainHookForward, nftables.ChainPriorityFilter, []rule{{
		comment: markPrefix + "to a bundle from elsewhere", exprs: slices.Concat(
			bridge(expr.MetaKeyOIFNAME),
			[]expr.Any{
				&expr.Ct{Key: expr.CtKeySTATE, Register: reg0},
				&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, expr.CtStateBitNEW|expr.CtStateBitINVALID), Xor: make([]byte, 4)},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: make([]byte, 4)},
			},
			verdict(expr.VerdictDrop)),
	}}},
}}

// bridge matches the bridges of bundles.
func bridge(key expr.MetaKey) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: reg0}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte(bridgePrefix)}}
}

// ensureBridgesTable writes the table unless it is as it should be.
func (w *Walls) ensureBridgesTable() error {
	w.bridgesMu.Lock()
	defer w.bridgesMu.Unlock()
	return bridgesHooks.ensure()
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
