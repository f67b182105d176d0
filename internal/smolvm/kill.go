// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/cgroup"
)

// KillMachine implements host.Machines.
func (d *Driver) KillMachine(ctx context.Context, name string) error {
	if err := ours(name); err != nil {
		return err
	}
	return d.clear(ctx, name)
}

// clear sees to it that no process of the machine is left, by SIGKILL: nil
// means that its cgroup is empty and that it has no strays. An error means
// that a VMM may live.
func (d *Driver) clear(ctx context.Context, name string) error {
	g, err := d.cgroups()
	if err != nil { // strays can be killed all the same
		strays, lookErr := d.strays(ctx, []string{name})
		return fmt.Errorf("kill the VMM of %s: %w", name, errors.Join(err, lookErr, d.killStrays(ctx, strays)))
	}
	for range 3 {
		// The cgroup first: nothing that goes wrong elsewhere keeps it alive.
		populated, err := g.Populated(name)
		if err == nil && populated {
			err = d.kill(ctx, g, name, nil)
		}
		strays, lookErr := d.strays(ctx, []string{name})
		if err = errors.Join(err, lookErr); err != nil {
			return fmt.Errorf("kill the VMM of %s: %w", name, err)
		}
		if len(strays) == 0 && !populated {
			return nil
		}
		if len(strays) == 0 {
			continue // see that the cgroup has stayed empty
		}
		if err := d.kill(ctx, g, name, strays); err != nil {
			return fmt.Errorf("kill the VMM of %s: %w", name, err)
		}
	}
	return fmt.Errorf("VMMs of %s keep appearing", name)
}

// kill ends all processes in the machine's cgroup, and these strays, which it
// moves there first: then nothing that they start meanwhile escapes. One that
// cannot be killed keeps no other alive.
func (d *Driver) kill(ctx context.Context, g *cgroup.Groups, name string, strays []vmmOf) error {
	var outside []vmmOf
	for _, s := range strays {
		if err := d.adopt(g, s); err != nil && !errors.Is(err, errNoStray) {
			outside = append(outside, s)
		}
	}
	// The cgroup is empty a little before its processes can be seen to be
	// zombies, and smolvm takes those that cannot for alive.
	var dying []int
	pids, err := g.Procs(name)
	for _, pid := range pids {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			defer unix.Close(fd)
			dying = append(dying, fd)
		}
	}
	errs := []error{err, g.Kill(ctx, name), d.killStrays(ctx, outside)}
	if errors.Join(errs...) != nil {
		return errors.Join(errs...)
	}
	for _, fd := range dying {
		errs = append(errs, awaitEnd(ctx, fd))
	}
	return errors.Join(errs...)
}

// killStrays ends strays that still prove to be such, all before it waits for
// any, until they are gone.
func (d *Driver) killStrays(ctx context.Context, found []vmmOf) error {
	if len(found) == 0 {
		return nil
	}
	smolvm, err := d.installed()
	if err != nil {
		return err
	}
	var errs []error
	var dying []int
	for _, f := range found {
		fd, err := d.signal(smolvm, f)
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

// signal sends SIGKILL to a stray and returns its pidfd, which holds the
// process that was looked at; -1 when it is none any more.
func (d *Driver) signal(smolvm program, f vmmOf) (int, error) {
	fd, err := unix.PidfdOpen(f.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	if !d.isStray(smolvm, f) {
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
