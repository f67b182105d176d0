// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// needKept is how long a refused pull is remembered. One that is still wanted
// is tried again well within it, and refused again.
const needKept = 2 * lastBackoff

// disk is a filesystem, in bytes. What root alone may use is not free.
type disk struct{ size, free int64 }

func diskOf(dir string) (disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return disk{}, fmt.Errorf("disk of %s: %w", dir, err)
	}
	return disk{size: int64(st.Blocks) * st.Bsize, free: int64(st.Bavail) * st.Bsize}, nil
}

// need is how many bytes an image takes beside the reserve: what is known of
// it, and what is to be reckoned with. The two differ once a pull was refused
// on its way, for nobody knows before what an image unpacks to: twice of what
// was written comes to an end in few tries.
type need struct{ least, likely int64 }

func (n need) atLeast(bytes int64) need {
	return need{max(n.least, bytes), max(n.likely, bytes)}
}

// shortage is the largest pull that was refused for want of room.
type shortage struct {
	wake chan struct{} // holds one

	mu        sync.Mutex
	reference string // the canonical reference
	need      need
	at        time.Time // zero when nothing is remembered
}

// Refused receives after a pull was refused for want of room: Collect then
// makes some, whatever the watermark, if enough may go.
func (s *Store) Refused() <-chan struct{} { return s.short.wake }

// noteRoom wakes the collector where the disk was too full for the job, which
// has given back by now what it had written. The lock is held.
func (s *Store) recordRoom(j *job, err error) {
	if err == nil {
		s.short.clear(j.canonical)
		return
	}
	var full errDisk
	if !errors.As(err, &full) || full.broken {
		return
	}
	n := full.need
	if j.fetch != nil {
		n = n.atLeast(j.fetch.announced())
	}
	s.short.record(j.canonical, n, s.o.Clock.Now())
	select {
	case s.short.wake <- struct{}{}:
	default: // it is about to look anyway
	}
}

// announced is how many bytes were to be brought, as far as that was said.
func (p *progress) announced() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total
}

func (h *shortage) record(reference string, n need, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at.IsZero() || now.Sub(h.at) > needKept || h.reference == reference || n.likely > h.need.likely {
		h.reference, h.need, h.at = reference, n, now
	}
}

// met forgets the need of what came: the room it took is not to be made again.
func (h *shortage) clear(reference string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reference == reference {
		h.forget()
	}
}

func (h *shortage) forget() { h.reference, h.need, h.at = "", need{}, time.Time{} }

// lacks is how many bytes must become free for the remembered pull, which is
// forgotten once there is room for it, after a while, and when the disk could
// never hold it.
func (h *shortage) shortfall(d disk, reserve int64, now time.Time) need {
	h.mu.Lock()
	defer h.mu.Unlock()
	available, capacity := d.free-reserve, d.size-reserve
	if h.at.IsZero() || now.Sub(h.at) > needKept || h.need.likely <= available || h.need.least > capacity {
		h.forget()
		return need{}
	}
	return need{least: max(0, h.need.least-available), likely: min(h.need.likely, capacity) - available}
}

// retry has the pulls that were refused for want of room, and now have it,
// tried at once rather than after their pause, which goes on growing.
func (s *Store) retryRefused() error {
	d, err := diskOf(s.o.Dir)
	if err != nil {
		return err
	}
	now := s.o.Clock.Now()
	s.short.shortfall(d, max(0, s.o.Reserve), now) // forgets it before its room is taken
	var uids []string
	s.mu.Lock()
	for _, f := range s.failures {
		var full errDisk
		if !errors.As(f.err, &full) || full.broken || full.need.least > d.free-max(0, s.o.Reserve) || !now.Before(f.until) {
			continue
		}
		f.until = now
		for uid := range f.reports {
			if uid != "" { // a prewarm, which has a timer
				uids = append(uids, uid)
			}
		}
	}
	s.mu.Unlock()
	s.notify(uids)
	return nil
}
