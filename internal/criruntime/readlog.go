// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// logInterval is how often a log that is followed is read.
	logInterval = 300 * time.Millisecond
	// aliveInterval is how often a container whose log is followed is inspected, in case
	// an event of its end was lost.
	aliveInterval = 5 * time.Second
)

// FollowDecisions implements host.Bundles. It begins with the files of earlier restarts, and
// ends with the present run of the container.
func (b *Bundles) FollowDecisions(ctx context.Context, owner host.Owner, since time.Time, decided func(host.Decision)) error {
	req := host.BundleLogRequest{Since: since, Tail: -1, Follow: true}
	limit := rate.NewLimiter(rate.Limit(b.r.logBytes), logBytesBurst)
	return b.readLog(ctx, owner, logReading{request: req, limit: limit, line: func(l host.BundleLogLine) error {
		if l.Decision != nil {
			decided(*l.Decision)
		}
		return nil
	}})
}

// ReadLog implements host.Bundles. The log also has the lines of earlier restarts, as far as
// the kubelet keeps them.
func (b *Bundles) ReadLog(ctx context.Context, owner host.Owner, req host.BundleLogRequest, line func(host.BundleLogLine) error) error {
	return b.readLog(ctx, owner, logReading{request: req, line: line})
}

// logReading is one reading of a log.
type logReading struct {
	request host.BundleLogRequest
	limit   *rate.Limiter // nil: none
	line    func(host.BundleLogLine) error

	dir   logDir
	lines *logLines
	// last is the time of the last line that was passed on. again says that what is read next
	// may contain lines up to that time once more.
	last  time.Time
	again bool
}

// errUntil ends a reading at the time until which lines were requested.
var errUntil = errors.New("a later line than requested")

// lineError is an error of the caller's function.
type lineError struct{ error }

func (b *Bundles) readLog(ctx context.Context, owner host.Owner, l logReading) error {
	c, err := b.r.findContainer(ctx, owner)
	if err == nil {
		err = b.readContainerLog(ctx, owner, c, &l)
	}
	var failed lineError
	switch {
	case errors.As(err, &failed):
		return failed.error
	case errors.Is(err, errUntil), ctx.Err() != nil:
		return nil
	case err == nil, errors.Is(err, host.ErrNotFound), errors.Is(err, host.ErrConflict), errors.Is(err, host.ErrUnavailable):
		return err
	}
	return fmt.Errorf("read the log of Pod %s/%s: %w: %w", owner.Namespace, owner.ID(), host.ErrUnavailable, err)
}

func (b *Bundles) readContainerLog(ctx context.Context, owner host.Owner, c container, l *logReading) (err error) {
	if l.dir, err = openLogDir(c.status.GetLogPath()); err != nil {
		return err
	}
	defer l.dir.Close()
	l.lines = &logLines{line: l.pass}
	changes := make(chan struct{}, 1)
	remove := b.r.watchers.Add(func(uid string) {
		if uid == "" || uid == owner.UID {
			select {
			case changes <- struct{}{}:
			default:
			}
		}
	})
	defer remove()
	current, err := l.readAll(ctx)
	if err != nil {
		return err
	}
	defer func() { current.close() }()
	if !l.request.Follow || !c.running() {
		return nil
	}
	return l.follow(ctx, &current, waiting{changes: changes, alive: func(ctx context.Context) (bool, error) { return b.stillRuns(ctx, owner, c) }})
}

