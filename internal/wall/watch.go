// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// WatchWalls implements host.Walls.
func (w *Walls) WatchWalls(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	filters, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	defer func() { _ = filters.Close() }()
	if err := filters.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	links := make(chan rtnl.LinkUpdate, 64)
	lost := make(chan error, 1)
	err = rtnl.LinkSubscribeWithOptions(links, ctx.Done(), rtnl.LinkSubscribeOptions{ErrorCallback: func(err error) {
		select {
		case lost <- err:
		default:
		}
	}})
	if err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = filters.SetDeadline(time.Now()) })()
	ended := make(chan error, 1)
	go func() { ended <- watchFilters(filters, changed) }()
	for {
		select {
		case <-ctx.Done():
			return cmp.Or(ctx.Err(), <-ended) // wait, so that no reader is left behind
		case err := <-ended:
			return fmt.Errorf("watch nftables: %w", err)
		case err := <-lost:
			if ctx.Err() == nil {
				return fmt.Errorf("watch links: %w", err)
			}
		case u, ok := <-links:
			if !ok {
				return errors.New("watch links: it ended")
			}
			if name := u.Attrs().Name; strings.HasPrefix(name, "bv-") || strings.HasPrefix(name, "bb-") {
				changed()
			}
		}
	}
}

// watchFilters calls changed for every change to the table of a wall, or of the
// bridges.
func watchFilters(conn *netlink.Conn, changed func()) error {
	for {
		messages, err := conn.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			changed() // messages were lost: anything may have changed
			continue
		}
		if err != nil {
			return err
		}
		for _, m := range messages {
			if concernsWall(m) {
				changed()
				break
			}
		}
	}
}

// concernsWall reports whether a message is about the table of a wall.
func concernsWall(m netlink.Message) bool {
	return concernsTable(uint16(m.Header.Type), m.Data, func(family nftables.TableFamily, name string) bool {
		return family == nftables.TableFamilyNetdev && isWallTable(name) || family == nftables.TableFamilyIPv4 && name == bridgesTable
	})
}

// concernsTable reports whether a message of nftables is about one of our tables. In
// messages about tables, chains and rules, the first attribute is the name of the
// table.
func concernsTable(kind uint16, body []byte, ours func(family nftables.TableFamily, name string) bool) bool {
	const tableAttribute = 1
	// Later kinds are sets and elements: a recorded drop is not a change.
	if kind&0xff > unix.NFT_MSG_DELRULE || len(body) < 4 {
		return false
	}
	found := false
	attributes(body[4:], func(kind uint16, b []byte) {
		found = found || kind == tableAttribute && ours(nftables.TableFamily(body[0]), text(b))
	})
	return found
}
