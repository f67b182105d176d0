// SPDX-License-Identifier: Apache-2.0

// Package dockertest gives a test its own Docker Engine in its own namespaces:
// the network does not lead out of the machine, nobody else sees the mounts, and
// the processes end with the test, whatever happens. The package installs
// nothing and contacts no registry: images are loaded from archives.
package dockertest

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stageEnv names the environment variable with the stage of this process. It is
// "" in the test binary as it was started, stageInit in the first process of the
// namespaces, and stageTests in the process that runs the tests.
const (
	stageEnv   = "BOTTLE_DOCKERTEST_STAGE"
	stageInit  = "init"
	stageTests = "tests"
)

// Main is for TestMain: it runs the tests inside their own namespaces and exits.
// Without root, or with -short, it runs them without namespaces, and Start
// reports what is missing.
func Main(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	switch os.Getenv(stageEnv) {
	case stageInit:
		return runInit()
	case stageTests:
		return m.Run()
	}
	if testing.Short() || os.Geteuid() != 0 {
		return m.Run()
	}
	code, err := spawn(stageInit, &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "dockertest: enter namespaces: %v\n", err)
		return 1
	}
	return code
}

// runInit runs in the first process of the namespaces: it sets them up, starts
// the tests, and reaps the processes that they leave behind. When it ends, the
// kernel kills the rest.
func runInit() int {
	if err := setUpNamespaces(); err != nil {
		fmt.Fprintf(os.Stderr, "dockertest: set up namespaces: %v\n", err)
		return 1
	}
	code, err := spawn(stageTests, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL})
	if err != nil {
		fmt.Fprintf(os.Stderr, "dockertest: start tests: %v\n", err)
		return 1
	}
	return code
}

func setUpNamespaces() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// /proc must show the processes and network interfaces of these namespaces.
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// containerd, runc and xtables use fixed paths below /run.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("bring up loopback: %w", err)
	}
	return nil
}

// spawn runs this binary again with the same arguments and returns its exit code.
// It forwards SIGINT, SIGTERM and SIGQUIT to it.
func spawn(stage string, attr *syscall.SysProcAttr) (int, error) {
	// The kernel sends the death signal when the parent thread ends, not when the
	// parent process ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), stageEnv+"="+stage)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = attr
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	if stage == stageTests {
		return reap(cmd.Process.Pid)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	return exitCode(cmd.ProcessState.Sys().(syscall.WaitStatus)), nil
}

// reap waits for every child, including adopted ones, until the child with this
// pid has ended.
func reap(pid int) (int, error) {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for pid %s: %w", strconv.Itoa(pid), err)
		case got == pid && (status.Exited() || status.Signaled()):
			return exitCode(status), nil
		}
	}
}

func exitCode(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}
