// SPDX-License-Identifier: Apache-2.0

package devcluster

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	nodeAddress = "10.77.0.11"
	wait        = 60 * time.Second
)

var managerAddresses = []string{"10.77.0.2", "10.77.0.3"}

// testManagersAndNodes starts a server on each side and connects from the other, at
// each address that the servers have on the LAN.
func testManagersAndNodes(t *testing.T, dir string) {
	for _, address := range managerAddresses {
		background(t, dir, "control-exec", listenOn(address)...)
		eventually(t, "the node to reach "+address, func() (string, bool) {
			got := onNode(t, dir, nil, connectTo(address+":7000")...)
			return fmt.Sprintf("%+v", got), got.code == 0
		})
	}
	background(t, dir, "exec", append([]string{node}, listenOn(nodeAddress)...)...)
	eventually(t, "the managers to reach the node", func() (string, bool) {
		got := inControl(t, dir, connectTo(nodeAddress+":7000")...)
		return fmt.Sprintf("%+v", got), got.code == 0
	})
}

// listenOn returns a command that accepts connections on port 7000.
func listenOn(address string) []string {
	return []string{"python3", "-c", `import socket, sys
s = socket.create_server((sys.argv[1], 7000))
while True: s.accept()[0].close()`, address}
}

// connectTo returns a command that succeeds if a TCP connection does.
func connectTo(address string) []string {
	host, port, _ := net.SplitHostPort(address)
	return []string{"python3", "-c", "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)", host, port}
}

// aggregated is an API server that accepts only the front proxy's certificate. It
// answers every request with its own address and the headers.
const aggregated = `import http.server, json, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"address": self.connection.getsockname()[0], "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
pki = sys.argv[1]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=pki + "/front-proxy-ca.crt")
context.verify_mode = ssl.CERT_REQUIRED
context.load_cert_chain(pki + "/apiserver.crt", pki + "/apiserver.key")
server = http.server.ThreadingHTTPServer(("0.0.0.0", 7443), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()`

// testAggregation registers an API server that runs beside the managers. Requests
// reach it at the address of each manager, with the name of the user and the node
// that the user's token is bound to.
func testAggregation(t *testing.T, dir string) {
	background(t, dir, "control-exec", "python3", "-c", aggregated, filepath.Join(dir, "pki"))
	const objects = `
apiVersion: v1
kind: Service
metadata: {namespace: bottle-system, name: aggregated}
spec: {ports: [{name: https, port: 443, targetPort: 7443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: bottle-system, name: aggregated, labels: {kubernetes.io/service-name: aggregated}}
addressType: IPv4
ports: [{name: https, port: 7443}]
endpoints: [{addresses: [10.77.0.2], conditions: {ready: true}}, {addresses: [10.77.0.3], conditions: {ready: true}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.devcluster.test}
spec:
  {group: devcluster.test, version: v1, groupPriorityMinimum: 1000, versionPriority: 15, insecureSkipTLSVerify: true,
  service: {namespace: bottle-system, name: aggregated}}`
	if got := kubectl(t, dir, []byte(objects), "create", "-f", "-"); got.code != 0 {
		t.Fatalf("create: %+v", got)
	}
	defer kubectl(t, dir, []byte(objects), "delete", "-f", "-")
	token, err := os.ReadFile(filepath.Join(dir, "nodes", node, "agent.token"))
	if err != nil {
		t.Fatal(err)
	}
	unreached := slices.Clone(managerAddresses)
	var answer struct {
		Address string
		Headers map[string]string
	}
	eventually(t, "answers from both addresses", func() (string, bool) {
		got := kubectl(t, dir, nil, "--kubeconfig", filepath.Join(dir, "agent.kubeconfig"), "--server", server(t, dir),
			"--token", strings.TrimSpace(string(token)), "get", "--raw", "/apis/devcluster.test/v1")
		if got.code != 0 {
			return fmt.Sprintf("%+v", got), false
		}
		if err := json.Unmarshal([]byte(got.stdout), &answer); err != nil {
			return fmt.Sprintf("%v: %s", err, got.stdout), false
		}
		unreached = slices.DeleteFunc(unreached, func(a string) bool { return a == answer.Address })
		return fmt.Sprintf("no answer from %v", unreached), len(unreached) == 0
	})
	for header, want := range map[string]string{
		"x-remote-user": "system:serviceaccount:bottle-system:bottle-agent",
		"x-remote-extra-authentication.kubernetes.io%2fnode-name": node,
	} {
		if got := answer.Headers[header]; got != want {
			t.Errorf("%s: got %q of %v, want %q", header, got, answer.Headers, want)
		}
	}
}

