// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/cmdline"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/fault"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/guest"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/state"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/wire"
)

func (a *app) stop(args *cmdline.Args) error {
	name := target(args)
	r, err := a.find(name)
	if err != nil {
		return a.stopUnknown(name, args, err)
	}
	a.resolve(r)
	pid, started := r.PID, r.PIDStartTime
	if r.State != machine.Running && r.State != machine.Unreachable {
		pid, started = a.pidFile(name)
		orphan := a.rel.AtLeast("1.5.0") && alive(pid, started)
		if !orphan {
			fmt.Fprintf(a.stdout, "Machine '%s' is not running (state: %s)\n", name, r.State)
			return nil
		}
	}
	if r.State == machine.Unreachable {
		fmt.Fprintf(a.stdout, "Machine '%s' is unreachable (PID %d alive but agent unresponsive); cleaning up.\n", name, pid)
	} else {
		fmt.Fprintf(a.stdout, "Stopping machine '%s'...\n", name)
		a.shutdown(name, a.grace(args))
	}
	if err := a.endProcess(name, pid, started); err != nil {
		return err
	}
	if err := a.setState(name, func(r *machine.Record) { r.State, r.PID, r.PIDStartTime = machine.Stopped, 0, 0 }); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "Stopped machine: %s\n", name)
	return nil
}

// stopUnknown implements stop for a machine that does not exist, which depends on
// the release.
func (a *app) stopUnknown(name string, args *cmdline.Args, err error) error {
	if name == "default" && !args.Has("name") {
		fmt.Fprintf(a.stdout, "Stopping machine 'default'...\nMachine 'default' stopped\n")
		return nil
	}
	if !isNotFound(err) {
		return err
	}
	a.leaveFolder(name)
	if a.rel.AtLeast("0.8.1") {
		return err
	}
	fmt.Fprintf(a.stdout, "Machine '%s' not found or not running\n", name)
	return nil
}

// leaveFolder makes what smolvm leaves behind after a status or stop, even of an
// unknown machine: its folder, up to 1.17 with disks in it.
func (a *app) leaveFolder(name string) {
	if a.makeDir(name) == nil && !a.rel.AtLeast("1.18.0") {
		_ = a.makeDisks(&machine.Record{Name: name})
	}
}

// grace returns how long the workload may take to end after SIGTERM.
func (a *app) grace(args *cmdline.Args) time.Duration {
	switch {
	case args.Has("timeout"):
		return time.Duration(number(args, "timeout")) * time.Second
	case a.rel.AtLeast("1.29.0"):
		return 10 * time.Second
	}
	return 0
}

// shutdown requests the machine's shutdown and waits for it, at most for grace and
// pingTimeout together. It ignores errors.
func (a *app) shutdown(name string, grace time.Duration) {
	if fault.Matches(a.faults.StopStuck, name) {
		return
	}
	c, err := guest.Dial(a.store.Dir(name), pingTimeout)
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(grace + pingTimeout)); err != nil {
		return
	}
	w := wire.New(c)
	if err := w.SendRequest(&wire.Request{Op: wire.Shutdown, TimeoutMS: grace.Milliseconds()}); err != nil {
		return
	}
	for { // until the process ends, which closes the connection
		if _, _, err := w.Read(); err != nil {
			return
		}
	}
}

// endProcess makes sure that the VMM is gone. It waits 200 ms, then sends SIGTERM
// and waits two seconds, and then sends SIGKILL and waits three seconds.
func (a *app) endProcess(name string, pid int, started uint64) error {
	stuck := fault.Matches(a.faults.StopStuck, name)
	for _, s := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{0, 200 * time.Millisecond}, {syscall.SIGTERM, 2 * time.Second}, {syscall.SIGKILL, 3 * time.Second}} {
		if stuck {
			break
		}
		if !alive(pid, started) || s.signal != 0 && syscall.Kill(pid, s.signal) == syscall.ESRCH || waitGone(pid, started, s.wait) {
			for _, f := range []string{"agent.pid", guest.SocketName} {
				_ = os.Remove(filepath.Join(a.store.Dir(name), f))
			}
			return nil
		}
	}
	return agentError("stop agent", "process %d still alive after stop attempts", pid)
}

