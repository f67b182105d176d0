// SPDX-License-Identifier: Apache-2.0

// Package devcluster tests the development cluster itself: that it starts, that
// commands reach its nodes unchanged, that its nodes and managers reach each other and
// the pretend world and nothing else, and that nothing of it is left at the end. It does not test the
// operator, except that it starts.
package devcluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/test/require"
)

const (
	root = "../.."
	node = "node-1"
)

func TestCluster(t *testing.T) {
	require.Root(t)
	for _, file := range []string{"bottle-operator", "controlplane/kwok", "standin/1.32.2/smolvm", "images/guest.tar"} {
		require.File(t, filepath.Join(root, "bin", file), "MACHINES=standin hack/prepare")
	}
	dir := filepath.Join(t.TempDir(), "cluster")
	t.Cleanup(func() { run(t, dir, nil, "hack/dev/down") })

	network := machineNetwork(t)
	up(t, dir)
	t.Run("this machine's network stays as it was", func(t *testing.T) {
		if diff := cmp.Diff(network, machineNetwork(t)); diff != "" {
			t.Errorf("addresses and routes before and after up (-before +after):\n%s", diff)
		}
	})
	t.Run("commands arrive unchanged", func(t *testing.T) { testExec(t, dir) })
	t.Run("nodes reach only the pretend world", func(t *testing.T) { testReach(t, dir) })
	t.Run("managers and nodes reach each other", func(t *testing.T) { testManagersAndNodes(t, dir) })
	t.Run("the API server reaches each manager", func(t *testing.T) { testAggregation(t, dir) })
	t.Run("a manager stops and starts", func(t *testing.T) { testManager(t, dir) })
	t.Run("the pretend world answers and logs", func(t *testing.T) { testWorld(t, dir) })
	t.Run("a second up changes nothing", func(t *testing.T) {
		before := pids(t, dir)
		for _, name := range []string{"world.pid", "registry.pid", "agent-node-1.pid", "manager-1.pid", "manager-2.pid", "relay-api.pid"} {
			if before[name] == "" {
				t.Errorf("processes: got %v, want %s among them", before, name)
			}
		}
		up(t, dir)
		if diff := cmp.Diff(before, pids(t, dir)); diff != "" {
			t.Errorf("processes before and after (-before +after):\n%s", diff)
		}
	})
	t.Run("a Node made again gets a new token", func(t *testing.T) {
		before := pids(t, dir)
		if got := run(t, dir, nil, "bin/controlplane/kubectl", "--kubeconfig", filepath.Join(dir, "kubeconfig"), "delete", "node", node); got.code != 0 {
			t.Fatalf("delete the Node: got %+v, want success", got)
		}
		up(t, dir) // waits until the agent offers Bottles on the new Node
		if diff := cmp.Diff(before, pids(t, dir)); diff != "" {
			t.Errorf("processes before and after (-before +after):\n%s", diff)
		}
	})
	t.Run("down leaves nothing", func(t *testing.T) { testDown(t, dir) })
}

