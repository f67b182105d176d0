// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/archive"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/guest"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/wire"
)

// readyTimeout is how long a boot may take. Like in smolvm, it is not configurable.
const readyTimeout = 30 * time.Second

// boot is the state of one start.
type boot struct {
	*app
	rec *machine.Record
	img *archive.Image
	dir string

	pid     int
	started uint64
	exited  chan *os.ProcessState
}

// bringUp starts the VMM, waits until it answers, and runs the machine's commands. If
// it fails, the caller must call kill.
func (b *boot) bringUp() error {
	if err := b.makeDisks(b.rec); err != nil {
		return agentError("start machine", "%w", err)
	}
	if err := b.spawn(); err != nil {
		return err
	}
	secrets, err := b.resolveSecrets(b.rec.SecretRefs)
	if err != nil {
		return err
	}
	env := append(b.guestEnv(), secrets...)
	if err := b.runInitCommands(env); err != nil {
		return err
	}
	return b.startWorkload(env)
}

func (b *boot) guestEnv() []string {
	env := append([]string{}, b.img.Config.Env...)
	for _, kv := range b.rec.Env {
		env = append(env, kv[0]+"="+kv[1])
	}
	return env
}

func (b *boot) writeConfig() (string, error) {
	fails, err := b.bootFails()
	if err != nil {
		return "", fmt.Errorf("smolvm stand-in: %w", err)
	}
	c := &guest.Config{Name: b.rec.Name, Dir: b.dir, Rootfs: b.img.Rootfs, FailBoot: fails, Hang: b.faults.StartHang}
	if b.rec.Network {
		c.Resolver = "100.96.0.1"
	}
	if !b.rel.AtLeast("1.32.2") {
		c.Connections = 8
	}
	for _, m := range b.rec.Mounts {
		c.Mounts = append(c.Mounts, guest.Mount{Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly})
	}
	path := filepath.Join(b.dir, "boot-config.json")
	return path, c.Write(path)
}

// spawn starts the VMM. It is this program again, in its own process group and its
// own mount, pid, UTS and IPC namespaces, but in this command's network namespace
// and cgroup.
func (b *boot) spawn() error {
	for _, f := range []string{guest.SocketName, guest.StartupError, exitFile} {
		_ = os.Remove(filepath.Join(b.dir, f))
	}
	path, err := b.writeConfig()
	if err != nil {
		return err
	}
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{"/proc/self/exe", "_boot-vm", path}, Dir: "/",
		Env:        []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GOMAXPROCS=2"},
		ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{
			Setpgid:    true,
			Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		},
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return agentError("start machine", "spawn boot process: %w", err)
	}
	b.pid, b.started = cmd.Process.Pid, startTime(cmd.Process.Pid)
	b.exited = make(chan *os.ProcessState, 1)
	go func() {
		_ = cmd.Wait()
		b.exited <- cmd.ProcessState
	}()
	pid := fmt.Sprintf("%d\n%d\n", b.pid, b.started)
	if err := os.WriteFile(filepath.Join(b.dir, "agent.pid"), []byte(pid), 0o644); err != nil {
		return err
	}
	return b.await(ready)
}

// await waits until the VMM signals that it is ready. On an interrupt the caller
// kills the VMM. Any other signal ends only this command and leaves the VMM behind.
func (b *boot) await(ready io.Reader) error {
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt)
	defer signal.Stop(interrupt)
	result := make(chan bool, 1)
	go func() {
		n, _ := ready.Read(make([]byte, 1))
		result <- n == 1
	}()
	limit := time.After(readyTimeout)
	if b.faults.StartHang {
		limit = nil
	}
	for {
		select {
		case ok := <-result:
			if ok {
				_ = os.Remove(filepath.Join(b.dir, "boot-config.json"))
				return nil
			}
			result = nil // the VMM is exiting: wait for its exit status
		case st := <-b.exited:
			return b.bootError(st)
		case <-interrupt:
			return exitStatus(130) // the caller kills the VMM
		case <-limit:
			return agentError("start machine", "agent operation failed: wait for ready: agent did not become ready within 30 seconds: no boot progress for 30 seconds")
		}
	}
}

