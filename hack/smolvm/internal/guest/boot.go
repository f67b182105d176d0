// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/wire"
)

// Files in a machine's folder.
const (
	SocketName   = "agent.sock"
	WorkloadLog  = "workload.log"
	StartupError = "agent-startup-error.log"
)

// init1 is the machine's process: VMM to the host, init to the guest.
type init1 struct {
	cfg      *Config
	children *children
	log      *os.File
	slots    chan struct{} // nil = no limit

	mu       sync.Mutex
	workload *process
}

// Main is `_boot-vm CONFIG`. It returns an exit code when the boot fails;
// else it serves until it is told or forced to end.
func Main(configPath string) int {
	unix.CloseOnExec(3)
	cfg, err := readConfig(configPath)
	if err != nil {
		return 1
	}
	if cfg.FailBoot {
		return 1
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	// Not signal.Ignore: the guest's programs would inherit it.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	if cfg.Hang {
		<-term
		return 0
	}
	g := &init1{cfg: cfg}
	l, err := g.boot()
	if err != nil {
		return report(cfg, err)
	}
	go func() {
		<-term
		g.end(2 * time.Second)
	}()
	tell()
	g.serve(l)
	return 0
}

// tell writes to the pipe that the command which started us reads; its
// closing without a word is a failed boot.
func tell() {
	ready := os.NewFile(3, "ready")
	_, _ = ready.Write([]byte{1})
	ready.Close()
}

// report leaves the reason where the command that started us looks for it.
func report(cfg *Config, err error) int {
	_ = os.WriteFile(filepath.Join(cfg.Dir, StartupError), []byte(err.Error()), 0o644)
	return 1
}

// boot opens what lies outside the guest's root first, then enters it.
func (g *init1) boot() (net.Listener, error) {
	unix.Umask(0o022)
	log, err := os.OpenFile(filepath.Join(g.cfg.Dir, WorkloadLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	g.log = log
	l, err := listen(g.cfg.Dir)
	if err != nil {
		return nil, err
	}
	if err := enterRoot(g.cfg); err != nil {
		return nil, err
	}
	if err := unix.Sethostname([]byte(shortened(g.cfg.Name))); err != nil {
		return nil, fmt.Errorf("set host name: %w", err)
	}
	if err := limitChildren(); err != nil {
		return nil, fmt.Errorf("limit capabilities: %w", err)
	}
	g.children = newChildren()
	if g.cfg.Connections > 0 {
		g.slots = make(chan struct{}, g.cfg.Connections)
	}
	return l, nil
}

// shortened fits a machine's name into a host name.
func shortened(name string) string {
	if len(name) > 64 {
		return name[:64]
	}
	return name
}

// listen opens the socket by way of its folder's descriptor, because the
// path itself may be longer than a socket's address allows. A temporary name
// and a rename: whoever finds the socket can connect to it.
func listen(dir string) (net.Listener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	at := fmt.Sprintf("/proc/self/fd/%d/", d.Fd())
	_ = os.Remove(filepath.Join(dir, "agent.new"))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at + "agent.new", Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return l, os.Rename(filepath.Join(dir, "agent.new"), filepath.Join(dir, SocketName))
}

// Dial connects to a machine's process.
func Dial(dir string, timeout time.Duration) (*net.UnixConn, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	c, err := net.DialTimeout("unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), SocketName), timeout)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// serve answers until the process ends. With all slots taken the next
// request waits unanswered, as it does in the real guest's agent.
func (g *init1) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors: let some close
			continue
		}
		if g.slots != nil {
			g.slots <- struct{}{}
		}
		go func() {
			defer func() {
				c.Close()
				if g.slots != nil {
					<-g.slots
				}
			}()
			g.answer(wire.New(c))
		}()
	}
}

func (g *init1) answer(c *wire.Conn) {
	r, err := c.Request()
	if err != nil {
		return
	}
	switch r.Op {
	case wire.Ping:
		_ = c.Finish(&wire.Outcome{})
	case wire.Exec:
		g.exec(c, r)
	case wire.Workload:
		_ = c.Finish(g.startWorkload(r))
	case wire.Put:
		_ = c.Finish(put(c, r))
	case wire.Get:
		_ = c.Finish(get(c, r))
	case wire.Shutdown:
		_ = c.Finish(&wire.Outcome{})
		g.end(time.Duration(r.TimeoutMS) * time.Millisecond)
	default:
		_ = c.Finish(&wire.Outcome{Error: "unknown request " + r.Op})
	}
}

// end lets the workload finish for a while and ends the machine. All that
// still runs in it ends with its init.
func (g *init1) end(grace time.Duration) {
	g.mu.Lock()
	w := g.workload
	g.mu.Unlock()
	if w != nil && grace > 0 {
		_ = syscall.Kill(-w.pid, syscall.SIGTERM)
		select {
		case <-w.ended:
		case <-time.After(grace):
		}
	}
	os.Exit(0)
}
