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
	// rulesInterval is how often the rules file is looked at. Looking is
	// cheaper and surer than being told: the file is renamed into a mounted
	// folder.
	pollInterval = 500 * time.Millisecond
	// networksEvery is at each how manieth look the own networks are read
	// again without a change of the file.
	networksEvery = 10
)

// rules is the rules file as it was last read and understood, less the
// bundle's own networks, which no rule opens.
type rules struct {
	path     string
	log      *decisionLog
	networks func() ([]netip.Prefix, error)
	changed  func()

	set         atomic.Pointer[egress.Set]
	file        egress.Set     // as it was read
	ownNetworks []netip.Prefix // networks
	lastState   fileState      // of the last look
	// blind: the networks could not be read at the last look.
	networksUnreadable bool
}

// fileState tells one content of a path from another; the zero one is a file
// that is not there, once looked is set.
type fileState struct {
	observed     bool
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
	err          string
}

// newRules allows nothing until reload.
func newRules(path string, log *decisionLog, networks func() ([]netip.Prefix, error), changed func()) *rules {
	r := &rules{path: path, log: log, networks: networks, changed: changed}
	r.set.Store(&egress.Set{})
	return r
}

func (r *rules) current() egress.Set { return *r.set.Load() }

// begin reads all that rules need before the first request. With an error
// nothing is allowed.
func (r *rules) start() error {
	if _, err := r.readNetworks(); err != nil {
		return err
	}
	r.reload()
	r.apply()
	return nil
}

// watch reloads until ctx ends.
func (r *rules) watch(ctx context.Context) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if r.poll(n) {
				r.changed()
			}
		}
	}
}

// look says whether the rules were replaced. The own networks are read before
// a new file's rules hold.
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

// readNetworks says whether the own networks are others than last time. With
// an error they are as they were.
func (r *rules) readNetworks() (bool, error) {
	own, err := r.networks()
	if err != nil || slices.Equal(own, r.ownNetworks) {
		return false, err
	}
	r.ownNetworks = own
	r.log.networks(fmt.Sprintf("closed the bundle's own networks %v", own))
	return true, nil
}

// apply makes hold what was read.
func (r *rules) apply() {
	set := r.file.Without(ownNetwork, r.ownNetworks...)
	r.set.Store(&set)
}

// reload reads the file if it is another than last time, and says whether there
// are other rules to apply. A missing file allows nothing; one that cannot be read
// or understood leaves the rules as they are.
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
	// The state of what is read, which may be newer than what was looked at.
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
		_ = errors.As(err, &errno) // 0, "errno 0", where it is no error of the system's
		return fileState{observed: true, err: errno.Error()}
	}
	s := info.Sys().(*syscall.Stat_t)
	return fileState{observed: true, dev: s.Dev, ino: s.Ino, size: s.Size, mtime: s.Mtim, ctime: s.Ctim}
}
