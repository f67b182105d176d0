// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/untrusted"
)

// CreateMachine implements host.Machines.
func (d *Driver) CreateMachine(ctx context.Context, spec host.MachineSpec) error {
	name := spec.Owner.ID()
	c, err := d.capable(ctx)
	if err != nil {
		return err
	}
	if err := checkSpec(spec); err != nil {
		return fmt.Errorf("create machine %s: %w", name, err)
	}
	args, err := c.createArgs(spec)
	if err != nil {
		return fmt.Errorf("create machine %s: %w", name, err)
	}
	unlock, err := d.machine.Acquire(ctx, name)
	if err != nil {
		return fmt.Errorf("create machine %s: %w", name, err)
	}
	defer unlock()
	if err := d.finishDeletion(ctx, c, name); err != nil {
		return fmt.Errorf("create machine %s: %w", name, err)
	}
	release, err := d.exclusive(ctx)
	if err != nil {
		return fmt.Errorf("create machine %s: %w", name, err)
	}
	defer release()
	return d.write(ctx, call{what: "create machine " + name, args: args, timeout: createTimeout})
}

// finishDeletion removes what a deletion that broke off left of a machine that
// smolvm no longer lists: the next one of that name must not get its disk.
func (d *Driver) finishDeletion(ctx context.Context, c capabilities, name string) error {
	_, err := d.find(ctx, c, name)
	if errors.Is(err, host.ErrNotFound) {
		return d.sweep(ctx, name)
	}
	return err
}

// hold makes sure that the machine is one to act on and that nobody else does
// meanwhile. what is for the error.
func (d *Driver) hold(ctx context.Context, what, name string) (capabilities, func(), error) {
	c, err := d.capable(ctx)
	if err == nil {
		err = ours(name)
	}
	if err != nil {
		return c, nil, err
	}
	unlock, err := d.machine.Acquire(ctx, name)
	if err != nil {
		return c, nil, fmt.Errorf("%s %s: %w", what, name, err)
	}
	return c, unlock, nil
}

// StartMachine implements host.Machines.
func (d *Driver) StartMachine(ctx context.Context, name, netns string) error {
	c, unlock, err := d.hold(ctx, "start machine", name)
	if err != nil {
		return err
	}
	defer unlock()
	release, err := d.slowWrite(ctx, c)
	if err != nil {
		return fmt.Errorf("start machine %s: %w", name, err)
	}
	defer release()

	m, err := d.find(ctx, c, name)
	if err != nil {
		return err
	}
	switch m.State {
	case host.MachineRunning:
		return nil
	case host.MachineUnreachable:
		// smolvm would kill and boot it anew; whether to is not for one
		// reading to decide.
		return fmt.Errorf("start machine %s: it is unreachable; stop it first: %w", name, host.ErrUnavailable)
	}
	start := call{
		what: "start machine " + name, args: c.startArgs(name), env: c.hardening(),
		netns: netns, timeout: d.opts.StartTimeout, boots: true,
	}
	if err := d.start(ctx, c, m, start); err != nil {
		return errors.Join(err, d.tidy(ctx, name))
	}
	return nil
}

// start boots a machine that is down, and believes it only from the list: a
// release may end well without having written that the machine runs.
func (d *Driver) start(ctx context.Context, c capabilities, m host.Machine, start call) error {
	// A VMM that a killed start left behind would hold the disks.
	if err := d.clear(ctx, m.Name); err != nil {
		return err
	}
	folder, err := d.confine(m)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", start.what, host.ErrUnavailable, err)
	}
	defer folder.Close()
	start.cgroup = folder
	err = d.write(ctx, start)
	d.dropOOMProtection(m.Name)
	if errors.Is(err, errSlow) {
		return fmt.Errorf("%s: %w: it was not up within %s", start.what, host.ErrBootFailed, start.timeout)
	}
	if err != nil {
		return err
	}
	if m, err = d.find(ctx, c, m.Name); err != nil {
		return fmt.Errorf("%s: %w", start.what, err)
	}
	if m.State != host.MachineRunning {
		return fmt.Errorf("%s: %w: smolvm says that it started and lists it as %s", start.what, host.ErrBootFailed, m.State)
	}
	return nil
}

// tidy is clear for callers whose context may be over.
func (d *Driver) tidy(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
	defer cancel()
	return d.clear(ctx, name)
}

