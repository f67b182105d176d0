// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// children starts processes and reaps every child that ends, including adopted ones,
// as an init must. Nothing else in this program may wait for processes: it would take
// the results away.
type children struct {
	mu    sync.Mutex
	ended map[int]chan syscall.WaitStatus
}

func newChildren() *children {
	// This fails only on kernels before 3.4. As process 1, it has no effect.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	c := &children{ended: map[int]chan syscall.WaitStatus{}}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGCHLD)
	go func() {
		for range changed {
			c.reap()
		}
	}()
	return c
}

// start starts a program. The channel receives its wait status after it has ended.
func (c *children) start(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
	c.mu.Lock() // so that reap does not see the process before it is in the map
	defer c.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, err
	}
	ended := make(chan syscall.WaitStatus, 1)
	c.ended[pid] = ended
	return pid, ended, nil
}

// reap collects all children that have ended. Together with a process that start
// started, the rest of its process group ends, as the processes of a container end
// with the first one.
func (c *children) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if ended, ok := c.ended[pid]; ok {
			_ = syscall.Kill(-pid, syscall.SIGKILL)
			killSession(pid)
			delete(c.ended, pid)
			ended <- status
		}
	}
}
