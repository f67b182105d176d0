// SPDX-License-Identifier: Apache-2.0

package canary

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/host"
)

func TestGreets(t *testing.T) {
	c, hits := start(t)
	tcp, udp := c.Ports()
	for _, addr := range loopbacks(t) {
		t.Run("tcp "+addr, func(t *testing.T) {
			conn := dial(t, "tcp", addr, tcp)
			fmt.Fprintf(conn, "%s\r\n\r\n", nonce)
			answer, err := io.ReadAll(conn)
			if err != nil || string(answer) != probe.Greeting(nonce) {
				t.Errorf("got %q, %v, want the greeting", answer, err)
			}
			// It was reported before it was answered.
			select {
			case hit := <-hits:
				wantHit(t, hit, conn, nonce)
			default:
				t.Error("greeted, but not reported")
			}
			none(t, hits)
		})
		t.Run("udp "+addr, func(t *testing.T) {
			// A connected socket accepts answers only from the address that it sent to.
			conn := dial(t, "udp", addr, udp)
			fmt.Fprint(conn, nonce)
			buf := make([]byte, 200)
			n, err := conn.Read(buf)
			if err != nil || string(buf[:n]) != probe.Greeting(nonce) {
				t.Errorf("got %q, %v, want the greeting", buf[:n], err)
			}
			wantHit(t, next(t, hits), conn, nonce)
			none(t, hits)
		})
	}
}

// TestWithoutIPv6 tests canaries as on a kernel without IPv6.
func TestWithoutIPv6(t *testing.T) {
	c, hits := startOn(t, "tcp4", "udp4", nil)
	tcp, udp := c.Ports()
	for network, port := range map[string]uint16{"tcp": tcp, "udp": udp} {
		conn := dial(t, network, "127.0.0.7", port)
		fmt.Fprintf(conn, "%s\n", nonce)
		buf := make([]byte, 200)
		n, err := conn.Read(buf)
		if err != nil || string(buf[:n]) != probe.Greeting(nonce) {
			t.Errorf("%s: got %q, %v, want the greeting", network, buf[:n], err)
		}
		wantHit(t, next(t, hits), conn, nonce)
	}
}

func TestOthersAreReportedAndNotAnswered(t *testing.T) {
	for name, data := range map[string]string{
		"an HTTP request":      "GET / HTTP/1.1\r\n\r\n",
		"an empty line":        "\n",
		"a nonce that is long": strings.Repeat("a", 65) + "\n",
		"a greeting":           probe.Greeting(nonce),
		"more than is read":    strings.Repeat("x", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			c, hits := start(t)
			tcp, udp := c.Ports()
			conn := dial(t, "tcp", "127.0.0.1", tcp)
			_, _ = io.WriteString(conn, data)
			if answer, _ := io.ReadAll(conn); len(answer) > 0 {
				t.Errorf("got %q over TCP, want no answer", answer)
			}
			wantHit(t, next(t, hits), conn, "")
			none(t, hits)

			conn = dial(t, "udp", "127.0.0.1", udp)
			_, _ = io.WriteString(conn, data[:min(len(data), 60_000)])
			wantHit(t, next(t, hits), conn, "")
			_ = conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
			if n, err := conn.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %d bytes, %v over UDP, want no answer", n, err)
			}
		})
	}
}

// TestDataAfterTheNonce: data after the nonce does not cause a reset that loses
// the greeting.
func TestDataAfterTheNonce(t *testing.T) {
	c, hits := start(t)
	tcp, _ := c.Ports()
	conn := dial(t, "tcp", "127.0.0.1", tcp)
	fmt.Fprintf(conn, "%s\n%s", nonce, strings.Repeat("x", 1000))
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || string(answer) != probe.Greeting(nonce) {
		t.Errorf("got %q, %v, want the greeting", answer, err)
	}
	wantHit(t, next(t, hits), conn, nonce)
}

func TestTCPInPieces(t *testing.T) {
	c, hits := start(t)
	tcp, _ := c.Ports()
	conn := dial(t, "tcp", "127.0.0.1", tcp)
	for _, piece := range []string{nonce[:5], nonce[5:], "\n"} {
		if _, err := io.WriteString(conn, piece); err != nil {
			t.Fatal(err)
		}
		<-time.After(20 * time.Millisecond)
	}
	wantHit(t, next(t, hits), conn, nonce)
}

