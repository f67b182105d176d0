// SPDX-License-Identifier: Apache-2.0

package escape

import (
	"slices"
	"strings"
	"testing"
)

// machine is a machine that the test creates directly with smolvm on the node. The
// agent leaves it alone, because it never gives a machine such a name.
type machine struct {
	site          *site
	name, backend string
	// allowed is the only CIDR that smolvm's policy lets it reach; "" means that it
	// has no policy.
	allowed string
	// enter is the command through which it was last started; see start.
	enter []string
}

// makeMachine creates a machine. backend is smolvm's --net-backend; it is "" for a
// stand-in, whose guest is a process in the namespace in which the machine was
// started. allowed is the only CIDR that its policy permits, or "" for no policy.
func (s *site) makeMachine(t *testing.T, backend, allowed string) *machine {
	t.Helper()
	m := &machine{site: s, name: "escape-control-" + nonce(), backend: backend, allowed: allowed}
	argv := []string{"smolvm", "machine", "create"}
	if strings.HasSuffix(s.version, " 0.8.0") {
		argv = append(argv, m.name) // it does not support local images, but a bare machine has busybox
	} else {
		argv = append(argv, "--name", m.name, "--image", "/var/lib/bottle-images/guest.tar")
	}
	argv = append(argv, "--cpus", "1", "--mem", "256", "--net")
	if backend != "" {
		argv = append(argv, "--net-backend", backend)
	}
	if allowed != "" {
		argv = append(argv, "--allow-cidr", allowed)
	}
	m.retry(t, argv)
	t.Cleanup(func() {
		target := []string{"--name", m.name}
		if strings.HasSuffix(s.version, " 0.8.0") {
			target = target[1:]
		}
		s.TryExec(t, node, "smolvm", "machine", "stop", "--name", m.name)
		s.TryExec(t, node, append([]string{"smolvm", "machine", "delete", "-f"}, target...)...)
	})
	return m
}

// start boots the machine in the namespace that the command enter enters, or in the
// node's own if there is none. It first stops the machine if it is running.
func (m *machine) start(t *testing.T, enter ...string) {
	t.Helper()
	m.enter = enter
	m.site.TryExec(t, node, "smolvm", "machine", "stop", "--name", m.name)
	m.retry(t, append(enter, "smolvm", "machine", "start", "--name", m.name))
}

// retry runs a command, and retries it if smolvm's database was busy, or if a boot
// failed because an emulated node was too slow or its guest crashed.
func (m *machine) retry(t *testing.T, argv []string) {
	t.Helper()
	for attempt := 1; ; attempt++ {
		r := m.site.TryExec(t, node, argv...)
		if r.Code == 0 {
			return
		}
		output := r.Stdout + r.Stderr
		again := slices.ContainsFunc([]string{"boot process exited", "did not become ready", "connection closed", "database is locked"},
			func(text string) bool { return strings.Contains(output, text) })
		if !again || attempt == 6 {
			t.Fatalf("%v: exit code %d, attempt %d\n%s", argv, r.Code, attempt, output)
		}
		t.Logf("%s: attempt %d: %s", m.name, attempt, strings.TrimSpace(output))
	}
}

// sh runs a script in the guest. If the connection to an emulated guest breaks, sh
// restarts the machine and runs the script once more. Whatever the script reached
// before still counts, because observers saw it.
func (m *machine) sh(t *testing.T, script string) string {
	t.Helper()
	argv := []string{"smolvm", "machine", "exec", "--name", m.name, "--", "sh", "-c", script}
	r := m.site.TryExec(t, node, argv...)
	if r.Code == 0 {
		return r.Stdout
	}
	if !m.site.real || !strings.Contains(r.Stdout+r.Stderr, "connection closed") {
		t.Fatalf("%s: exit code %d\n%s%s", m, r.Code, r.Stdout, r.Stderr)
	}
	t.Logf("%s: exit code %d: %s\n%s", m, r.Code, strings.TrimSpace(r.Stderr), m.diagnose(t))
	m.start(t, m.enter...)
	return m.site.Exec(t, node, argv...)
}

// diagnose returns smolvm's list of machines and the end of the machine's console
// log.
func (m *machine) diagnose(t *testing.T) string {
	t.Helper()
	r := m.site.TryExec(t, node, "sh", "-c", `
		smolvm machine ls
		for d in "$HOME"/.cache/smolvm/vms/*; do
			if [ "$(cat "$d/name" 2>/dev/null)" = "$1" ]; then tail -n 20 "$d/agent-console.log"; fi
		done`, "sh", m.name)
	return r.Stdout + r.Stderr
}

func (m *machine) String() string {
	what := "a machine without policy"
	if m.allowed != "" {
		what = "a machine with smolvm's policy"
	}
	if m.backend != "" {
		what += ", backend " + m.backend
	}
	return what
}