// testManager stops and starts one replica. The other is left alone, and the
// endpoints of their Service follow.
func testManager(t *testing.T, dir string) {
	endpoints := func() string {
		return kubectl(t, dir, nil, "-n", "bottle-system", "get", "endpointslice", "bottle-manager-access", "-o", "jsonpath={.endpoints[*].addresses[0]}").stdout
	}
	before := pids(t, dir)
	if got := run(t, dir, nil, filepath.Join(dir, "manager-stop"), "2"); got.code != 0 {
		t.Fatalf("manager-stop: %+v", got)
	}
	if got, stopped := pids(t, dir), endpoints(); got["manager-2.pid"] != "" || got["manager-1.pid"] != before["manager-1.pid"] || stopped != "10.77.0.2" {
		t.Errorf("after manager-stop 2: got processes %v and endpoints %s, want only manager-1", got, stopped)
	}
	if got := run(t, dir, nil, filepath.Join(dir, "manager-start"), "2"); got.code != 0 {
		t.Fatalf("manager-start: %+v", got)
	}
	if got, started := pids(t, dir), endpoints(); got["manager-2.pid"] == "" || started != "10.77.0.2 10.77.0.3" {
		t.Errorf("after manager-start 2: got processes %v and endpoints %s, want both managers", got, started)
	}
	for _, number := range []string{"0", "3", "x", ""} {
		if got := run(t, dir, nil, filepath.Join(dir, "manager-stop"), number); got.code != 2 {
			t.Errorf("manager-stop %q: got %+v, want it refused", number, got)
		}
	}
}

// machineNetwork returns the links and routes of this machine.
func machineNetwork(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for _, what := range []string{"address", "route"} {
		out, err := exec.Command("ip", "-o", what, "show").Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			line, _, _ = strings.Cut(line, " valid_lft ") // the lifetime of an address counts down
			found[what] = append(found[what], line)
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		found["links"] = append(found["links"], l.Name)
	}
	return found
}

// background runs one of the cluster's commands until the test ends.
func background(t *testing.T, dir, command string, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(dir, command), args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

func inControl(t *testing.T, dir string, argv ...string) result {
	t.Helper()
	return run(t, dir, nil, filepath.Join(dir, "control-exec"), argv...)
}

func kubectl(t *testing.T, dir string, stdin []byte, args ...string) result {
	t.Helper()
	return run(t, dir, stdin, "bin/controlplane/kubectl", append([]string{"--kubeconfig", filepath.Join(dir, "kubeconfig")}, args...)...)
}

// server returns the address of the API server on this machine.
func server(t *testing.T, dir string) string {
	t.Helper()
	got := kubectl(t, dir, nil, "config", "view", "-o", "jsonpath={.clusters[0].cluster.server}")
	if got.code != 0 || got.stdout == "" {
		t.Fatalf("config view: %+v", got)
	}
	return got.stdout
}

func eventually(t *testing.T, what string, check func() (state string, done bool)) {
	t.Helper()
	deadline := time.Now().Add(wait)
	for {
		state, done := check()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s; last state: %s", wait, what, state)
		}
		time.Sleep(200 * time.Millisecond)
	}
}
