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

// killAgainAfter is how long Kill waits before it kills a cgroup again that is
// still populated: a process may have been moved into it after the first kill.
const killAgainAfter = time.Second

// Kill kills every process in the machine's cgroups with SIGKILL, including
// processes that are being forked. It returns nil once the kernel reports that
// they are empty, or if the machine has none. If a process is still alive after ten
// seconds, or when ctx ends, it returns an error.
//
// It searches the Pods again, so that it misses no cgroup.
func (g *Groups) Kill(ctx context.Context, id string) error {
	findErr := g.findInPods()
	dirs, err := g.places(id)
	if findErr == nil {
		findErr = err // what is known is killed in any case
	}
	if len(dirs) > 1 { // let no wait delay the other kills
		for _, dir := range dirs {
			_ = write(filepath.Join(dir, "cgroup.kill"), "1")
		}
	}
	errs := []error{findErr}
	for _, dir := range dirs {
		if err := g.killDir(ctx, id, dir); err != nil {
			errs = append(errs, fmt.Errorf("kill cgroup %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

func (g *Groups) killDir(ctx context.Context, id, dir string) error {
	events, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return g.absent(dir)
	}
	if err != nil {
		return err
	}
	defer events.Close()
	err = g.killAndWait(ctx, id, events)
	if errors.Is(err, unix.ENODEV) { // removed in the meantime, so it was empty
		return nil
	}
	return err
}

func (g *Groups) killAndWait(ctx context.Context, id string, events *os.File) error {
	var killed time.Time
	for end := time.Now().Add(g.patience); ; {
		populated, err := readPopulated(events)
		if err != nil || !populated {
			return err
		}
		dir := filepath.Dir(events.Name())
		if time.Since(killed) >= killAgainAfter {
			if err := write(filepath.Join(dir, "cgroup.kill"), "1"); err != nil {
				return err
			}
			killed = time.Now()
		}
		if err := g.killEach(id, dir); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("a process is still alive: %w", err)
		}
		if time.Now().After(end) {
			return fmt.Errorf("a process is still alive %s after SIGKILL", g.patience)
		}
		// The kernel ends the poll when the file's content changes.
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// killEach kills the processes in the cgroup one by one. cgroup.kill only signals
// the main thread of each process; if that thread has exited, the other threads
// survive (seen with Linux 6.18).
func (g *Groups) killEach(id, dir string) error {
	pids, err := g.appendMembers(nil, dir)
	if err == nil {
		pids, err = withoutKernelThreads(pids)
	}
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
		// Another process may have got this PID before PidfdOpen.
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
