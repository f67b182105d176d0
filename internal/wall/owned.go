// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"fmt"

	"botbottle.dev/bottle-operator/internal/host"
)

// whose says to whom a mark points, as seen by an owner.
type whose int

const (
	unmarked whose = iota
	ours
	others
)

func whoseMark(mark string, o host.Owner) whose {
	w, ok := parseMark(mark)
	switch {
	case !ok:
		return unmarked
	case w.UID == o.UID && w.Cluster == o.Cluster:
		return ours
	}
	return others
}

// nodeEnd: a link without a mark is ours when it leads into our namespace; it
// has no mark yet, or lost it.
func (f facts) whoseNodeEnd(o host.Owner) whose {
	if f.nodeEnd == nil {
		return unmarked
	}
	switch w := whoseMark(f.nodeEnd.alias, o); {
	case w != unmarked:
		return w
	case f.paired() && f.whoseLoopback(o) != others:
		return ours
	}
	return others
}

func (f facts) whoseLoopback(o host.Owner) whose {
	lo := f.inside.link("lo")
	if lo == nil {
		return unmarked
	}
	return whoseMark(lo.alias, o)
}

// whoseNetNS: a namespace without a mark is ours when our link leads into it.
func (f facts) whoseNetNS(o host.Owner) whose {
	switch {
	case f.kind == fileAbsent:
		return unmarked
	case !f.known():
		return others
	case f.whoseLoopback(o) != unmarked:
		return f.whoseLoopback(o)
	case f.paired() && whoseMark(f.nodeEnd.alias, o) == ours:
		return ours
	}
	return others
}

// whoseTable: a table without a mark is ours by its name, unless the link that
// it filters is not.
func (f facts) whoseTable(o host.Owner) whose {
	if f.filter.table == nil {
		return unmarked
	}
	for _, r := range f.filter.rules {
		if w := whoseMark(r.comment, o); w != unmarked {
			return w
		}
	}
	if f.whoseNodeEnd(o) == others {
		return others
	}
	return ours
}

// conflict is ErrConflict, naming what is in the wall's way.
func (f facts) conflict(o host.Owner) error {
	named := func(what, name, mark string) error {
		by := "bears no mark of a wall's"
		if w, ok := parseMark(mark); ok {
			by = fmt.Sprintf("is %s's (uid %s) of cluster %s", w.ID, w.UID, w.Cluster)
		}
		return fmt.Errorf("wall %s: %s %s %s: %w", o.ID(), what, name, by, host.ErrConflict)
	}
	switch {
	case f.inside.err != nil:
		return fmt.Errorf("wall %s: %w", o.ID(), f.inside.err)
	case f.bridge != nil && f.bridge.kind != "bridge":
		return fmt.Errorf("wall %s: link %s is no bridge: %w", o.ID(), o.Bridge(), host.ErrConflict)
	case f.whoseNodeEnd(o) == others:
		return named("link", o.Veth(), f.nodeEnd.alias)
	case f.whoseNetNS(o) == others:
		mark := ""
		if lo := f.inside.link("lo"); lo != nil {
			mark = lo.alias
		}
		return named("network namespace", f.path, mark)
	case f.whoseTable(o) == others:
		mark := ""
		for _, r := range f.filter.rules {
			if _, ok := parseMark(r.comment); ok {
				mark = r.comment
			}
		}
		return named("nftables table netdev", tableName(o), mark)
	}
	return nil
}
