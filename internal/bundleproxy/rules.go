// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"botbottle.dev/bottle-operator/internal/egress"
)

const (
	// pollInterval is how often the rules file is checked. Polling is cheaper
	// and more reliable than a file watch: the file is renamed into a mounted
	// folder.
	pollInterval = 500 * time.Millisecond
	// networksEvery is the number of polls after which the bundle's own
	// networks are read again even if the file has not changed.
	networksEvery = 10
)

// rules holds the rules file as it was last read and understood, without the
// bundle's own networks, which no rule opens.
type rules struct {
	path     string
	log      *decisionLog
	networks func() ([]netip.Prefix, error)
	changed  func()

	set         atomic.Pointer[egress.Set]
	file        egress.Set // as read from the file
	ownNetworks []netip.Prefix
	lastState   fileState // at the last poll
	// networksUnreadable means that the networks could not be read at the last
	// attempt.
	networksUnreadable bool
}

// fileState identifies the content of a path. The zero value means that the
// path was never checked. Once observed is set, either err is set or the other
// fields identify the file.
type fileState struct {
	observed     bool
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
	err          string
}

// newRules returns rules that allow nothing until start or poll.
func newRules(path string, log *decisionLog, networks func() ([]netip.Prefix, error), changed func()) *rules {
	r := &rules{path: path, log: log, networks: networks, changed: changed}
	r.set.Store(&egress.Set{})
	return r
}

func (r *rules) current() egress.Set { return *r.set.Load() }

// start reads the networks and the rules before the first request. If it fails,
// nothing is allowed.
func (r *rules) start() error {
	if _, err := r.readNetworks(); err != nil {
		return err
	}
	r.reload()
	r.apply()
	return nil
}

// watch polls until ctx ends. It leaves each poll to pollFiles, which calls its argument.
func (r *rules) watch(ctx context.Context, pollFiles func(pollRules func())) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			pollFiles(func() {
				if r.poll(n) {
					r.changed()
				}
			})
		}
	}
}

// poll reports whether the rules were replaced. It reads the own networks
// before it applies the rules of a new file.
func (r *rules) poll(n int) bool {
	before := r.lastState
	changed := r.reload()
	if r.lastState != before || n%networksEvery == 0 {
		networksChanged, err := r.readNetworks()
		if err != nil && !r.networksUnreadable {
			r.log.networks("kept the networks: they cannot be read")
		}
		r.networksUnreadable = err != nil
		changed = changed || networksChanged
	}
	if changed {
		r.apply()
	}
	return changed
}

// readNetworks reads the own networks and reports whether they changed. With an
// error they stay as they were.
func (r *rules) readNetworks() (bool, error) {
	own, err := r.networks()
	if err != nil || slices.Equal(own, r.ownNetworks) {
		return false, err
	}
	r.ownNetworks = own
	r.log.networks(fmt.Sprintf("closed the bundle's own networks %v", own))
	return true, nil
}

// apply puts the rules that were read into effect.
func (r *rules) apply() {
	set := r.file.Without(egress.OwnNetwork, r.ownNetworks...)
	r.set.Store(&set)
}

// reload reads the file if it has changed, and reports whether there are new
// rules to apply. A missing file allows nothing. A file that cannot be read or
// understood leaves the rules as they are.
func (r *rules) reload() bool {
	info, err := os.Stat(r.path)
	if state := stateOf(info, err); state == r.lastState {
		return false
	}
	f, err := os.Open(r.path)
	if err != nil {
		return r.unreadable(err)
	}
	defer f.Close()
	// Use the state of the opened file, which may be newer than the one checked
	// above.
	info, err = f.Stat()
	r.lastState = stateOf(info, err)
	if err != nil {
		return r.unreadable(err)
	}
	set, err := egress.DecodeFile(f)
	if err != nil {
		r.log.rules("kept the rules: "+egress.Printable(err.Error(), maxReason), len(r.file.Rules()))
		return false
	}
	r.file = set
	r.log.rules("read the rules", len(set.Rules()))
	return true
}

func (r *rules) unreadable(err error) bool {
	r.lastState = stateOf(nil, err)
	if errors.Is(err, fs.ErrNotExist) {
		r.file = egress.Set{}
		r.log.rules("the rules file is missing: nothing is allowed", 0)
		return true
	}
	r.log.rules("kept the rules: the file cannot be read", len(r.file.Rules()))
	return false
}

func stateOf(info fs.FileInfo, err error) fileState {
	if err != nil {
		var errno syscall.Errno
		_ = errors.As(err, &errno) // 0, "errno 0", if it is not an error from the system
		return fileState{observed: true, err: errno.Error()}
	}
	s := info.Sys().(*syscall.Stat_t)
	return fileState{observed: true, dev: s.Dev, ino: s.Ino, size: s.Size, mtime: s.Mtim, ctime: s.Ctim}
}