func testExec(t *testing.T, dir string) {
	words := []string{"a b", "c'd", "e\nf", "", "*", "$HOME", `\n"`, "$(id)", "-x", "ü"}
	argv := append([]string{"python3", "-c", `import sys; sys.stdout.write("\0".join(sys.argv[1:]))`}, words...)
	got := onNode(t, dir, nil, argv...)
	if diff := cmp.Diff(words, strings.Split(got.stdout, "\x00")); diff != "" {
		t.Errorf("argv (-want +got):\n%s", diff)
	}
	blob := make([]byte, 1<<20)
	_, _ = rand.Read(blob)
	if got := onNode(t, dir, blob, "cat"); got.stdout != string(blob) {
		t.Errorf("got %d bytes back, want the %d sent", len(got.stdout), len(blob))
	}
	got = onNode(t, dir, nil, "sh", "-c", "echo out; echo err >&2; exit 42")
	if want := (result{"out\n", "err\n", 42}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, command := range []string{"smolvm", "docker", "python3", "ip", "nft", "busybox"} {
		if got := onNode(t, dir, nil, "sh", "-c", `command -v "$1"`, "sh", command); got.code != 0 {
			t.Errorf("%s is not on the node's PATH", command)
		}
	}
	if got := onNode(t, dir, nil, "docker", "info", "--format", "{{.DockerRootDir}}"); got.stdout != "/var/lib/docker\n" {
		t.Errorf("got docker root %q (%s), want the node's own", got.stdout, got.stderr)
	}
}

// testReach checks that nodes reach the pretend world, and that they do not reach a
// listener on this machine, outside their namespaces.
func testReach(t *testing.T, dir string) {
	for _, url := range []string{
		"http://203.0.113.10/", "http://169.254.169.254/", "http://10.77.0.1:443/",
		"http://[2001:db8::10]/", "http://[fd00:ec2::254]/", "http://[fd00:77::1]/",
	} {
		got := onNode(t, dir, nil, "busybox", "wget", "-qO-", url)
		if got.stdout != "the outside world\n" {
			t.Errorf("%s: got %+v, want the outside world", url, got)
		}
	}
	if got := onNode(t, dir, nil, "nc", "-z", "-w", "5", "10.77.0.1", "5000"); got.code != 0 {
		t.Errorf("the registry on the LAN: got %+v, want an answer", got)
	}
	wantNoWayOut(t, func(argv ...string) result { return onNode(t, dir, nil, argv...) })
	wantNoWayOut(t, func(argv ...string) result { return inControl(t, dir, argv...) })
}

// wantNoWayOut fails the test if a command that run runs reaches a listener on this
// machine, or has a default route.
func wantNoWayOut(t *testing.T, run func(argv ...string) result) {
	t.Helper()
	if got := run("ip", "route", "show", "default"); got != (result{}) {
		t.Errorf("default routes: got %+v, want none", got)
	}
	listener, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		ip, _, err := net.ParseCIDR(address.String())
		if err != nil || ip.To4() == nil {
			continue
		}
		if got := run(connectTo(net.JoinHostPort(ip.String(), port))...); got.code == 0 {
			t.Errorf("%s of this machine: got a connection, want it unreachable", ip)
		}
	}
}

// testWorld sends a datagram and resolves names from the node and from a container,
// and checks that the world's log has all three.
func testWorld(t *testing.T, dir string) {
	marker := strings.ToLower(rand.Text())
	const datagram = `import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect(("169.254.169.254", 4000))
s.send(sys.argv[1].encode())
sys.stdout.write(s.recv(100).decode())`
	if got := onNode(t, dir, nil, "python3", "-c", datagram, "datagram-"+marker); got.stdout != "datagram-"+marker {
		t.Errorf("a datagram to the world: got %+v, want it back", got)
	}
	if got := onNode(t, dir, nil, "busybox", "nslookup", "node-"+marker+".exfil.test"); !strings.Contains(got.stdout, "Address: 203.0.113.10\n") {
		t.Errorf("nslookup on the node: got %+v, want 203.0.113.10", got)
	}
	if got := onNode(t, dir, nil, "docker", "network", "create", "--subnet", "192.168.250.0/24", "world-test"); got.code != 0 {
		t.Fatalf("docker network create: %+v", got)
	}
	defer onNode(t, dir, nil, "docker", "network", "rm", "world-test")
	if got := onNode(t, dir, nil, "docker", "run", "--rm", "--network", "world-test", "--entrypoint", "/bin/nslookup", "example.test/foreign-bundle:1",
		"container-"+marker+".exfil.test"); !strings.Contains(got.stdout, "Address: 203.0.113.10\n") {
		t.Errorf("nslookup in a container: got %+v, want 203.0.113.10", got)
	}
	log := run(t, dir, nil, filepath.Join(dir, "world-log"), node).stdout
	for _, who := range []string{"datagram-", "node-", "container-"} {
		if !strings.Contains(log, who+marker) {
			t.Errorf("log of the world: got\n%s\nwant %s in it", log, who+marker)
		}
	}
}

