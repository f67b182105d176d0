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

// listenerPort is where listeners of the test's own answer: HTTP over TCP, and
// an echo over UDP. It is none of the agent's canaries', which would take what
// a control does for a leak.
const listenerPort = 18080

// sight is a line of the log of the pretend world, or of one like it.
type sight struct {
	Proto, Kind, Local, Remote, Name, Data string
	by                                     string
}

func (s sight) String() string {
	return fmt.Sprintf("%s saw %s/%s from %s at %s", s.by, s.Proto, s.Kind, s.Remote, s.Local)
}

// sights are what observers have seen so far.
type sights []sight

// find returns the first sight of a marker.
func (ss sights) find(marker string) (sight, bool) {
	for _, s := range ss {
		if strings.Contains(s.Data, marker) || strings.Contains(strings.ToLower(s.Name), strings.ToLower(marker)) {
			return s, true
		}
	}
	return sight{}, false
}

func parseSights(t *testing.T, by, log string) sights {
	t.Helper()
	var out sights
	for line := range strings.Lines(log) {
		s := sight{by: by}
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatalf("log of %s: %v in %q", by, err, line)
		}
		out = append(out, s)
	}
	return out
}

// world is what reached the pretend outside world.
func (s *site) world(t *testing.T) sights {
	t.Helper()
	out, err := exec.Command(filepath.Join(s.Dir, "world-log"), node).Output()
	if err != nil {
		t.Fatalf("world-log %s: %v", node, err)
	}
	return parseSights(t, "the pretend world", string(out))
}

// listener is a program that answers like the pretend world, on the node.
type listener struct {
	site     *site
	what, at string
}

// listen starts one.
func (s *site) listen(t *testing.T, what string) *listener {
	t.Helper()
	l := &listener{site: s, what: what, at: "/run/escape-" + nonce() + ".jsonl"}
	// The log is there before anything listens.
	const serve = `: >"$1"; setsid /opt/dev/world -log "$1" -http "$2" -dns "" -echo "$2" </dev/null >/dev/null 2>&1 & echo $!`
	pid := strings.TrimSpace(s.Exec(t, node, "sh", "-c", serve, "sh", l.at, fmt.Sprint(listenerPort)))
	t.Cleanup(func() { s.TryExec(t, node, "sh", "-c", `kill "$1"; rm -f "$2"`, "sh", pid, l.at) })
	s.Eventually(t, what+" to listen", func() (string, bool) {
		r := s.TryExec(t, node, "sh", "-c", fmt.Sprintf("ss -Hltn sport = :%d; ss -Hlun sport = :%d", listenerPort, listenerPort))
		return r.Stdout + r.Stderr, strings.Count(r.Stdout, "\n") >= 2
	})
	return l
}

func (l *listener) sights(t *testing.T) sights {
	t.Helper()
	return parseSights(t, l.what, l.site.Exec(t, node, "cat", l.at))
}
