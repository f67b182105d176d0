// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"
	"net/netip"
	"time"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

// udp sends the nonce twice and waits for an answer. Only its greeting counts as
// the answer of a canary.
func (p prober) udp(ctx context.Context, t probe.Target) answer {
	conn, err := dial(ctx, "udp", netip.AddrPortFrom(t.Addr, t.Port))
	if err != nil {
		return failed(err)
	}
	defer conn.Close()
	want := probe.Greeting(p.nonce)
	return exchange(ctx, conn, [][]byte{[]byte(p.nonce)}, func(data []byte) bool {
		return !t.Canary || string(data) == want
	})
}

// exchange sends messages, and sends them again halfway to the deadline, because
// datagrams may be lost. good reports whether received data is an answer.
func exchange(ctx context.Context, conn net.Conn, messages [][]byte, good func([]byte) bool) answer {
	end, _ := ctx.Deadline()
	var last answer
	for _, until := range []time.Time{time.Now().Add(time.Until(end) / 2), end} {
		for _, m := range messages {
			if _, err := conn.Write(m); err != nil {
				return failed(err)
			}
		}
		_ = conn.SetReadDeadline(until) // a closed socket fails below
		last = listen(conn, good)
		if last.outcome != probe.TimedOut {
			return last
		}
	}
	return last
}

// listen reads until it receives good data or until the deadline.
func listen(conn net.Conn, good func([]byte) bool) answer {
	buf := make([]byte, 2048)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return failed(err)
		}
		if good(buf[:n]) {
			return answer{probe.Reached, ""}
		}
	}
}
