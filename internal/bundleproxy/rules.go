// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"botbottle.dev/bottle-operator/internal/egress"
)

// rulesInterval is how often the rules file is looked at. Looking is cheaper
// and surer than being told: the file is renamed into a mounted folder.
const rulesInterval = 500 * time.Millisecond

// rules is the rules file as it was last read and understood.
type rules struct {
	path    string
	log     *decisionLog
	changed func()

	set  atomic.Pointer[egress.Set]
	seen fileState // of the last look
}

// fileState tells one content of a path from another; the zero one is a file
// that is not there, once looked is set.
type fileState struct {
	looked       bool
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
	err          string
}

// newRules allows nothing until reload.
func newRules(path string, log *decisionLog, changed func()) *rules {
	r := &rules{path: path, log: log, changed: changed}
	r.set.Store(&egress.Set{})
	return r
}

func (r *rules) current() egress.Set { return *r.set.Load() }

// watch reloads until ctx ends.
func (r *rules) watch(ctx context.Context) {
	tick := time.NewTicker(rulesInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if r.reload() {
				r.changed()
			}
		}
	}
}

// reload reads the file if it is another than last time, and says whether the
// rules were replaced. A missing file allows nothing; one that cannot be read
// or understood leaves the rules as they are.
func (r *rules) reload() bool {
	info, err := os.Stat(r.path)
	if state := stateOf(info, err); state == r.seen {
		return false
	}
	f, err := os.Open(r.path)
	if err != nil {
		return r.unreadable(err)
	}
	defer f.Close()
	// The state of what is read, which may be newer than what was looked at.
	info, err = f.Stat()
	r.seen = stateOf(info, err)
	if err != nil {
		return r.unreadable(err)
	}
	set, err := egress.DecodeFile(f)
	if err != nil {
		r.log.rules("kept the rules: "+printable(err.Error(), maxReason), len(r.current().Rules()))
		return false
	}
	r.set.Store(&set)
	r.log.rules("read the rules", len(set.Rules()))
	return true
}

func (r *rules) unreadable(err error) bool {
	r.seen = stateOf(nil, err)
	if errors.Is(err, fs.ErrNotExist) {
		r.set.Store(&egress.Set{})
		r.log.rules("the rules file is missing: nothing is allowed", 0)
		return true
	}
	r.log.rules("kept the rules: the file cannot be read", len(r.current().Rules()))
	return false
}

func stateOf(info fs.FileInfo, err error) fileState {
	if err != nil {
		var errno syscall.Errno
		_ = errors.As(err, &errno) // 0, "errno 0", where it is no error of the system's
		return fileState{looked: true, err: errno.Error()}
	}
	s := info.Sys().(*syscall.Stat_t)
	return fileState{looked: true, dev: s.Dev, ino: s.Ino, size: s.Size, mtime: s.Mtim, ctime: s.Ctim}
}
