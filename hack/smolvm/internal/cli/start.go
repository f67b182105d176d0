// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/archive"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/cmdline"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/fault"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/state"
)

const notice = "smolvm STAND-IN (test equipment): this machine is a plain process; it isolates NOTHING and enforces no egress policy"

// target returns the name of the machine that a command works on.
func target(args *cmdline.Args) string {
	switch {
	case len(args.Positional) > 0:
		return args.Positional[0]
	case args.Has("name"):
		return args.Get("name")
	}
	return "default"
}

func (a *app) start(args *cmdline.Args) error {
	name := target(args)
	rec, err := a.find(name)
	if err != nil && name == "default" && !args.Has("name") {
		rec, err = a.createDefault()
	}
	if err != nil {
		return err
	}
	dir := a.store.Dir(name)
	if err := a.makeDir(name); err != nil {
		return err
	}
	unlock, err := state.Lock(filepath.Join(dir, "vm.lock"), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return agentError("start machine", "agent operation failed: start agent: another process is already starting or running this VM")
	}
	defer unlock()
	if done, err := a.alreadyRunning(rec); done || err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "Starting machine '%s'%s...\n%s\n", name, mountsText(rec), notice)
	if err := a.preflight(); err != nil {
		return err
	}
	img, err := a.imageToStart(rec)
	if err != nil {
		return err
	}
	b := &boot{app: a, rec: rec, img: img, dir: dir}
	if err := b.bringUp(); err != nil {
		b.kill()
		return err
	}
	if a.faults.StartKilledLeavesVMM {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	if err := b.recordRunning(); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "Machine '%s' running (PID: %d)\n", name, b.pid)
	return nil
}

func mountsText(r *machine.Record) string {
	s := ""
	if n := len(r.Mounts); n > 0 {
		s = fmt.Sprintf(" with %d mount(s)", n)
	}
	if n := len(r.Ports); n > 0 {
		if s != "" {
			return s + fmt.Sprintf(" and %d port mapping(s)", n)
		}
		s = fmt.Sprintf(" with %d port mapping(s)", n)
	}
	return s
}

// createDefault creates the machine "default", as `start` without a name does if
// it does not exist.
func (a *app) createDefault() (*machine.Record, error) {
	r := &machine.Record{
		Name: "default", State: machine.Created, CreatedAt: time.Now().Unix(), RestartPolicy: "never",
		CPUs: machine.DefaultCPUs, MemoryMiB: machine.DefaultMemoryMiB, Env: [][2]string{}, Mounts: []machine.Mount{}, Ports: []string{},
	}
	return r, a.store.Change(func(all state.Records) error {
		if _, exists := all[r.Name]; !exists {
			all[r.Name] = r
		}
		return nil
	})
}

// alreadyRunning checks for a VMM from an earlier start. It reports true if the
// machine is running and answers, so that start is done. It kills a VMM that does
// not answer, and also one that the record does not know because its start was
// killed. Releases before 1.5.0 take such a VMM over instead, if it answers.
func (a *app) alreadyRunning(r *machine.Record) (bool, error) {
	pid, started := r.PID, r.PIDStartTime
	known := r.State == machine.Running || r.State == machine.Unreachable
	if !known {
		pid, started = a.pidFile(r.Name)
	}
	if !alive(pid, started) {
		return false, nil
	}
	if known && r.State == machine.Running && a.ping(r.Name) {
		fmt.Fprintf(a.stdout, "Machine '%s' already running (PID: %d)\n", r.Name, pid)
		return true, nil
	}
	if !known && !a.rel.AtLeast("1.5.0") && a.ping(r.Name) {
		fmt.Fprintf(a.stdout, "Machine '%s' running (PID: %d)\n", r.Name, pid)
		return true, a.setState(r.Name, func(r *machine.Record) { r.State, r.PID, r.PIDStartTime = machine.Running, pid, started })
	}
	if known {
		fmt.Fprintf(a.stdout, "Machine '%s' is unreachable (PID %d alive but agent unresponsive); cleaning up.\n", r.Name, pid)
	}
	return false, a.endProcess(r.Name, pid, started)
}

