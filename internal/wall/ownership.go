// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"fmt"

	"botbottle.dev/bottle-operator/internal/host"
)

// ownership says whether a mark, or something that can have one, belongs to an
// owner.
type ownership int

const (
	unmarked ownership = iota
	ours
	others
)

func ownershipOf(mark string, o host.Owner) ownership {
	w, ok := parseMark(mark)
	switch {
	case !ok:
		return unmarked
	case w.UID == o.UID && w.Cluster == o.Cluster:
		return ours
	}
	return others
}

// bundleEndOwnership: a link without a mark is ours if it leads into our namespace.
// It has no mark yet, or lost it.
func (f facts) bundleEndOwnership(o host.Owner) ownership {
	if f.bundleEnd == nil {
		return unmarked
	}
	switch w := ownershipOf(f.bundleEnd.alias, o); {
	case w != unmarked:
		return w
	case f.paired() && f.loopbackOwnership(o) != others:
		return ours
	}
	return others
}

func (f facts) loopbackOwnership(o host.Owner) ownership {
	lo := f.inside.link("lo")
	if lo == nil {
		return unmarked
	}
	return ownershipOf(lo.alias, o)
}

// netNSOwnership: a namespace without a mark is ours if our link leads into it.
func (f facts) netNSOwnership(o host.Owner) ownership {
	switch {
	case f.kind == fileAbsent:
		return unmarked
	case !f.known():
		return others
	case f.loopbackOwnership(o) != unmarked:
		return f.loopbackOwnership(o)
	case f.paired() && ownershipOf(f.bundleEnd.alias, o) == ours:
		return ours
	}
	return others
}

// tableOwnership: a table without a mark is ours by its name, unless the link that
// it filters is not ours.
func (f facts) tableOwnership(o host.Owner) ownership {
	if f.filter.table == nil {
		return unmarked
	}
	for _, r := range f.filter.rules {
		if w := ownershipOf(r.comment, o); w != unmarked {
			return w
		}
	}
	if f.bundleEndOwnership(o) == others {
		return others
	}
	return ours
}

// conflict returns ErrConflict with the name of what is in the wall's way, or the
// error of a namespace that cannot be read; nil if there is neither.
func (f facts) conflict(o host.Owner) error {
	named := func(what, name, mark string) error {
		by := "does not have a wall's mark"
		if w, ok := parseMark(mark); ok {
			by = fmt.Sprintf("is %s's (uid %s) of cluster %s", w.ID, w.UID, w.Cluster)
		}
		return fmt.Errorf("wall %s: %s %s %s: %w", o.ID(), what, name, by, host.ErrConflict)
	}
	switch {
	case f.inside.err != nil:
		return fmt.Errorf("wall %s: %w", o.ID(), f.inside.err)
	case f.bridge != nil && f.bridge.kind != "bridge":
		return fmt.Errorf("wall %s: link %s is not a bridge: %w", o.ID(), o.Bridge(), host.ErrConflict)
	case f.bundleEndOwnership(o) == others:
		return named("link", o.Veth(), f.bundleEnd.alias)
	case f.netNSOwnership(o) == others:
		mark := ""
		if lo := f.inside.link("lo"); lo != nil {
			mark = lo.alias
		}
		return named("network namespace", f.path, mark)
	case f.tableOwnership(o) == others:
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
