// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// KillMachine implements host.Machines.
func (d *Driver) KillMachine(ctx context.Context, name string) error {
	if err := ours(name); err != nil {
		return err
	}
	return d.clear(ctx, name)
}

// clear sees to it that no VMM of the machine is left, by SIGKILL. An error
// means that one may be.
func (d *Driver) clear(ctx context.Context, name string) error {
	for range 3 {
		found, err := d.scan(ctx, []string{name})
		if err != nil {
			return fmt.Errorf("look for the VMM of %s: %w", name, err)
		}
		if len(found) == 0 {
			return nil
		}
		if err := d.kill(ctx, found); err != nil {
			return fmt.Errorf("kill the VMM of %s: %w", name, err)
		}
	}
	return fmt.Errorf("VMMs of %s keep appearing", name)
}

// kill ends processes that still prove to be their machines' VMMs, all before
// it waits for any, until they are gone. One that cannot be killed keeps no
// other alive.
func (d *Driver) kill(ctx context.Context, found []vmmOf) error {
	var errs []error
	var dying []int
	for _, f := range found {
		fd, err := d.signal(f)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("process %d: %w", f.pid, err))
		case fd >= 0:
			defer unix.Close(fd)
			dying = append(dying, fd)
		}
	}
	for _, fd := range dying {
		if err := awaitEnd(ctx, fd); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// signal sends SIGKILL to a VMM and returns its pidfd, which holds the process
// that was looked at; -1 when it is gone.
func (d *Driver) signal(f vmmOf) (int, error) {
	fd, err := unix.PidfdOpen(f.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	if !d.isVMM(f.process, f.name) {
		unix.Close(fd)
		return -1, nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// awaitEnd waits until the process of a pidfd is gone, ten seconds at most.
func awaitEnd(ctx context.Context, fd int) error {
	for range 100 {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.New("still there after SIGKILL")
}
