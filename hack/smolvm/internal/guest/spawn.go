// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// children starts processes and reaps every child that ends, including adopted
// ones, as an init must. Do not use os/exec as well: both would wait for the same
// pids.
type children struct {
	mu   sync.Mutex
	done map[int]chan syscall.WaitStatus
}

func newChildren() *children {
	c := &children{done: map[int]chan syscall.WaitStatus{}}
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGCHLD)
	go func() {
		for range sig {
			c.reap()
		}
	}()
	return c
}

func (c *children) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if ch, ok := c.done[pid]; ok {
			ch <- ws
			delete(c.done, pid)
		}
	}
}

// start starts a program. The channel receives its wait status when it ends.
func (c *children) start(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, err
	}
	ch := make(chan syscall.WaitStatus, 1)
	c.done[pid] = ch
	return pid, ch, nil
}

// droppedCapabilities are the capabilities that no program of the guest gets,
// because they affect the host's kernel beyond namespaces. Network capabilities
// stay, so that tests can attack the wall from inside.
var droppedCapabilities = []uintptr{
	unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_SYS_BOOT, unix.CAP_SYS_TIME, unix.CAP_SYSLOG, unix.CAP_SYS_ADMIN,
	unix.CAP_SYS_PTRACE, unix.CAP_MKNOD, unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_DAC_READ_SEARCH, unix.CAP_WAKE_ALARM,
}

// dropCapabilities removes droppedCapabilities from all programs that any thread
// starts later. This process keeps its own.
func dropCapabilities() error {
	for _, c := range droppedCapabilities {
		if _, _, no := syscall.AllThreadsSyscall(syscall.SYS_PRCTL, syscall.PR_CAPBSET_DROP, c, 0); no != 0 && no != syscall.EINVAL {
			return no
		}
	}
	return nil
}
