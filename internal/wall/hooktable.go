// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// hookTable is a table that helps the walls in the calling thread's network namespace. It
// has only base chains that accept what their rules do not match.
type hookTable struct {
	family nftables.TableFamily
	name   string
	chains []hookChain
}

// hookChain is a chain of a hookTable.
type hookChain struct {
	name     string
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	rules    []rule
}

// String returns the family and the name, as nft writes them.
func (t hookTable) String() string {
	if t.family == nftables.TableFamilyINet {
		return "inet " + t.name
	}
	return "ip " + t.name
}

// fault says what is wrong with the table; "" if nothing is.
func (t hookTable) fault() (string, error) { return t.compare(slices.Equal[[]string]) }

// lack is fault for a table that may have more rules than it must.
func (t hookTable) lack() (string, error) {
	return t.compare(func(got, want []string) bool {
		return !slices.ContainsFunc(want, func(rule string) bool { return !slices.Contains(got, rule) })
	})
}

// compare says what is wrong with the table, given which of its rules suffice.
func (t hookTable) compare(suffice func(got, want []string) bool) (string, error) {
	rs, err := openFamily(t.family)
	if err != nil {
		return "", err
	}
	defer rs.close()
	found, err := rs.one(unix.NFT_MSG_GETTABLE, netlink.Attribute{Type: unix.NFTA_TABLE_NAME, Data: cString(t.name)})
	switch {
	case err != nil:
		return "", fmt.Errorf("read nftables table %s: %w", t, err)
	case found == nil:
		return "is missing", nil
	case parseTable(found).dormant:
		return "is switched off", nil
	}
	var want []string
	for _, c := range t.chains {
		found, err := rs.one(unix.NFT_MSG_GETCHAIN, netlink.Attribute{Type: unix.NFTA_CHAIN_TABLE, Data: cString(t.name)},
			netlink.Attribute{Type: unix.NFTA_CHAIN_NAME, Data: cString(c.name)})
		if err != nil {
			return "", fmt.Errorf("read nftables chain %s %s: %w", t, c.name, err)
		}
		if found == nil || !c.equal(parseChain(found)) {
			return "has lost a chain", nil
		}
		for _, r := range c.rules {
			form, err := normalOf(r)
			if err != nil {
				return "", err
			}
			want = append(want, c.name+" "+string(form))
		}
	}
	rules, err := rs.rules(t.name)
	if err != nil {
		return "", err
	}
	var got []string
	for _, r := range rules {
		got = append(got, r.chain+" "+string(r.normal))
	}
	if !suffice(got, want) {
		return "has other rules than it should", nil
	}
	return "", nil
}

func (c hookChain) equal(found chain) bool {
	return found.base && found.kind == string(nftables.ChainTypeFilter) && found.hook == uint32(*c.hook) &&
		found.priority == int32(*c.priority) && found.policy == uint32(nftables.ChainPolicyAccept)
}

// ensure writes the table unless it is as it should be.
func (t hookTable) ensure() error {
	if fault, err := t.fault(); err != nil || fault == "" {
		return err
	}
	return t.write()
}

// write replaces the table, in one transaction.
func (t hookTable) write() error {
	c, err := nftables.New(nftables.WithSockOptions(withRoom))
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: t.family, Name: t.name}
	c.AddTable(table) // so that there is a table to delete
	c.DelTable(table)
	c.AddTable(table)
	for _, h := range t.chains {
		chain := c.AddChain(&nftables.Chain{Name: h.name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: h.hook, Priority: h.priority})
		for _, r := range h.rules {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: r.exprs, UserData: commentOf(r)})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", t, err)
	}
	return nil
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
