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
	if err := checkName(name); err != nil {
		return err
	}
	return d.clear(ctx, name)
}

// clear kills all processes of the machine with SIGKILL. nil means that its
// cgroup is empty and that it has no strays. An error means that a VMM may still
// be alive.
func (d *Driver) clear(ctx context.Context, name string) error {
	g, err := d.cgroups()
	if err != nil { // strays can be killed anyway
		strays, strayErr := d.strays(ctx, []string{name})
		return fmt.Errorf("kill the VMM of %s: %w", name, errors.Join(err, strayErr, d.killStrays(ctx, strays)))
	}
	for range 3 {
		// Kill the cgroup first, so that no other failure keeps it alive.
		populated, err := g.Populated(name)
		if err == nil && populated {
			err = d.kill(ctx, g, name, nil)
		}
		strays, strayErr := d.strays(ctx, []string{name})
		if err = errors.Join(err, strayErr); err != nil {
			return fmt.Errorf("kill the VMM of %s: %w", name, err)
		}
		if len(strays) == 0 && !populated {
			_ = g.RemoveFromPods(name) // kubelet would remove it with the Pod
			return nil
		}
		if len(strays) == 0 {
			continue // check that the cgroup stays empty
		}
		if err := d.kill(ctx, g, name, strays); err != nil {
			return fmt.Errorf("kill the VMM of %s: %w", name, err)
		}
	}
	return fmt.Errorf("VMMs of %s keep appearing", name)
}

// kill kills all processes in the machine's cgroup and these strays. It moves the
// strays into the cgroup first, so that processes that they start meanwhile do
// not escape. If one process cannot be killed, kill still kills the others.
func (d *Driver) kill(ctx context.Context, g *cgroup.Groups, name string, strays []machineProcess) error {
	var outside []machineProcess
	for _, s := range strays {
		if err := d.adopt(g, s); err != nil && !errors.Is(err, errNoStray) {
			outside = append(outside, s)
		}
	}
	// The kernel reports the cgroup as empty shortly before its processes show up
	// as zombies, and until then smolvm considers them alive. So wait for their
	// exit.
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
		errs = append(errs, awaitExit(ctx, fd))
	}
	return errors.Join(errs...)
}

// killStrays kills those processes that are still strays and waits until they
// are gone. It signals all of them before it waits for any.
func (d *Driver) killStrays(ctx context.Context, found []machineProcess) error {
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
		if err := awaitExit(ctx, fd); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// signal sends SIGKILL to a stray and returns its pidfd, which refers to exactly
// the process that was checked. It returns -1 if f is no longer a stray.
func (d *Driver) signal(smolvm program, f machineProcess) (int, error) {
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

// awaitExit waits until the process of a pidfd has exited, ten seconds at most.
func awaitExit(ctx context.Context, fd int) error {
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
