// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/host"
)

const nonce = "0123456789abcdef0123456789abcdef"

// Patience of tests. A busy machine may stop for a second or more.
const (
	hasty = 300 * time.Millisecond // for what never answers, however long the test waits
	brief = 3 * time.Second        // for what must happen in it, and then waits until its end
	ample = 30 * time.Second       // for what ends on its own
)

func TestMain(m *testing.M) {
	// Nearly all parallel tests wait for a patience to end, so many can run at a time. A
	// flag of the command line still wins.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// canaries starts real canaries for the test and returns their ports.
func canaries(t *testing.T) (tcp, udp uint16) {
	t.Helper()
	return runCanaries(t, func(host.CanaryHit) {})
}

// serve starts a TCP server on loopback that calls do with each connection.
func serve(t *testing.T, do func(*net.TCPConn)) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			go do(conn.(*net.TCPConn))
		}
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func closedPort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// blackHole returns a port that answers no SYN, because its queue is full.
func blackHole(t *testing.T) uint16 {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(name.(*syscall.SockaddrInet4).Port)
	for range 16 {
		conn, err := net.DialTimeout("tcp", local(port).String(), brief/2)
		if err != nil {
			return port
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("the queue does not fill")
	return 0
}

func local(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

func target(proto string, port uint16) probe.Target {
	return probe.Target{Kind: probe.KindPublic, Proto: proto, Addr: local(port).Addr(), Port: port}
}

func canaryTarget(proto string, port uint16) probe.Target {
	t := target(proto, port)
	t.Kind, t.Canary = probe.KindNode, true
	return t
}

// What servers do with a connection.
func silent(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) }
func echoes(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) }
func closes(conn *net.TCPConn) { _, _ = conn.Read(make([]byte, 100)); conn.Close() }
func resets(conn *net.TCPConn) { _ = conn.SetLinger(0); conn.Close() }

// picky resets a connection once it receives something.
func picky(conn *net.TCPConn) {
	_, _ = conn.Read(make([]byte, 1))
	_ = conn.SetLinger(0)
	conn.Close()
}

func TestTCP(t *testing.T) {
	canaryPort, _ := canaries(t)
	tests := map[string]struct {
		target probe.Target
		want   probe.Outcome
		slow   bool // takes all of the patience
	}{
		"a server that answers":      {target("tcp", serve(t, echoes)), probe.Reached, false},
		"one that sends nothing":     {target("tcp", serve(t, silent)), probe.Accepted, true},
		"one that closes":            {target("tcp", serve(t, closes)), probe.Accepted, false},
		"one that resets":            {target("tcp", serve(t, resets)), probe.Refused, false},
		"a closed port":              {target("tcp", closedPort(t)), probe.Refused, false},
		"a black hole":               {target("tcp", blackHole(t)), probe.TimedOut, true},
		"a canary":                   {canaryTarget("tcp", canaryPort), probe.Reached, false},
		"an impostor":                {canaryTarget("tcp", serve(t, echoes)), probe.Accepted, true},
		"an impostor that closes":    {canaryTarget("tcp", serve(t, closes)), probe.Accepted, false},
		"an impostor that resets":    {canaryTarget("tcp", serve(t, resets)), probe.Refused, false},
		"an impostor that is silent": {canaryTarget("tcp", serve(t, silent)), probe.Accepted, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			started := time.Now()
			patience := ample
			if test.slow {
				patience = brief
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			got := prober{nonce: nonce}.avoid(ctx, test.target)
			took := time.Since(started)
			if got.outcome != test.want {
				t.Errorf("got %v, want %s", got, test.want)
			}
			if took >= ample {
				t.Errorf("took %s, want at most %s", took, patience)
			}
			if test.slow && took < brief {
				t.Errorf("took %s, want all of %s", took, brief)
			}
		})
	}
}

func TestReach(t *testing.T) {
	late := func(conn *net.TCPConn) {
		<-time.After(hasty)
		echoes(conn)
	}
	tests := map[string]struct {
		port  uint16
		want  probe.Outcome
		least time.Duration // of the trip
	}{
		"a server that answers":         {serve(t, echoes), probe.Reached, 0},
		"one that answers late":         {serve(t, late), probe.Reached, hasty},
		"one that closes":               {serve(t, closes), probe.Reached, 0},
		"one that waits for its client": {serve(t, silent), probe.Reached, 0},
		"one that resets unknown data":  {serve(t, picky), probe.Reached, 0},
		"one that resets":               {serve(t, resets), probe.Refused, 0},
		"a closed port":                 {closedPort(t), probe.Refused, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, trip := prober{nonce: nonce}.reach(t.Context(), target("tcp", test.port))
			if got.outcome != test.want {
				t.Errorf("got %v, want %s", got, test.want)
			}
			// The trip to a server that sends nothing ends with the handshake.
			if trip < test.least || trip >= answerPatience {
				t.Errorf("got a trip of %s, want one from %s to less than %s", trip, test.least, answerPatience)
			}
		})
	}
}

// The round trip is that of a second connection: the first one pays for what is slow only
// once. A server that waits for its client is not made to wait twice.
func TestTheRoundTripIsMeasuredTwice(t *testing.T) {
	tests := map[string]struct {
		answers bool
		want    int32
	}{"answers": {true, 2}, "waits for its client": {false, 1}}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var connections atomic.Int32
			port := serve(t, func(conn *net.TCPConn) {
				connections.Add(1)
				if test.answers {
					_, _ = io.WriteString(conn, "400\n")
				}
			})
			plan := probe.Plan{Reach: []probe.Target{target("tcp", port)}}
			if r := (prober{nonce: nonce}).report(t.Context(), plan); r.Results[0].Outcome != probe.Reached {
				t.Errorf("got %+v, want it reached", r.Results[0])
			}
			if got := connections.Load(); got != test.want {
				t.Errorf("got %d connections, want %d", got, test.want)
			}
		})
	}
}

// A second connection that is refused soon says nothing about how slow the host is.
func TestARefusedConnectionIsNoRoundTrip(t *testing.T) {
	const slow = 50 * time.Millisecond
	var connections atomic.Int32
	port := serve(t, func(conn *net.TCPConn) {
		if connections.Add(1) == 1 {
			time.Sleep(slow)
			_, _ = io.WriteString(conn, "400\n")
			return
		}
		_ = conn.SetLinger(0)
		conn.Close()
	})
	plan := probe.Plan{Reach: []probe.Target{target("tcp", port)}}
	if r := (prober{nonce: nonce}).report(t.Context(), plan); r.RoundTrip < slow {
		t.Errorf("round trip: got %s, want that of the first connection, at least %s", r.RoundTrip, slow)
	}
}

func TestPatience(t *testing.T) {
	plan := probe.Plan{Floor: time.Second, Ceiling: 10 * time.Second}
	for trip, want := range map[time.Duration]time.Duration{
		0: time.Second, time.Millisecond: time.Second, 100 * time.Millisecond: 2 * time.Second, time.Second: 10 * time.Second,
	} {
		if got := patienceFor(trip, plan); got != want {
			t.Errorf("a trip of %s: got %s, want %s", trip, got, want)
		}
	}
}
