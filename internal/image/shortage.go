// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// needKept is how long a refused pull is remembered. A pull that is still
// wanted is retried, and refused again, well within that time.
const needKept = 2 * lastBackoff

// disk is a filesystem, with sizes in bytes. Space that only root may use is
// not free.
type disk struct{ size, free int64 }

func diskOf(dir string) (disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return disk{}, fmt.Errorf("disk of %s: %w", dir, err)
	}
	return disk{size: int64(st.Blocks) * st.Bsize, free: int64(st.Bavail) * st.Bsize}, nil
}

// need is how many bytes an image needs in addition to the reserve: the least
// that is known, and the likely number. They differ if a pull was refused
// halfway, because the unpacked size of an image is not known in advance. The
// likely number is then twice what was written, so that few attempts are
// enough.
type need struct{ least, likely int64 }

func (n need) atLeast(bytes int64) need {
	return need{max(n.least, bytes), max(n.likely, bytes)}
}

// shortage is the largest pull that was refused for lack of space.
type shortage struct {
	wake chan struct{} // has a buffer of one

	mu        sync.Mutex
	reference string // the canonical reference
	need      need
	at        time.Time // zero when nothing is remembered
}

// Refused receives a value after a pull was refused for lack of space. Collect
// then makes room, whatever the watermark, if enough may be removed.
func (s *remover) Refused() <-chan struct{} { return s.short.wake }

// recordRoom wakes the collector if the disk was too full for the job. The job
// has removed its partial files by then. If the job succeeded, recordRoom
// clears its shortage. The caller holds s.mu.
func (s *remover) recordRoom(j *job, err error) {
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
	default: // the collector is already due to run
	}
}

// announced returns the total number of bytes to fetch, 0 if not known.
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

// clear forgets the shortage of a pull that succeeded: no more room must be
// made for it.
func (h *shortage) clear(reference string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reference == reference {
		h.forget()
	}
}

func (h *shortage) forget() { h.reference, h.need, h.at = "", need{}, time.Time{} }

// shortfall returns how many more bytes must become free for the remembered
// pull. It forgets the pull once there is room for it, after needKept, and if
// the disk could never hold it.
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

// retryRefused ends the backoff of the pulls that were refused for lack of
// space and now have enough. The length of their next backoff still grows.
func (s *remover) retryRefused() error {
	d, err := diskOf(s.o.Dir)
	if err != nil {
		return err
	}
	now := s.o.Clock.Now()
	s.short.shortfall(d, max(0, s.o.Reserve), now) // forgets the pull before its room is taken
	var uids []string
	s.mu.Lock()
	for _, f := range s.failures {
		var full errDisk
		if !errors.As(f.err, &full) || full.broken || full.need.least > d.free-max(0, s.o.Reserve) || !now.Before(f.until) {
			continue
		}
		f.until = now
		for uid := range f.reports {
			if uid != "" { // "" is a prewarm, which has its own timer
				uids = append(uids, uid)
			}
		}
	}
	s.mu.Unlock()
	s.notify(uids)
	return nil
}
