// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

const (
	connectPatience = 10 * time.Second // for a port that must be reached
	answerPatience  = 5 * time.Second  // for it to say something
	quietPatience   = 2 * time.Second  // for it to close a connection on which nothing was said
)

// bring writes the nonce as a line and an empty one: no protocol that we know
// of acts on it, and most servers answer or close.
func (p prober) bring(conn net.Conn) error {
	_, err := io.WriteString(conn, p.nonce+"\r\n\r\n")
	return err
}

// tcp tries a port that must not be reached. Only an answer counts: smolvm's
// gateway accepts connections itself before it knows whether it can make them.
func (p prober) tcp(ctx context.Context, t probe.Target) answer {
	conn, err := dial(ctx, "tcp", netip.AddrPortFrom(t.Addr, t.Port))
	if err != nil {
		return failed(err)
	}
	defer conn.Close()
	if err := p.bring(conn); err != nil {
		return failed(err)
	}
	if t.Canary {
		return p.greeted(conn)
	}
	n, err := conn.Read(make([]byte, 1))
	switch {
	case n > 0:
		return answer{probe.Reached, ""}
	case isReset(err):
		return answer{probe.Refused, "accepted, then reset"}
	}
	return answer{probe.Accepted, "said nothing"}
}

// greeted waits for the canary's greeting, which nothing else can know.
func (p prober) greeted(conn net.Conn) answer {
	want := probe.Greeting(p.nonce)
	got := make([]byte, len(want))
	n, err := io.ReadFull(conn, got)
	switch {
	case string(got[:n]) == want:
		return answer{probe.Reached, ""}
	case isReset(err):
		return answer{probe.Refused, "accepted, then reset"}
	case n > 0:
		return answer{probe.Accepted, "something else answered"}
	}
	return answer{probe.Accepted, "said nothing"}
}

// reach tries a port that must be reached and takes the time until it answers
// or closes, which is more than a handshake with smolvm's gateway. A server
// that waits for its client is reached; one that resets at once may be one
// that was never connected, so it is asked again without a word.
func (p prober) reach(ctx context.Context, t probe.Target) (answer, time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, connectPatience+answerPatience)
	defer cancel()
	begin := time.Now()
	conn, err := connect(ctx, t)
	if err != nil {
		return failed(err), time.Since(begin)
	}
	defer conn.Close()
	connected := time.Since(begin)
	_ = conn.SetDeadline(time.Now().Add(answerPatience)) // a closed connection fails below
	if err = p.bring(conn); err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	trip := time.Since(begin)
	switch {
	case err == nil, isEnd(err):
		return answer{probe.Reached, ""}, trip
	case errors.Is(err, os.ErrDeadlineExceeded):
		return answer{probe.Reached, "said nothing"}, connected
	}
	if staysOpen(ctx, t) {
		return answer{probe.Reached, "resets what it does not understand"}, trip
	}
	return answer{probe.Refused, "accepted, then reset"}, trip
}

func connect(ctx context.Context, t probe.Target) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	return dial(ctx, "tcp", netip.AddrPortFrom(t.Addr, t.Port))
}

// staysOpen says whether a connection on which nothing is said is not reset.
func staysOpen(ctx context.Context, t probe.Target) bool {
	conn, err := connect(ctx, t)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(quietPatience)) // a closed connection fails below
	_, err = conn.Read(make([]byte, 1))
	return err == nil || isEnd(err) || errors.Is(err, os.ErrDeadlineExceeded)
}
