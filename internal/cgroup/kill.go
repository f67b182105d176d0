// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// killAgainAfter is when a cgroup that is still populated is killed again: a
// process may have been moved into it after the first time.
const killAgainAfter = time.Second

// Kill ends every process in the machine's cgroup by SIGKILL, those that are
// being forked too, and returns nil once the kernel reports that it is empty.
// An absent one is empty. After ten seconds, or when ctx ends, it gives up
// with an error: a process lives.
func (g *Groups) Kill(ctx context.Context, id string) error {
	dir, err := g.Path(id)
	if err != nil {
		return err
	}
	events, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return g.absent(dir)
	}
	if err != nil {
		return fmt.Errorf("kill cgroup %s: %w", id, err)
	}
	defer events.Close()
	err = g.killAndWait(ctx, id, events)
	if errors.Is(err, unix.ENODEV) { // removed meanwhile, and so empty
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill cgroup %s: %w", id, err)
	}
	return nil
}

func (g *Groups) killAndWait(ctx context.Context, id string, events *os.File) error {
	var killed time.Time
	for end := time.Now().Add(g.patience); ; {
		populated, err := readPopulated(events)
		if err != nil || !populated {
			return err
		}
		if time.Since(killed) >= killAgainAfter {
			if err := write(filepath.Join(filepath.Dir(events.Name()), "cgroup.kill"), "1"); err != nil {
				return err
			}
			killed = time.Now()
		}
		if err := g.killEach(id); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("a process lives: %w", err)
		}
		if time.Now().After(end) {
			return fmt.Errorf("a process lives %s after SIGKILL", g.patience)
		}
		// The kernel wakes this up when the file's content changes.
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// killEach kills the processes in the cgroup one by one. cgroup.kill sends its
// signal to each process's first thread, and where that has ended the others
// live on (seen with Linux 6.18).
func (g *Groups) killEach(id string) error {
	pids, err := g.Procs(id)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return err
		}
		// The number may have become another's before it was opened.
		if in, inErr := g.Of(pid); inErr == nil && in == id {
			err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
		unix.Close(fd)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}
