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

// WatchExit implements host.Machines. It costs a descriptor and a parked
// goroutine for each machine, no thread and no polling.
func (d *Driver) WatchExit(ctx context.Context, m host.Machine, exited func(name string)) error {
	if m.PID <= 0 {
		return fmt.Errorf("watch machine %s: no process: %w", m.Name, host.ErrNotRunning)
	}
	end := func() {
		if ctx.Err() == nil {
			exited(m.Name)
		}
	}
	fd, err := unix.PidfdOpen(m.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		go end()
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch machine %s: process %d: %w", m.Name, m.PID, err)
	}
	// The descriptor holds one process; was it that one?
	ticks, ok := startTicks(m.PID)
	if !ok || !d.booted.at(ticks).Equal(m.StartTime) {
		_ = unix.Close(fd)
		go end()
		return nil
	}
	file := os.NewFile(uintptr(fd), "pidfd") // nonblocking, so that Go's poller waits
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("watch machine %s: %w", m.Name, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Now()) })
	go func() {
		defer file.Close()
		defer stop()
		if raw.Read(ended) == nil {
			end()
		}
	}()
	return nil
}

// ended says whether the process of a pidfd is gone.
func ended(fd uintptr) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return n > 0 && err == nil
}
