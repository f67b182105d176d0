// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"botbottle.dev/bottle-operator/internal/host"
)

// DeleteWall implements host.Walls. It deletes the link first, so that whatever
// runs in the namespace never has a link without a filter.
func (w *Walls) DeleteWall(ctx context.Context, owner host.Owner) error {
	if err := checkOwner(owner); err != nil {
		return err
	}
	defer w.locks.Lock(owner.UID8())()
	f, err := w.observeOne(ctx, host.WallSpec{Owner: owner})
	if err != nil {
		return err
	}
	if f.inside.err != nil {
		return fmt.Errorf("wall %s: %w", owner.ID(), f.inside.err)
	}
	if err := errors.Join(w.tearDown(owner, f), w.dropBridgesTable()); err != nil {
		return fmt.Errorf("wall %s: %w", owner.ID(), err)
	}
	w.forget(owner)
	return nil
}

// forget removes an owner from the cache.
func (w *Walls) forget(owner host.Owner) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.expected, owner.ID())
}

func (w *Walls) tearDown(owner host.Owner, f facts) error {
	if f.bundleEndOwnership(owner) == ours {
		if err := deleteLink(owner.Veth()); err != nil {
			return err
		}
	}
	if f.netNSOwnership(owner) == ours {
		if err := cutOff(f.path); err != nil {
			return err
		}
	}
	if f.tableOwnership(owner) == ours {
		if err := deleteFilter(tableName(owner)); err != nil {
			return err
		}
	}
	// An empty file, which has no owner, remains when a mount is lost.
	if f.kind == fileAbsent || f.netNSOwnership(owner) == ours {
		return removeNetNS(f.path)
	}
	return nil
}

// cutOff deletes the links in a namespace, because the bundle's end of one may have
// been renamed.
func cutOff(path string) error {
	ns, _, _, err := openNetNS(path)
	if err != nil || ns == nil {
		return err
	}
	defer ns.Close()
	return inNetNS(ns, func(h *netlink.Handle) error {
		return deleteLinks(h, func(l attrs) bool { return !harmless(l) })
	})
}

// ListWalls implements host.Walls. It also returns walls of which only a part is
// left, such as a namespace without a link or a filter without a namespace.
func (w *Walls) ListWalls(ctx context.Context) ([]host.WallOwner, error) {
	return listWalls(ctx, linkMarks, w.netnsMarks, tableMarks)
}

// listWalls returns the walls with marks in any of the lists.
func listWalls(ctx context.Context, lists ...func() ([]string, error)) ([]host.WallOwner, error) {
	found := map[host.WallOwner]bool{}
	for _, list := range lists {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		marks, err := list()
		if err != nil {
			return nil, fmt.Errorf("list walls: %w", err)
		}
		for _, mark := range marks {
			if o, ok := parseMark(mark); ok {
				found[o] = true
			}
		}
	}
	var out []host.WallOwner
	for o := range found {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b host.WallOwner) int {
		return strings.Compare(a.ID+a.UID+a.Cluster, b.ID+b.UID+b.Cluster)
	})
	return out, nil
}

func linkMarks() (marks []string, err error) {
	links, err := linksByName()
	for _, l := range links {
		marks = append(marks, l.alias)
	}
	return marks, err
}

// netnsMarks reads the marks in the namespaces with names that could be ours.
func (w *Walls) netnsMarks() (marks []string, err error) {
	files, err := os.ReadDir(w.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, file := range files {
		if !strings.HasPrefix(file.Name(), filePrefix) {
			continue
		}
		ns, _, _, err := openNetNS(filepath.Join(w.dir, file.Name()))
		if err != nil || ns == nil {
			continue // it was deleted, or is not a network namespace
		}
		err = inNetNS(ns, func(h *netlink.Handle) error {
			lo, err := h.LinkByName("lo")
			if err == nil {
				marks = append(marks, lo.Attrs().Alias)
			}
			return err
		})
		ns.Close()
		if err != nil {
			return nil, err
		}
	}
	return marks, err
}

func tableMarks() (marks []string, err error) {
	rs, err := openRuleset()
	if err != nil {
		return nil, err
	}
	defer rs.close()
	tables, err := rs.tables()
	if err != nil {
		return nil, err
	}
	for name := range tables {
		if !isWallTable(name) {
			continue
		}
		rules, err := rs.rules(name)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			marks = append(marks, r.comment)
		}
	}
	return marks, nil
}