// bootError records the exit of a VMM that never answered and returns the error.
func (b *boot) bootError(st *os.ProcessState) error {
	code := st.ExitCode()
	b.writeExit(b.rec.Name, &machine.LastExit{Cause: "exited", ExitCode: &code, AtMillis: time.Now().UnixMilli(), PID: b.pid})
	b.exited <- st
	if b.rel.AtLeast("1.29.0") {
		fmt.Fprintf(b.stderr, "\x1b[2m%s\x1b[0m \x1b[33m WARN\x1b[0m VMM exited with code %d \x1b[3mpid\x1b[0m\x1b[2m=\x1b[0m%d \x1b[3mcause\x1b[0m\x1b[2m=\x1b[0mExited\n",
			time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"), code, b.pid)
	}
	text := ""
	if reason, err := os.ReadFile(filepath.Join(b.dir, guest.StartupError)); err == nil {
		text = string(reason)
	}
	if !b.rel.AtLeast("1.4.0") {
		if text == "" {
			text = "agent process exited during startup"
		}
		return agentError("start machine", "agent operation failed: monitor agent: %s", text)
	}
	if text != "" {
		return agentError("start machine", "agent operation failed: monitor agent: %s (boot process exited (code %d) before the agent was ready)", text, code)
	}
	return agentError("start machine", "agent operation failed: monitor agent: boot process exited (code %d) before the agent was ready", code)
}

// kill kills the VMM that this command started, if there is one.
func (b *boot) kill() {
	if b.pid == 0 {
		return
	}
	_ = syscall.Kill(b.pid, syscall.SIGKILL)
	select {
	case <-b.exited:
	case <-time.After(3 * time.Second):
	}
	for _, f := range []string{"agent.pid", guest.SocketName} {
		_ = os.Remove(filepath.Join(b.dir, f))
	}
}

// runInitCommands runs the init commands in the guest, one after another. Some
// releases run them at every start, others only at the first.
func (b *boot) runInitCommands(env []string) error {
	n := len(b.rec.Init)
	if n == 0 {
		return nil
	}
	if b.rec.InitDone && (b.rel.AtLeast("1.26.1") || !b.rel.AtLeast("1.0.0")) {
		fmt.Fprintf(b.stdout, "Init already completed, skipping %d command(s)\n", n)
		return nil
	}
	fmt.Fprintf(b.stdout, "Running %d init command(s)...\n", n)
	for i, c := range b.rec.Init {
		var out, errs strings.Builder
		o, err := b.converse(b.rec.Name, &wire.Request{Op: wire.Exec, Argv: []string{"/bin/sh", "-c", c}, Env: env}, streams{stdout: &out, stderr: &errs})
		if err != nil {
			return err
		}
		if o.Code != 0 || o.Signal != 0 || o.Error != "" {
			return agentError("init", "init[%d] failed (exit %d): %s; stdout: %s", i, o.Code, errs.String()+o.Error, out.String())
		}
	}
	return nil
}

// startWorkload starts the machine's main program. If there is none, the machine only
// serves exec.
func (b *boot) startWorkload(env []string) error {
	argv := append(append([]string{}, b.rec.Entrypoint...), b.rec.Cmd...)
	if len(argv) == 0 && b.rec.Image != "" && b.rel.AtLeast("1.9.0") {
		argv = append(append([]string{}, b.img.Config.Entrypoint...), b.img.Config.Cmd...)
	}
	if len(argv) == 0 {
		return nil
	}
	r := &wire.Request{Op: wire.Workload, Argv: argv, Env: env, Workdir: b.rec.Workdir, User: b.rec.User}
	if r.Workdir == "" {
		r.Workdir = b.img.Config.WorkingDir
	}
	if r.User == "" {
		r.User = b.img.Config.User
	}
	o, err := b.converse(b.rec.Name, r, streams{})
	if err != nil {
		return err
	}
	if o.Error != "" {
		return agentError("start background CMD", "agent error: run container detached: %s", o.Error)
	}
	return nil
}

// recordRunning records that the machine is running. It is the last step of a start.
func (b *boot) recordRunning() error {
	return b.setState(b.rec.Name, func(r *machine.Record) {
		r.State, r.PID, r.PIDStartTime, r.InitDone = machine.Running, b.pid, b.started, len(b.rec.Init) > 0
	})
}