// TestSilentConnections: a connection that sends nothing, or is closed, is a hit.
func TestSilentConnections(t *testing.T) {
	c, hits := startOn(t, "tcp", "udp", func(c *Canaries) { c.patience = patience })
	tcp, _ := c.Ports()
	conn := dial(t, "tcp", "127.0.0.1", tcp)
	started := time.Now()
	wantHit(t, next(t, hits), conn, "")
	if took := time.Since(started); took < patience/2 {
		t.Errorf("reported after %s, want time for a nonce to arrive", took)
	}
	c, hits = start(t) // more patient than next is
	tcp, _ = c.Ports()
	gone := dial(t, "tcp", "127.0.0.7", tcp)
	gone.Close()
	wantHit(t, next(t, hits), gone, "")
}

// TestMoreConnectionsThanSlots: silent connections do not keep a nonce from
// being received, and are reported all the same.
func TestMoreConnectionsThanSlots(t *testing.T) {
	c, hits := start(t)
	tcp, _ := c.Ports()
	var silent []net.Conn
	for i := range maxConns {
		// All come from 127.0.0.1; hits at different addresses are not repetitions.
		silent = append(silent, dial(t, "tcp", fmt.Sprintf("127.0.0.%d", i+1), tcp))
	}
	wantSlotsTaken(t, c, maxConns)
	conn := dial(t, "tcp", "127.0.1.1", tcp)
	fmt.Fprintf(conn, "%s\n", nonce)
	answer, _ := io.ReadAll(conn)
	for _, s := range append(silent, conn) {
		s.Close()
	}
	received := 0
	for range maxConns + 1 {
		if got := next(t, hits); got.Nonce == nonce {
			received++
		}
	}
	if received != 1 || string(answer) != probe.Greeting(nonce) {
		t.Errorf("one more connection than slots: nonce received %d times, answer %q, want it received once and greeted", received, answer)
	}
	wantSlotsTaken(t, c, 0)
}

func wantSlotsTaken(t *testing.T, c *Canaries, want int) {
	t.Helper()
	for deadline := time.Now().Add(enough); c.slots.taken() != want; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("slots taken: got %d, want %d", c.slots.taken(), want)
		}
	}
}

func TestRepetitionsAreReportedOnce(t *testing.T) {
	now := time.Now()
	c, hits := startOn(t, "tcp", "udp", func(c *Canaries) { c.now = func() time.Time { return now } })
	_, udp := c.Ports()
	conn := dial(t, "udp", "127.0.0.1", udp)
	for range 3 {
		fmt.Fprint(conn, nonce)
		if _, err := conn.Read(make([]byte, 200)); err != nil {
			t.Fatal(err)
		}
	}
	wantHit(t, next(t, hits), conn, nonce)
	none(t, hits)
}

func TestPortsAreReservedAndReleased(t *testing.T) {
	c, err := New(Options{OnHit: func(host.CanaryHit) {}})
	if err != nil {
		t.Fatal(err)
	}
	tcp, udp := c.Ports()
	if tcp == 0 || udp == 0 {
		t.Fatalf("got ports %d and %d, want two", tcp, udp)
	}
	listen := func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", tcp))
		if err == nil {
			l.Close()
		}
		return err
	}
	if listen() == nil {
		t.Error("the port is not taken before Start")
	}
	c.Close()
	if err := listen(); err != nil {
		t.Errorf("after Close: %v", err)
	}
}

// TestADeadCanaryIsAnError: Start returns an error if a canary dies before the
// context ends.
func TestADeadCanaryIsAnError(t *testing.T) {
	for name, kill := range map[string]func(*Canaries) error{
		"tcp": func(c *Canaries) error { return c.tcp.Close() },
		"udp": func(c *Canaries) error { return c.udp.Close() },
	} {
		c, err := New(Options{OnHit: func(host.CanaryHit) {}})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- c.Start(t.Context()) }()
		if err := kill(c); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: got %v, want an error", name, err)
			}
		case <-time.After(enough):
			t.Errorf("%s: Start did not return", name)
		}
	}
}

func TestNewRequiresAFunction(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("got nil, want an error")
	}
}
