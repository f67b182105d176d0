// SPDX-License-Identifier: Apache-2.0

package escape

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// listenerPort is the port of the test's own listeners: HTTP over TCP, and an echo
// over UDP. None of the agent's canaries uses it, because the agent would take the
// control runs for a leak.
const listenerPort = 18080

// observation is a line in the log of the pretend world or of a listener.
type observation struct {
	Proto, Kind, Local, Remote, Name, Data string
	by                                     string
}

func (o observation) String() string {
	return fmt.Sprintf("%s saw %s/%s from %s at %s", o.by, o.Proto, o.Kind, o.Remote, o.Local)
}

// observations are what observers have seen so far.
type observations []observation

// find returns the first observation of a marker.
func (all observations) find(marker string) (observation, bool) {
	for _, o := range all {
		if strings.Contains(o.Data, marker) || strings.Contains(strings.ToLower(o.Name), strings.ToLower(marker)) {
			return o, true
		}
	}
	return observation{}, false
}

func parseLog(t *testing.T, by, log string) observations {
	t.Helper()
	var out observations
	for line := range strings.Lines(log) {
		o := observation{by: by}
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("log of %s: %v in %q", by, err, line)
		}
		out = append(out, o)
	}
	return out
}

// world returns what reached the pretend outside world.
func (s *site) world(t *testing.T) observations {
	t.Helper()
	out, err := exec.Command(filepath.Join(s.Dir, "world-log"), node).Output()
	if err != nil {
		t.Fatalf("world-log %s: %v", node, err)
	}
	return parseLog(t, "the pretend world", string(out))
}

// listener is a program on the node that answers like the pretend world. log is the
// path of its log.
type listener struct {
	site      *site
	what, log string
}

// listen starts a listener.
func (s *site) listen(t *testing.T, what string) *listener {
	t.Helper()
	l := &listener{site: s, what: what, log: "/run/escape-" + nonce() + ".jsonl"}
	// Create the log before anything listens.
	const serve = `: >"$1"; setsid /opt/dev/world -log "$1" -http "$2" -dns "" -echo "$2" </dev/null >/dev/null 2>&1 & echo $!`
	pid := strings.TrimSpace(s.Exec(t, node, "sh", "-c", serve, "sh", l.log, fmt.Sprint(listenerPort)))
	t.Cleanup(func() { s.TryExec(t, node, "sh", "-c", `kill "$1"; rm -f "$2"`, "sh", pid, l.log) })
	s.Eventually(t, what+" to listen", func() (string, bool) {
		r := s.TryExec(t, node, "sh", "-c", fmt.Sprintf("ss -Hltn sport = :%d; ss -Hlun sport = :%d", listenerPort, listenerPort))
		return r.Stdout + r.Stderr, strings.Count(r.Stdout, "\n") >= 2
	})
	return l
}

func (l *listener) observations(t *testing.T) observations {
	t.Helper()
	return parseLog(t, l.what, l.site.Exec(t, node, "cat", l.log))
}
