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

// guestInit is the machine's process. It acts as the VMM for the host and as the
// init for the guest.
type guestInit struct {
	cfg      *Config
	children *children
	log      *workloadLog
	slots    chan struct{} // limits concurrent requests; nil = no limit

	mu       sync.Mutex
	workload *process
	logged   chan struct{} // closed once all output of workload is in the log
}

// Main implements `_boot-vm CONFIG`. It returns an exit code if the boot fails.
// Otherwise it serves requests until it is shut down or killed.
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
	// Do not use signal.Ignore: the guest's programs would inherit it.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	if cfg.Hang {
		<-term
		return 0
	}
	g := &guestInit{cfg: cfg}
	l, err := g.boot()
	if err != nil {
		return writeStartupError(cfg, err)
	}
	go func() {
		<-term
		g.shutdown(2 * time.Second)
	}()
	signalReady()
	g.serve(l)
	return 0
}

// signalReady writes to the pipe that the starting command reads. If the pipe is
// closed without data, the boot failed.
func signalReady() {
	ready := os.NewFile(3, "ready")
	_, _ = ready.Write([]byte{1})
	ready.Close()
}

// writeStartupError writes the error where the starting command reads it, and
// returns the exit code.
func writeStartupError(cfg *Config, err error) int {
	_ = os.WriteFile(filepath.Join(cfg.Dir, StartupError), []byte(err.Error()), 0o644)
	return 1
}

// boot opens the files outside the guest's root and then enters that root.
func (g *guestInit) boot() (net.Listener, error) {
	unix.Umask(0o022)
	log, err := openWorkloadLog(g.cfg.Dir)
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
	if err := unix.Sethostname([]byte(hostName(g.cfg.Name))); err != nil {
		return nil, fmt.Errorf("set host name: %w", err)
	}
	if err := dropCapabilities(); err != nil {
		return nil, fmt.Errorf("drop capabilities: %w", err)
	}
	g.children = newChildren()
	if g.cfg.Connections > 0 {
		g.slots = make(chan struct{}, g.cfg.Connections)
	}
	return l, nil
}

// hostName truncates a machine's name to the maximum length of a host name.
func hostName(name string) string {
	if len(name) > 64 {
		return name[:64]
	}
	return name
}

// listen opens the socket through its folder's file descriptor, because the path
// may be too long for a socket address. It uses a temporary name and a rename, so
// that the socket accepts connections as soon as it is visible.
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

// serve answers requests until the process ends. While all slots are taken, the
// next request waits unanswered, as in the real guest's agent.
func (g *guestInit) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of file descriptors: wait until some are closed
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

func (g *guestInit) answer(c *wire.Conn) {
	r, err := c.ReadRequest()
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
		g.shutdown(time.Duration(r.TimeoutMS) * time.Millisecond)
	default:
		_ = c.Finish(&wire.Outcome{Error: "unknown request " + r.Op})
	}
}

// shutdown gives the workload some time to finish and then ends the machine. When
// its init exits, the kernel kills every other process in it.
func (g *guestInit) shutdown(grace time.Duration) {
	g.mu.Lock()
	w, logged := g.workload, g.logged
	g.mu.Unlock()
	if w != nil && grace > 0 {
		_ = syscall.Kill(-w.pid, syscall.SIGTERM)
		select {
		case <-w.ended:
		case <-time.After(grace):
		}
		select {
		case <-logged:
		case <-time.After(drainPatience):
		}
	}
	os.Exit(0)
}
