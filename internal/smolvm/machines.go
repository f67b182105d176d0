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
	c, err := d.supported(ctx)
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
	create, err := d.creation(ctx, c, spec)
	if err != nil {
		return fmt.Errorf("create machine %s: %w", name, err)
	}
	create.args = args
	release, err := create.turn(ctx)
	if err != nil {
		return fmt.Errorf("create machine %s: %w", name, err)
	}
	err = d.runCreation(ctx, &create)
	release()
	if err != nil {
		return create.limit.explain(err)
	}
	return d.removeIfOther(ctx, c, spec)
}

// runCreation runs the call, which has its turn. The room on the disk may have
// changed while it waited.
func (d *Driver) runCreation(ctx context.Context, create *creation) (err error) {
	if create.artifact > 0 {
		if create.limit, err = d.unpackLimit(create.artifact); err != nil {
			return fmt.Errorf("%s: %w", create.what, err)
		}
		create.env = create.limit.env()
	}
	_, err = d.run(ctx, create.call)
	return err
}

// creation is a call that creates a machine.
type creation struct {
	call
	artifact int64 // size of the artifact; zero for other machines
	// turn waits until the call may run, and returns what ends the turn.
	turn func(context.Context) (func(), error)
	// limit bounds an artifact; zero for other machines.
	limit unpackLimit
}

// creation returns the call that creates the machine, without its args.
func (d *Driver) creation(ctx context.Context, c capabilities, s host.MachineSpec) (creation, error) {
	create := creation{call: call{what: "create machine " + s.Owner.ID(), timeout: createTimeout}, turn: d.exclusive}
	if s.Artifact != "" {
		create.turn = d.slowCreate
		size, err := sizeOf(s.Artifact)
		create.artifact = max(1, size)
		return create, err
	}
	size, err := sizeOf(s.Image)
	if err != nil || size == 0 {
		return create, err
	}
	if size >= largeImage && !c.lockedDB {
		create.turn = d.slowCreate
	}
	create.timeout = createTimeoutOf(size)
	if err := c.checkImageLimit(size); err != nil {
		return create, err
	}
	return create, checkStorage(ctx, s.Image, s.StorageGiB)
}

// finishDeletion removes what an interrupted deletion left of a machine that
// smolvm no longer lists: the next machine of that name must not get its disk.
func (d *Driver) finishDeletion(ctx context.Context, c capabilities, name string) error {
	if _, err := os.Lstat(d.dataDir(name)); errors.Is(err, os.ErrNotExist) {
		return d.sweep(ctx, name) // there is no disk, so nothing is lost even if the machine is listed
	}
	_, err := d.find(ctx, c, name)
	if errors.Is(err, host.ErrNotFound) {
		return d.sweep(ctx, name)
	}
	return err
}

// lockMachine checks that name is a machine of this operator and locks it, so
// that calls on one machine run one at a time. The caller calls the returned
// function to unlock it. what describes the call in errors.
func (d *Driver) lockMachine(ctx context.Context, what, name string) (capabilities, func(), error) {
	c, err := d.supported(ctx)
	if err == nil {
		err = checkName(name)
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
	c, unlock, err := d.lockMachine(ctx, "start machine", name)
	if err != nil {
		return err
	}
	defer unlock()
	// The container runtime may be slow to answer: do not keep others waiting.
	pod, err := d.podOf(ctx, name)
	if err != nil {
		return fmt.Errorf("start machine %s: %w", name, err)
	}
	release, err := d.slowWrite(ctx, c)
	if err != nil {
		return fmt.Errorf("start machine %s: %w", name, err)
	}
	defer release()

	m, view, err := d.inspect(ctx, c, name)
	if err != nil {
		return err
	}
	switch m.State {
	case host.MachineRunning:
		return nil
	case host.MachineUnreachable:
		// smolvm would kill and reboot it. One observation is not enough to
		// decide that.
		return fmt.Errorf("start machine %s: it is unreachable; stop it first: %w", name, host.ErrUnavailable)
	}
	if err := checkDevices(name, view); err != nil {
		return err
	}
	start := call{
		what: "start machine " + name, args: c.startArgs(name), env: c.hardening(),
		netns: netns, pod: pod, timeout: d.opts.StartTimeout, boots: true,
	}
	if err := d.start(ctx, c, m, start); err != nil {
		return errors.Join(err, d.clearWithoutCancel(ctx, name))
	}
	return nil
}

// start boots a machine that is down. It succeeds only if smolvm then lists the
// machine as running: some releases exit with code 0 without having recorded
// that.
func (d *Driver) start(ctx context.Context, c capabilities, m host.Machine, start call) error {
	// A VMM that a killed start left behind would hold the disks.
	if err := d.clear(ctx, m.Name); err != nil {
		return err
	}
	folder, err := d.confine(m, start.pod)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", start.what, host.ErrUnavailable, err)
	}
	defer folder.Close()
	start.cgroup = folder
	_, err = d.run(ctx, start)
	d.dropOOMProtection(m.Name)
	if errors.Is(err, errTimedOut) {
		return fmt.Errorf("%s: %w: not ready after %s", start.what, host.ErrBootFailed, start.timeout)
	}
	if err != nil {
		return err
	}
	if m, err = d.find(ctx, c, m.Name); err != nil {
		return fmt.Errorf("%s: %w", start.what, err)
	}
	if m.State != host.MachineRunning {
		return fmt.Errorf("%s: %w: smolvm reported success but lists it as %s", start.what, host.ErrBootFailed, m.State)
	}
	return nil
}