// StopMachine implements host.Machines.
func (d *Driver) StopMachine(ctx context.Context, name string) error {
	c, unlock, err := d.hold(ctx, "stop machine", name)
	if err != nil {
		return err
	}
	defer unlock()
	release, err := d.slowWrite(ctx, c)
	if err != nil {
		return fmt.Errorf("stop machine %s: %w", name, err)
	}
	defer release()
	m, err := d.find(ctx, c, name)
	if errors.Is(err, host.ErrNotFound) {
		return d.clear(ctx, name)
	}
	if err != nil {
		return err
	}
	return d.stop(ctx, c, m)
}

// stop ends with no VMM left, by smolvm's own way first: it lets the guest
// write what it has.
func (d *Driver) stop(ctx context.Context, c capabilities, m host.Machine) error {
	switch m.State {
	case host.MachineCreated, host.MachineStopped, host.MachineFailed:
		return d.clear(ctx, m.Name)
	}
	err := d.write(ctx, call{what: "stop machine " + m.Name, args: c.stopArgs(m.Name), timeout: stopTimeout})
	// Whatever it says, what counts is that nothing runs.
	if err := errors.Join(ctx.Err(), d.tidy(ctx, m.Name)); err != nil {
		return fmt.Errorf("stop machine %s: %w", m.Name, err)
	}
	if err == nil || errors.Is(err, host.ErrNotFound) {
		return nil
	}
	// It could not: with the VMM gone the record follows at the next look.
	now, lookErr := d.find(ctx, c, m.Name)
	if errors.Is(lookErr, host.ErrNotFound) || lookErr == nil && now.State != host.MachineRunning && now.State != host.MachineUnreachable {
		return nil
	}
	return err
}

// DeleteMachine implements host.Machines. If it fails or the agent ends halfway,
// the next call completes the deletion: the folder is deleted last, and the
// disk, not smolvm's record, tells whether it is still there.
func (d *Driver) DeleteMachine(ctx context.Context, name string) error {
	c, unlock, err := d.hold(ctx, "delete machine", name)
	if err != nil {
		return err
	}
	defer unlock()
	m, err := d.find(ctx, c, name)
	if err == nil {
		err = d.remove(ctx, c, m)
	}
	if err != nil && !errors.Is(err, host.ErrNotFound) {
		return err
	}
	return d.sweep(ctx, name)
}

// remove stops a machine and deletes its record. A delete of a running one
// leaves its VMM running on some releases.
func (d *Driver) remove(ctx context.Context, c capabilities, m host.Machine) error {
	release, err := d.slowWrite(ctx, c)
	if err != nil {
		return fmt.Errorf("delete machine %s: %w", m.Name, err)
	}
	err = d.stop(ctx, c, m)
	release()
	if err != nil {
		return err
	}
	if release, err = d.exclusive(ctx); err != nil {
		return fmt.Errorf("delete machine %s: %w", m.Name, err)
	}
	defer release()
	what := "delete machine " + m.Name
	if err := d.write(ctx, call{what: what, args: c.deleteArgs(m.Name), timeout: deleteTimeout}); err != nil {
		return err
	}
	if _, err := d.find(ctx, c, m.Name); err == nil {
		return fmt.Errorf("%s: smolvm says that it is deleted and still lists it", what)
	} else if !errors.Is(err, host.ErrNotFound) {
		return err
	}
	return nil
}

// sweep removes what a machine that has no record left behind: its VMM, its
// cgroup, its folder.
func (d *Driver) sweep(ctx context.Context, name string) error {
	if err := d.clear(ctx, name); err != nil {
		return err
	}
	if err := d.removeCgroup(name); err != nil {
		return fmt.Errorf("delete machine %s: %w", name, err)
	}
	dir := d.dataDir(name)
	os.Remove(filepath.Join(filepath.Dir(dir), "."+name+".fork-operation.lock"))
	// The machine's user may have put anything there. What is mounted there is
	// not the machine's: it may be shared, and RemoveAll refuses to enter it.
	if err := untrusted.RemoveAll(ctx, filepath.Dir(dir), filepath.Base(dir)); err != nil {
		return fmt.Errorf("delete machine %s: %w", name, err)
	}
	return nil
}