// waitGone waits until the process no longer exists, not even as a zombie, and reports
// whether that happened within limit.
func waitGone(pid int, started uint64, limit time.Duration) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if !alive(pid, started) {
			return true
		}
	}
	return !alive(pid, started)
}

func (a *app) delete(args *cmdline.Args) error {
	name := target(args)
	a.leaveLockFile(name)
	r, err := a.find(name)
	if err != nil {
		return err
	}
	if !args.Has("force") && !args.Has("cascade") {
		if sure, err := a.confirm(name); !sure || err != nil {
			return err
		}
	}
	a.resolve(r)
	if a.rel.AtLeast("0.8.1") { // 0.8.0 leaves a running machine's process alone
		if err := a.stopForDelete(r); err != nil {
			return err
		}
	}
	dir := a.store.Dir(name)
	if _, err := os.Stat(dir); err == nil {
		fmt.Fprintf(a.stdout, "Cleaning up data directory for vm: %s\n", name)
	}
	err = a.store.Change(func(all state.Records) error {
		if _, exists := all[name]; !exists {
			return notFound(name)
		}
		delete(all, name)
		return nil
	})
	if err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("storage operation failed: remove data directory: %w", state.Rust(withoutPath(err)))
	}
	fmt.Fprintf(a.stdout, "Deleted machine: %s\n", name)
	return nil
}

// leaveLockFile makes the lock file that releases from 1.14.0 leave behind.
func (a *app) leaveLockFile(name string) {
	if a.rel.AtLeast("1.14.0") && machine.CheckName(name) == nil && os.MkdirAll(a.store.VMs(), 0o755) == nil {
		if unlock, err := state.Lock(filepath.Join(a.store.VMs(), "."+name+".fork-operation.lock"), unix.LOCK_EX); err == nil {
			unlock()
		}
	}
}

// stopForDelete stops a running machine immediately. Up to 1.7.1, a failure is
// only a warning, and the machine is deleted anyway.
func (a *app) stopForDelete(r *machine.Record) error {
	pid, started := r.PID, r.PIDStartTime
	if r.State != machine.Running && r.State != machine.Unreachable {
		if pid, started = a.pidFile(r.Name); !a.rel.AtLeast("1.5.0") || !alive(pid, started) {
			return nil
		}
	}
	fmt.Fprintf(a.stdout, "Stopping machine '%s'...\n", r.Name)
	if r.State == machine.Running {
		a.shutdown(r.Name, 0)
	}
	err := a.endProcess(r.Name, pid, started)
	if err != nil && !a.rel.AtLeast("1.7.2") {
		fmt.Fprintf(a.stderr, "Warning: failed to stop machine: %s\n", err)
		return nil
	}
	return err
}

// confirm prompts for confirmation. Newer releases fail instead if stdin is not a
// terminal.
func (a *app) confirm(name string) (bool, error) {
	if _, err := unix.IoctlGetTermios(int(a.stdin.Fd()), unix.TCGETS); err != nil && a.rel.AtLeast("1.18.0") {
		return false, agentError("delete", "machine '%s' needs confirmation but stdin is not a terminal; pass --force to delete it, or --cascade to remove it together with any machines branched from it", name)
	}
	fmt.Fprintf(a.stderr, "Delete machine '%s'? [y/N] ", name)
	answer, err := bufio.NewReader(a.stdin).ReadString('\n')
	if word := strings.ToLower(strings.TrimSpace(answer)); word == "y" || word == "yes" {
		return true, nil
	}
	fmt.Fprintln(a.stdout, "Cancelled")
	if err != nil && !errors.Is(err, os.ErrClosed) {
		return false, nil // end of input means no
	}
	return false, nil
}