// clearWithoutCancel is like clear, but works even if ctx has ended. It takes
// cleanupTimeout at most.
func (d *Driver) clearWithoutCancel(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	return d.clear(ctx, name)
}

// StopMachine implements host.Machines.
func (d *Driver) StopMachine(ctx context.Context, name string) error {
	c, unlock, err := d.lockMachine(ctx, "stop machine", name)
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

// stop stops a machine and makes sure that no VMM is left. It lets smolvm try
// first, so that the guest can write its data to disk.
func (d *Driver) stop(ctx context.Context, c capabilities, m host.Machine) error {
	switch m.State {
	case host.MachineCreated, host.MachineStopped, host.MachineFailed:
		return d.clear(ctx, m.Name)
	}
	_, err := d.run(ctx, call{what: "stop machine " + m.Name, args: c.stopArgs(m.Name), timeout: stopTimeout})
	// Whatever smolvm reports, nothing may be left running.
	if err := errors.Join(ctx.Err(), d.clearWithoutCancel(ctx, m.Name)); err != nil {
		return fmt.Errorf("stop machine %s: %w", m.Name, err)
	}
	if err == nil || errors.Is(err, host.ErrNotFound) {
		return nil
	}
	// smolvm could not stop it. Now that the VMM is gone, the list shows the
	// machine as down.
	now, findErr := d.find(ctx, c, m.Name)
	if errors.Is(findErr, host.ErrNotFound) || findErr == nil && now.State != host.MachineRunning && now.State != host.MachineUnreachable {
		return nil
	}
	return err
}

// DeleteMachine implements host.Machines. If it fails or the agent ends halfway,
// the next call completes the deletion: it checks the disk, not smolvm's record,
// for what is left, and deletes the folder last.
func (d *Driver) DeleteMachine(ctx context.Context, name string) error {
	c, unlock, err := d.lockMachine(ctx, "delete machine", name)
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

// remove stops a machine and deletes its record. On some releases, deleting a
// running machine leaves its VMM running.
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
	if _, err := d.run(ctx, call{what: what, args: c.deleteArgs(m.Name), timeout: deleteTimeout}); err != nil {
		return err
	}
	if _, err := d.find(ctx, c, m.Name); err == nil {
		return fmt.Errorf("%s: smolvm reported success but still lists it", what)
	} else if !errors.Is(err, host.ErrNotFound) {
		return err
	}
	return nil
}

// sweep removes what is left of a machine without a record: its VMM, its cgroup
// and its folder.
func (d *Driver) sweep(ctx context.Context, name string) error {
	if err := d.clear(ctx, name); err != nil {
		return err
	}
	if err := d.removeCgroup(name); err != nil {
		return fmt.Errorf("delete machine %s: %w", name, err)
	}
	dir := d.dataDir(name)
	os.Remove(filepath.Join(filepath.Dir(dir), "."+name+".fork-operation.lock"))
	// The machine's user may have put anything there. A file system that is
	// mounted there does not belong to the machine and may be shared; RemoveAll
	// refuses to enter it.
	if err := untrusted.RemoveAll(ctx, filepath.Dir(dir), filepath.Base(dir)); err != nil {
		return fmt.Errorf("delete machine %s: %w", name, err)
	}
	return nil
}
