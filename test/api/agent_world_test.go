// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"botbottle.dev/bottle-operator/internal/ownthread"
	"botbottle.dev/bottle-operator/test/api/apienv"
	"botbottle.dev/bottle-operator/test/netns"
)

// Addresses in the agent's network namespace, which has no way out.
const (
	apiAddress     = "https://127.0.0.1:6443"
	metricsAddress = "127.0.0.1:8080"
	healthAddress  = "127.0.0.1:8081"
)

// agent is an agent process in its own network namespace.
type agent struct {
	netns, stateDir, kubeconfig, executable, log string
	client                                       *http.Client
	cmd                                          *exec.Cmd
	ended                                        chan error
}

// newAgent returns an agent that authenticates with cfg's credentials. It needs
// root.
func newAgent(t *testing.T, cfg *rest.Config) *agent {
	t.Helper()
	dir := t.TempDir()
	a := &agent{
		netns: netns.New(t), stateDir: filepath.Join(dir, "state"), kubeconfig: filepath.Join(dir, "kubeconfig"),
		executable: filepath.Join(dir, "bottle-operator"), log: filepath.Join(dir, "log"), ended: make(chan error, 1),
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", dir+"/", ".", "./cmd/bottle-bundle")
	build.Dir, build.Env = apienv.Root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, out)
	}
	err := a.inside(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
	a.client = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
		err = a.inside(func() (err error) {
			c, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return c, err
	}}}
	err = clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: cfg.Host, CertificateAuthorityData: cfg.CAData, InsecureSkipTLSVerify: cfg.Insecure}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": userOf(cfg)},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	}, a.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// inside runs f in the agent's network namespace.
func (a *agent) inside(f func() error) error {
	return ownthread.Run(func() error {
		ns, err := os.Open(a.netns)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// start starts the agent, without dockerd and smolvm.
func (a *agent) start(t *testing.T, more ...string) {
	t.Helper()
	a.run(t, append([]string{"agent", "--node-name", "n", "--state-dir", a.stateDir,
		"--docker-host", "unix://" + a.stateDir + "/no-docker.sock", "--smolvm-dir", a.stateDir + "/no-smolvm", "--local-image-dir", a.stateDir,
		"--metrics-bind-address", metricsAddress, "--health-probe-bind-address", healthAddress}, more...)...)
}

// run starts the operator as a program that is not an agent, or with other flags.
func (a *agent) run(t *testing.T, args ...string) {
	t.Helper()
	a.cmd = exec.Command(a.executable, append(args, "--kubeconfig", a.kubeconfig)...)
	log, err := os.Create(a.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	a.cmd.Stdout, a.cmd.Stderr = log, log
	if err := a.inside(a.cmd.Start); err != nil {
		t.Fatal(err)
	}
	go func() { a.ended <- a.cmd.Wait() }()
	t.Cleanup(func() {
		if a.cmd.ProcessState == nil {
			_ = a.cmd.Process.Kill()
			<-a.ended
		}
	})
}

// stop ends the agent and returns its log.
func (a *agent) stop(t *testing.T) string {
	t.Helper()
	if err := a.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-a.ended:
		if err != nil {
			t.Errorf("the agent ended: got %v, want exit status 0\n%s", err, a.readLog())
		}
		a.ended <- err
	case <-time.After(30 * time.Second): // TimeoutStopSec of the agent's unit
		t.Fatal("the agent does not end within 30s")
	}
	return a.readLog()
}

// eventually waits until done returns true, and fails if the agent ends first.
func (a *agent) eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(agentTimeout)
	for !done() {
		select {
		case err := <-a.ended:
			a.ended <- err
			t.Fatalf("the agent ended, want %s: %v\n%s", what, err, a.readLog())
		case <-deadline:
			code, body := a.get("/readyz")
			t.Fatalf("waited %s for %s; readyz: %d %s\n%s", agentTimeout, what, code, body, a.readLog())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (a *agent) readLog() string {
	text, err := os.ReadFile(a.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// get returns the status and body of a health endpoint. The status is 0 if there
// is no response.
func (a *agent) get(path string) (code int, body string) {
	return a.fetch("http://" + healthAddress + path)
}

func (a *agent) fetch(url string) (code int, body string) { return a.fetchAs(url, "") }

// fetchAs is fetch with a bearer token, unless that is empty.
func (a *agent) fetchAs(url, token string) (code int, body string) {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, err.Error()
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := a.client.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(text)
}

// metric returns the value of a metric without labels, or -1 if it does not exist.
func (a *agent) metric(name string) float64 {
	_, body := a.fetch("http://" + metricsAddress + "/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			if n, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil {
				return n
			}
		}
	}
	return -1
}

// forward forwards apiAddress, in the agent's namespace, to the API server until
// disconnect is called.
func (a *agent) forward(t *testing.T, server string) (disconnect func()) {
	t.Helper()
	var l net.Listener
	err := a.inside(func() (err error) {
		l, err = net.Listen("tcp", strings.TrimPrefix(apiAddress, "https://"))
		return err
	})
	if err != nil {
		t.Fatal(fmt.Errorf("forward to the API server: %w", err))
	}
	ctx, cancel := context.WithCancel(context.Background())
	disconnect = sync.OnceFunc(func() { cancel(); l.Close() })
	t.Cleanup(disconnect)
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { in.Close() })
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", server)
				if err != nil {
					return // the agent sees the connection close
				}
				defer out.Close()
				go func() { _, _ = io.Copy(out, in); out.Close() }()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	return disconnect
}