// preflight checks that the host has what a real start needs. It also waits if
// the test injected a slow start.
func (a *app) preflight() error {
	if a.faults.NoKVM {
		return agentError("start machine", "kvm not available: KVM not available. Ensure KVM kernel module is loaded.\nTry: sudo modprobe kvm && sudo modprobe kvm_intel  # (or kvm_amd)")
	}
	rootfs := a.getenv("SMOLVM_AGENT_ROOTFS")
	if rootfs == "" {
		rootfs = a.store.AgentRootfs()
	}
	if st, err := os.Stat(rootfs); err != nil || !st.IsDir() {
		return agentError("start machine", "agent operation failed: verify rootfs: agent rootfs not found: %s", rootfs)
	}
	lib := a.getenv("SMOLVM_LIB_DIR")
	if lib == "" {
		lib = filepath.Join(filepath.Dir(a.exe), "lib")
	}
	if found, _ := filepath.Glob(filepath.Join(lib, "libkrun.so*")); len(found) == 0 {
		return agentError("start machine", "agent operation failed: monitor agent: libkrun not found in %s (boot process exited (code 1) before the agent was ready)", lib)
	}
	if err := a.checkReadable(rootfs); err != nil {
		return agentError("start machine", "agent operation failed: monitor agent: %s: %w (boot process exited (code 1) before the agent was ready)", rootfs, err)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("smolvm stand-in: starting a machine requires root")
	}
	time.Sleep(time.Duration(a.faults.SlowStartMS) * time.Millisecond)
	return nil
}

// checkReadable fails if a real VMM, which runs as a separate user, could not read
// path: if others may not read it, or may not enter a folder above it.
func (a *app) checkReadable(path string) error {
	if !a.rel.AtLeast("1.2.5") || a.getenv("SMOLVM_VM_UID_DROP") == "off" {
		return nil
	}
	st, err := os.Stat(path)
	if err != nil {
		return state.Rust(withoutPath(err))
	}
	need := os.FileMode(0o004)
	if st.IsDir() {
		need = 0o005
	}
	for st.Mode()&need == need {
		if path == "/" {
			return nil
		}
		path = filepath.Dir(path)
		if st, err = os.Stat(path); err != nil {
			return err
		}
		need = 0o001
	}
	return state.Rust(syscall.EACCES)
}

// imageToStart is like openImage, but first checks that a real VMM could read the
// archive.
func (a *app) imageToStart(r *machine.Record) (*archive.Image, error) {
	if sum, ok := strings.CutPrefix(r.Image, "local:"); ok {
		if err := a.checkReadable(filepath.Join(a.store.Archives(), sum, "archive.tar")); err != nil {
			return nil, agentError("start background CMD", "agent error: run container detached: %w", err)
		}
	}
	return a.openImage(r)
}

// bootFails reports whether this boot must fail, and decrements the fault's count.
func (a *app) bootFails() (bool, error) {
	return fault.Take(a.home, func(f *fault.Faults) *int { return &f.BootFailures })
}

// makeDir makes a machine's folder if it does not exist.
func (a *app) makeDir(name string) error {
	dir := a.store.Dir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("storage operation failed: create directory: %w", state.Rust(withoutPath(err)))
	}
	return nil
}

// makeDisks makes the files of a real machine's folder. The disks are sparse
// files that the stand-in never uses.
func (a *app) makeDisks(r *machine.Record) error {
	dir := a.store.Dir(r.Name)
	if err := os.WriteFile(filepath.Join(dir, "name"), []byte(r.Name), 0o644); err != nil {
		return err
	}
	for _, disk := range machine.AllDisks {
		f, err := os.OpenFile(filepath.Join(dir, disk.Name+".raw"), os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		err = f.Truncate(int64(disk.GiB(&r.Disks)) << 30)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
