// SPDX-License-Identifier: Apache-2.0

package access

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/test/await"
)

// openDoor returns the address of a door that greets each client that it admits, and keeps the
// connection open until the client ends it.
func (w *world) openDoor(t *testing.T, b doorBounds) string {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	d := newDoor(l, w.ca.keeper(t, w.ca.agent(t)).ServerConfig(), b, io.Discard)
	t.Cleanup(func() { d.Close() })
	go func() {
		for {
			conn, err := d.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, "hello")
				_, _ = io.Copy(io.Discard, conn)
			}()
		}
	}()
	return l.Addr().String()
}

// knock connects from an address and sends nothing.
func knock(t *testing.T, address, from string) net.Conn {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: time.Minute}
	conn, err := dialer.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// isClosed waits until the other side has closed the connection.
func isClosed(conn net.Conn) bool {
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	_, err := conn.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// enter connects as the manager, and reports whether it is greeted.
func (w *world) enter(t *testing.T, address, from string) (conn net.Conn, greeted bool) {
	t.Helper()
	conn = tls.Client(knock(t, address, from), w.tls(w.client))
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	greeting := make([]byte, 5)
	_, err := io.ReadFull(conn, greeting)
	return conn, err == nil && string(greeting) == "hello"
}

// TestSilentClients: clients that say nothing keep out neither others of another source nor,
// once they are closed, those of their own.
func TestSilentClients(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address := w.openDoor(t, doorBounds{connections: 10, handshakes: 5, perSource: 3, timeout: time.Minute})
	var silent []net.Conn
	for range 3 {
		silent = append(silent, knock(t, address, "127.0.0.1"))
	}
	if !isClosed(knock(t, address, "127.0.0.1")) {
		t.Error("the fourth client of one source: got it served, want it closed")
	}
	if _, greeted := w.enter(t, address, "127.0.0.2"); !greeted {
		t.Error("the manager at another source: got it refused, want it served")
	}
	for range 2 {
		silent = append(silent, knock(t, address, "127.0.0.3"))
	}
	if !isClosed(knock(t, address, "127.0.0.3")) {
		t.Error("the sixth client in all: got it served, want it closed")
	}
	for _, conn := range silent {
		conn.Close()
	}
	await.True(t, "room for the manager", func() bool {
		_, greeted := w.enter(t, address, "127.0.0.1")
		return greeted
	})
}

// TestSlowHandshake: a handshake that takes too long is ended.
func TestSlowHandshake(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address := w.openDoor(t, doorBounds{connections: 10, handshakes: 5, perSource: 3, timeout: 50 * time.Millisecond})
	conn := knock(t, address, "127.0.0.1")
	if _, err := conn.Write([]byte{22, 3, 1}); err != nil { // the beginning of a record
		t.Fatal(err)
	}
	if !isClosed(conn) {
		t.Error("got it open, want it closed")
	}
}

// TestConnectedClients: only clients that have authenticated themselves take the room of
// the connections, and they make room when they go.
func TestConnectedClients(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address := w.openDoor(t, doorBounds{connections: 2, handshakes: 50, perSource: 50, timeout: time.Minute})
	for range 10 {
		knock(t, address, "127.0.0.1")
		stranger := tls.Client(knock(t, address, "127.0.0.1"), w.tls())
		_ = stranger.SetDeadline(time.Now().Add(time.Minute))
		if _, err := stranger.Read(make([]byte, 1)); err == nil {
			t.Error("a client without a certificate: got it served, want it refused")
		}
	}
	first, greeted := w.enter(t, address, "127.0.0.1")
	_, also := w.enter(t, address, "127.0.0.1")
	_, third := w.enter(t, address, "127.0.0.1")
	if !greeted || !also || third {
		t.Errorf("got %t, %t, %t, want two clients and no third", greeted, also, third)
	}
	first.Close()
	await.True(t, "room for another client", func() bool {
		conn, greeted := w.enter(t, address, "127.0.0.1")
		conn.Close()
		return greeted
	})
}

func TestSources(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"192.0.2.7": "192.0.2.7/32", "::ffff:192.0.2.7": "192.0.2.7/32", "2001:db8::1": "2001:db8::/64", "fe80::1%eth0": "fe80::/64",
	} {
		got := sourceOf(net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 1)))
		if got != netip.MustParsePrefix(want) {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
}
