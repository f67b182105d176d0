// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// WatchExit implements host.Machines. It uses one descriptor and one parked
// goroutine per machine, but no thread and no polling.
func (d *Driver) WatchExit(ctx context.Context, m host.Machine, exited func(name string)) error {
	if m.PID <= 0 {
		return fmt.Errorf("watch machine %s: no process: %w", m.Name, host.ErrNotRunning)
	}
	report := func() {
		if ctx.Err() == nil {
			exited(m.Name)
		}
	}
	fd, err := unix.PidfdOpen(m.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		go report()
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch machine %s: process %d: %w", m.Name, m.PID, err)
	}
	// From here on the descriptor refers to one process. Check that it is the
	// machine's.
	ticks, ok := startTicks(m.PID)
	if !ok || !d.booted.at(ticks).Equal(m.StartTime) {
		_ = unix.Close(fd)
		go report()
		return nil
	}
	file := os.NewFile(uintptr(fd), "pidfd") // non-blocking: Go's poller waits for it
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("watch machine %s: %w", m.Name, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Now()) })
	go func() {
		defer file.Close()
		defer stop()
		if raw.Read(hasExited) == nil {
			report()
		}
	}()
	return nil
}

// hasExited reports whether the process of a pidfd has exited.
func hasExited(fd uintptr) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return n > 0 && err == nil
}
