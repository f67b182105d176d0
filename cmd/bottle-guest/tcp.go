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
	answerPatience  = 5 * time.Second  // for the port to send something
	quietPatience   = 2 * time.Second  // for the port to close a connection on which nothing was sent
)

// sendNonce writes the nonce as a line, and an empty line. No protocol that we
// know of acts on that, and most servers answer or close the connection.
func (p prober) sendNonce(conn net.Conn) error {
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
	if err := p.sendNonce(conn); err != nil {
		return failed(err)
	}
	if t.Canary {
		return p.awaitGreeting(conn)
	}
	n, err := conn.Read(make([]byte, 1))
	switch {
	case n > 0:
		return answer{probe.Reached, ""}
	case isReset(err):
		return answer{probe.Refused, "accepted, then reset"}
	}
	return answer{probe.Accepted, "sent nothing"}
}

// awaitGreeting waits for the canary's greeting, which nothing else can know.
func (p prober) awaitGreeting(conn net.Conn) answer {
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
	return answer{probe.Accepted, "sent nothing"}
}

// reach tries a port that must be reached. It measures the time until the port
// answers or closes the connection, which takes more than a handshake with
// smolvm's gateway. A server that waits for its client counts as reached. If the
// connection is reset immediately, the gateway may never have connected it, so
// reach opens another one and sends nothing.
func (p prober) reach(ctx context.Context, t probe.Target) (answer, time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, connectPatience+answerPatience)
	defer cancel()
	started := time.Now()
	conn, err := connect(ctx, t)
	if err != nil {
		return failed(err), time.Since(started)
	}
	defer conn.Close()
	connected := time.Since(started)
	_ = conn.SetDeadline(time.Now().Add(answerPatience)) // a closed connection fails below
	if err = p.sendNonce(conn); err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	trip := time.Since(started)
	switch {
	case err == nil, isEnd(err):
		return answer{probe.Reached, ""}, trip
	case errors.Is(err, os.ErrDeadlineExceeded):
		return answer{probe.Reached, "sent nothing"}, connected
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

// staysOpen reports whether a connection is not reset while nothing is sent on it.
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
