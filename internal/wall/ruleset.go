// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// dumpTries bounds how often a list is read if it keeps changing.
const dumpTries = 20

// ruleset reads the tables of one family from the kernel without loss. The library
// loses the device of a chain, the flags of a table, and every expression that it does
// not know.
type ruleset struct {
	conn   *netlink.Conn
	family nftables.TableFamily
}

// openRuleset opens the family of the walls' tables.
func openRuleset() (*ruleset, error) { return openFamily(nftables.TableFamilyNetdev) }

func openFamily(family nftables.TableFamily) (*ruleset, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return &ruleset{conn: conn, family: family}, nil
}

func (r *ruleset) close() { _ = r.conn.Close() }

// nftTableFlagOwner is NFT_TABLE_F_OWNER.
const nftTableFlagOwner = 2

// table is one table.
type table struct {
	name    string
	dormant bool // its chains are switched off
	owned   bool // it disappears with the process that made it
	chains  []chain
}

// chain is one chain of a table.
type chain struct {
	table, name, kind string
	base              bool
	hook, policy      uint32
	priority          int32
	devices           []string
}

// writtenRule is a rule as read from the kernel.
type writtenRule struct {
	chain   string
	normal  []byte
	comment string
	packets uint64
}

// tables returns all tables by name.
func (r *ruleset) tables() (map[string]*table, error) {
	out := map[string]*table{}
	tables, err := r.dump(unix.NFT_MSG_GETTABLE, nil)
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	for _, m := range tables {
		t := parseTable(m)
		out[t.name] = t
	}
	chains, err := r.dump(unix.NFT_MSG_GETCHAIN, nil)
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	for _, m := range chains {
		c := parseChain(m)
		if t := out[c.table]; t != nil {
			t.chains = append(t.chains, c)
		}
	}
	return out, nil
}

// generation returns a number that changes with every change of the node's
// ruleset, except for counts and for elements that packets add to sets.
func (r *ruleset) generation() (uint32, error) {
	messages, err := r.conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN),
			Flags: netlink.Request,
		},
		Data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		return 0, fmt.Errorf("generation of the nftables ruleset: %w", err)
	}
	for _, m := range messages {
		var id []byte
		if len(m.Data) >= 4 {
			attributes(m.Data[4:], func(kind uint16, b []byte) {
				if kind == unix.NFTA_GEN_ID {
					id = b
				}
			})
		}
		if len(id) == 4 {
			return number(id), nil
		}
	}
	return 0, errors.New("generation of the nftables ruleset: no answer")
}

func parseTable(m []byte) *table {
	t := &table{}
	attributes(m, func(kind uint16, b []byte) {
		switch kind {
		case unix.NFTA_TABLE_NAME:
			t.name = text(b)
		case unix.NFTA_TABLE_FLAGS:
			t.dormant = number(b)&unix.NFT_TABLE_F_DORMANT != 0
			t.owned = number(b)&nftTableFlagOwner != 0
		}
	})
	return t
}

func parseChain(m []byte) chain {
	var c chain
	attributes(m, func(kind uint16, b []byte) {
		switch kind {
		case unix.NFTA_CHAIN_TABLE:
			c.table = text(b)
		case unix.NFTA_CHAIN_NAME:
			c.name = text(b)
		case unix.NFTA_CHAIN_TYPE:
			c.kind = text(b)
		case unix.NFTA_CHAIN_POLICY:
			c.policy = number(b)
		case unix.NFTA_CHAIN_HOOK:
			c.base = true
			c.parseHook(b)
		}
	})
	return c
}

// hookDevs is NFTA_HOOK_DEVS.
const hookDevs = 4

func (c *chain) parseHook(hook []byte) {
	var single string
	attributes(hook, func(kind uint16, b []byte) {
		switch kind {
		case unix.NFTA_HOOK_HOOKNUM:
			c.hook = number(b)
		case unix.NFTA_HOOK_PRIORITY:
			c.priority = int32(number(b))
		case unix.NFTA_HOOK_DEV:
			single = text(b)
		case hookDevs:
			attributes(b, func(_ uint16, dev []byte) { c.devices = append(c.devices, text(dev)) })
		}
	})
	// The kernel reports a single device in both ways.
	if len(c.devices) == 0 && single != "" {
		c.devices = []string{single}
	}
}

// rules returns all rules of a table, in order within each chain.
func (r *ruleset) rules(table string) ([]writtenRule, error) {
	name, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: append([]byte(table), 0)}})
	if err != nil {
		return nil, err
	}
	messages, err := r.dump(unix.NFT_MSG_GETRULE, name)
	if err != nil {
		return nil, fmt.Errorf("list rules of nftables table %s: %w", table, err)
	}
	out := make([]writtenRule, 0, len(messages))
	for _, m := range messages {
		var w writtenRule
		var list, comment []byte
		attributes(m, func(kind uint16, b []byte) {
			switch kind {
			case unix.NFTA_RULE_CHAIN:
				w.chain = text(b)
			case unix.NFTA_RULE_EXPRESSIONS:
				list = b
			case unix.NFTA_RULE_USERDATA:
				comment = b
			}
		})
		w.normal, w.packets = appendRule(make([]byte, 0, len(list)), list)
		w.normal = appendComment(w.normal, comment)
		w.comment = commentIn(comment)
		out = append(out, w)
	}
	return out, nil
}

func commentIn(data []byte) string {
	// The library trusts the lengths in the data, but anyone may have written them.
	for rest := data; len(rest) > 0; rest = rest[2+int(rest[1]):] {
		if len(rest) < 2 || len(rest) < 2+int(rest[1]) {
			return ""
		}
	}
	comment, _ := userdata.GetString(data, userdata.TypeComment)
	return strings.TrimRight(comment, "\x00")
}

// errInterrupted means that a list changed while it was read.
var errInterrupted = errors.New("changed while it was read")

// dump lists objects of the family. It strips the headers of the messages.
func (r *ruleset) dump(kind int, filter []byte) (out [][]byte, err error) {
	for range dumpTries {
		out, err = r.dumpOnce(kind, filter)
		if !errors.Is(err, errInterrupted) {
			return out, err
		}
	}
	return out, err
}

func (r *ruleset) dumpOnce(kind int, filter []byte) ([][]byte, error) {
	messages, err := r.conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{byte(r.family), unix.NFNETLINK_V0, 0, 0}, filter...),
	})
	if err != nil {
		return nil, err
	}
	out := make([][]byte, 0, len(messages))
	for _, m := range messages {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return nil, errInterrupted
		}
		if len(m.Data) >= 4 {
			out = append(out, m.Data[4:])
		}
	}
	return out, nil
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

func number(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}
