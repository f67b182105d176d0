// SPDX-License-Identifier: Apache-2.0

package escape

import (
	"strings"
	"testing"
)

// machine is one made by hand on the node. Its name is none that the agent
// gives, so the agent leaves it alone.
type machine struct {
	site          *site
	name, backend string
	// allowed is all that smolvm's policy lets it reach, "" for no policy.
	allowed string
	// enter is the command that it was last started by.
	enter []string
}

// makeMachine creates one; backend is smolvm's --net-backend, "" for a
// stand-in, whose guest is a process in the namespace that it was started in.
// Only allowed may be reached by its policy; "": it has none.
func (s *site) makeMachine(t *testing.T, backend, allowed string) *machine {
	t.Helper()
	m := &machine{site: s, name: "escape-control-" + nonce(), backend: backend, allowed: allowed}
	argv := []string{"smolvm", "machine", "create"}
	if strings.HasSuffix(s.version, " 0.8.0") {
		argv = append(argv, m.name) // it knows no local images: a bare machine has busybox
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
		drop := []string{"--name", m.name}
		if strings.HasSuffix(s.version, " 0.8.0") {
			drop = drop[1:]
		}
		s.TryExec(t, node, "smolvm", "machine", "stop", "--name", m.name)
		s.TryExec(t, node, append([]string{"smolvm", "machine", "delete", "-f"}, drop...)...)
	})
	return m
}

// start boots it in the namespace that the command enters, none for the
// node's own. It is stopped first, where it runs.
func (m *machine) start(t *testing.T, enter ...string) {
	t.Helper()
	m.enter = enter
	m.site.TryExec(t, node, "smolvm", "machine", "stop", "--name", m.name)
	m.retry(t, append(enter, "smolvm", "machine", "start", "--name", m.name))
}

// retry runs a command again where smolvm's database was busy, or where an
// emulated node was too slow for a boot.
func (m *machine) retry(t *testing.T, argv []string) {
	t.Helper()
	for attempt := 1; ; attempt++ {
		r := m.site.TryExec(t, node, argv...)
		if r.Code == 0 {
			return
		}
		said := r.Stdout + r.Stderr
		again := strings.Contains(said, "boot process exited") || strings.Contains(said, "did not become ready") || strings.Contains(said, "database is locked")
		if !again || attempt == 6 {
			t.Fatalf("%v: exit code %d, attempt %d\n%s", argv, r.Code, attempt, said)
		}
		t.Logf("%s: attempt %d: %s", m.name, attempt, strings.TrimSpace(said))
	}
}

// sh runs a script in the guest. Where the way to an emulated guest breaks, it
// is run once more in the machine started anew: what it reached before that
// was seen by observers, and counts.
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
	t.Logf("%s: exit code %d: %s\n%s", m, r.Code, strings.TrimSpace(r.Stderr), m.remains(t))
	m.start(t, m.enter...)
	return m.site.Exec(t, node, argv...)
}

// remains is what is known of a machine to which the way broke.
func (m *machine) remains(t *testing.T) string {
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