// stillRuns reports whether the same run of the container still runs.
func (b *Bundles) stillRuns(ctx context.Context, owner host.Owner, c container) (bool, error) {
	now, err := b.r.findContainer(ctx, owner)
	if absent(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return now.running() && now.status.Id == c.status.Id, nil
}

// pass passes a line on if it was requested.
func (l *logReading) pass(line host.BundleLogLine) error {
	switch {
	case line.Time.Before(l.request.Since):
		return nil
	case l.again && !line.Time.After(l.last):
		return nil
	case !l.request.Until.IsZero() && line.Time.After(l.request.Until):
		return errUntil
	}
	l.last = line.Time
	if err := l.line(line); err != nil {
		return lineError{err}
	}
	return nil
}

// openFile is a file of a log that is being read; the zero value is none.
type openFile struct {
	logFile
	io.ReadCloser
}

func (f *openFile) close() {
	if f.ReadCloser != nil {
		f.Close()
		f.ReadCloser = nil
	}
}

// readAll reads what is in the log, and returns its last file, which stays open.
func (l *logReading) readAll(ctx context.Context) (openFile, error) {
	files, err := l.dir.list()
	if err != nil {
		return openFile{}, err
	}
	skip := int64(0)
	if l.request.Tail >= 0 {
		if files, skip, err = l.dir.tail(ctx, files, l.request.Tail); err != nil {
			return openFile{}, err
		}
	}
	files = slices.DeleteFunc(files, func(f logFile) bool { return f.rotated != "" && f.changed.Before(l.request.Since) })
	return l.readFiles(ctx, files, skip)
}

// readFiles reads files in order, and returns the last one.
func (l *logReading) readFiles(ctx context.Context, files []logFile, skip int64) (current openFile, err error) {
	for _, f := range files {
		r, err := l.dir.open(f)
		if errors.Is(err, os.ErrNotExist) {
			continue // the kubelet has just deleted or renamed it
		}
		if err != nil {
			current.close()
			return openFile{}, err
		}
		current.close()
		current = openFile{f, r}
		if file, ok := r.(*os.File); ok {
			var st unix.Stat_t
			if unix.Fstat(int(file.Fd()), &st) == nil {
				current.inode = st.Ino // it may have been rotated since it was listed
			}
		}
		l.lines.cut()
		if err := copyLog(ctx, l.lines.write, r, pace{l.limit, skip}); err != nil {
			current.close()
			return openFile{}, err
		}
		skip = 0
	}
	return current, nil
}

// waiting is how a reading waits for more.
type waiting struct {
	changes <-chan struct{} // the container may have ended
	alive   func(context.Context) (bool, error)
}

// follow reads what comes, until the run of the container has ended.
func (l *logReading) follow(ctx context.Context, current *openFile, w waiting) error {
	tick, check := time.NewTicker(logInterval), time.NewTicker(aliveInterval)
	defer tick.Stop()
	defer check.Stop()
	for ended := 0; ; {
		inspect := ended == 0
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			inspect = false
		case <-check.C:
		case <-w.changes:
		}
		if inspect {
			alive, err := w.alive(ctx)
			if err != nil {
				return err
			}
			if !alive {
				ended = 1
			}
		}
		if err := l.more(ctx, current); err != nil {
			return err
		}
		// What the container wrote last may arrive a moment after its end.
		if ended > 0 {
			if ended++; ended > 3 {
				return nil
			}
		}
	}
}

// more reads what the log has got since the last time.
func (l *logReading) more(ctx context.Context, current *openFile) error {
	files, err := l.dir.list()
	if err != nil {
		return err
	}
	if current.ReadCloser != nil {
		// After the list was made, so that a file that is not the last one is complete.
		if err := copyLog(ctx, l.lines.write, current, pace{limit: l.limit}); err != nil {
			return err
		}
		at := slices.IndexFunc(files, func(f logFile) bool { return f.inode == current.inode && !f.packed })
		if at < 0 {
			// It was compressed or deleted: continue with what is newer.
			l.again = true
			at = len(files) - 1
			for at >= 0 && !files[at].changed.Before(l.last) {
				at--
			}
		}
		files = files[at+1:]
	}
	if len(files) == 0 {
		return nil
	}
	next, err := l.readFiles(ctx, files, 0)
	if err != nil || next.ReadCloser == nil {
		return err
	}
	current.close()
	*current = next
	l.again = false
	return nil
}