func testDown(t *testing.T, dir string) {
	// What a crash may leave behind: a process and a container that nobody waits
	// for.
	onNode(t, dir, nil, "sh", "-c", "setsid sleep 600 </dev/null >/dev/null 2>&1 &")
	got := onNode(t, dir, nil, "docker", "run", "-d", "example.test/foreign-bundle:1")
	if got.code != 0 {
		t.Fatalf("docker run: %s", got.stderr)
	}
	container := strings.TrimSpace(got.stdout)
	var spaces []string
	for _, kind := range []string{"net", "mnt"} {
		spaces = append(spaces, strings.TrimSpace(onNode(t, dir, nil, "readlink", "/proc/self/ns/"+kind).stdout))
	}
	spaces = append(spaces, strings.TrimSpace(inControl(t, dir, "readlink", "/proc/self/ns/net").stdout))
	before := processesIn(t, spaces)
	if len(before) == 0 {
		t.Fatal("got no process in the node's namespaces, want some for down to end")
	}
	names := "bb" + fmt.Sprintf("%x", sha256.Sum256([]byte(dir)))[:5] + "-*"
	if found := glob(t, "/run/netns/"+names); len(found) < 3 {
		t.Fatalf("got network namespaces %v, want those of the node, the world and the control plane", found)
	}

	if got := run(t, dir, nil, "hack/dev/down"); got.code != 0 {
		t.Fatalf("down: %+v", got)
	}
	if found := glob(t, "/run/netns/"+names); len(found) > 0 {
		t.Errorf("got network namespaces %v, want none", found)
	}
	if found := glob(t, "/sys/fs/cgroup/docker/"+container, "/sys/fs/cgroup/*/docker/"+container); len(found) > 0 {
		t.Errorf("got cgroups %v, want none", found)
	}
	if found := glob(t, "/sys/fs/cgroup/bottle-dev-"+names[2:7]+"-*", "/sys/fs/cgroup/unified/bottle-dev-"+names[2:7]+"-*"); len(found) > 0 {
		t.Errorf("got cgroups %v, want none of its machines", found)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("got a mount of %s (%v), want none", dir, err)
	}
	if left := glob(t, dir+"/*"); len(left) != 1 || filepath.Base(left[0]) != "logs" {
		t.Errorf("got files %v, want only the logs", left)
	}
	for process, started := range processesIn(t, spaces) {
		// Another test's new namespace may have reused the inode number of the node's.
		if was, known := before[process]; known && was == started {
			t.Errorf("%s is in a namespace of the cluster, want no process there", process)
		}
	}
	for _, process := range glob(t, "/proc/[0-9]*") {
		if line, err := os.ReadFile(process + "/cmdline"); err == nil && bytes.Contains(line, []byte(dir)) {
			t.Errorf("got process %s: %q, want no process of the cluster", process, line)
		}
	}
}

// processesIn returns the processes in any of the namespaces, with their start
// times.
func processesIn(t *testing.T, spaces []string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, process := range glob(t, "/proc/[0-9]*") {
		for _, kind := range []string{"net", "mnt"} {
			space, err := os.Readlink(process + "/ns/" + kind)
			stat, statErr := os.ReadFile(process + "/stat")
			if err != nil || statErr != nil || !slices.Contains(spaces, space) {
				continue
			}
			if fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])); len(fields) > 19 {
				found[process] = fields[19]
			}
		}
	}
	return found
}

type result struct {
	stdout, stderr string
	code           int
}

func up(t *testing.T, dir string) {
	t.Helper()
	if got := run(t, dir, nil, "hack/dev/up"); got.code != 0 {
		t.Fatalf("up: exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
}

func onNode(t *testing.T, dir string, stdin []byte, argv ...string) result {
	t.Helper()
	return run(t, dir, stdin, filepath.Join(dir, "exec"), append([]string{node}, argv...)...)
}

func run(t *testing.T, dir string, stdin []byte, command string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if !filepath.IsAbs(command) {
		command = filepath.Join(root, command)
	}
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Env = append(os.Environ(), "DEV_DIR="+dir, "NODES=1", "MACHINES=standin", "STANDIN_VERSION=1.32.2", "NAMESPACE=", "AGENT_FLAGS=", "MANAGER_FLAGS=")
	cmd.Stdin, cmd.WaitDelay = bytes.NewReader(stdin), 5*time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v\n%s%s", command, err, &stdout, &stderr)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// pids returns the content of the PID files that up wrote, by file name.
func pids(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, file := range glob(t, dir+"/run/*.pid") {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found[filepath.Base(file)] = string(content)
	}
	return found
}

func glob(t *testing.T, patterns ...string) []string {
	t.Helper()
	var found []string
	for _, pattern := range patterns {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, matches...)
	}
	return found
}
