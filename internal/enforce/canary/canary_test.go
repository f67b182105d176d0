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
	c, touches := start(t)
	tcp, udp := c.Ports()
	for _, addr := range loopbacks(t) {
		t.Run("tcp "+addr, func(t *testing.T) {
			conn := dial(t, "tcp", addr, tcp)
			fmt.Fprintf(conn, "%s\r\n\r\n", nonce)
			answer, err := io.ReadAll(conn)
			if err != nil || string(answer) != probe.Greeting(nonce) {
				t.Errorf("got %q, %v, want the greeting", answer, err)
			}
			// It was told of before it was answered.
			select {
			case touch := <-touches:
				wantTouch(t, touch, conn, nonce)
			default:
				t.Error("greeted, but not told of")
			}
			none(t, touches)
		})
		t.Run("udp "+addr, func(t *testing.T) {
			// A connected socket takes answers from the address it asked alone.
			conn := dial(t, "udp", addr, udp)
			fmt.Fprint(conn, nonce)
			buf := make([]byte, 200)
			n, err := conn.Read(buf)
			if err != nil || string(buf[:n]) != probe.Greeting(nonce) {
				t.Errorf("got %q, %v, want the greeting", buf[:n], err)
			}
			wantTouch(t, next(t, touches), conn, nonce)
			none(t, touches)
		})
	}
}

// TestWithoutIPv6 is a kernel that has none.
func TestWithoutIPv6(t *testing.T) {
	c, touches := startOn(t, "tcp4", "udp4")
	tcp, udp := c.Ports()
	for network, port := range map[string]uint16{"tcp": tcp, "udp": udp} {
		conn := dial(t, network, "127.0.0.7", port)
		fmt.Fprintf(conn, "%s\n", nonce)
		buf := make([]byte, 200)
		n, err := conn.Read(buf)
		if err != nil || string(buf[:n]) != probe.Greeting(nonce) {
			t.Errorf("%s: got %q, %v, want the greeting", network, buf[:n], err)
		}
		wantTouch(t, next(t, touches), conn, nonce)
	}
}

func TestOthersAreToldOfAndNotAnswered(t *testing.T) {
	for name, data := range map[string]string{
		"another's words":       "GET / HTTP/1.1\r\n\r\n",
		"an empty line":         "\n",
		"a nonce of 65":         strings.Repeat("a", 65) + "\n",
		"a greeting":            probe.Greeting(nonce),
		"more than is listened": strings.Repeat("x", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			c, touches := start(t)
			tcp, udp := c.Ports()
			conn := dial(t, "tcp", "127.0.0.1", tcp)
			_, _ = io.WriteString(conn, data)
			if answer, _ := io.ReadAll(conn); len(answer) > 0 {
				t.Errorf("got %q over TCP, want no answer", answer)
			}
			wantTouch(t, next(t, touches), conn, "")
			none(t, touches)

			conn = dial(t, "udp", "127.0.0.1", udp)
			_, _ = io.WriteString(conn, data[:min(len(data), 60_000)])
			wantTouch(t, next(t, touches), conn, "")
			_ = conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
			if n, err := conn.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %d bytes, %v over UDP, want no answer", n, err)
			}
		})
	}
}

// TestWordyClients: what comes behind the nonce does not take the greeting
// back with a reset.
func TestWordyClients(t *testing.T) {
	c, touches := start(t)
	tcp, _ := c.Ports()
	conn := dial(t, "tcp", "127.0.0.1", tcp)
	fmt.Fprintf(conn, "%s\n%s", nonce, strings.Repeat("x", 1000))
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || string(answer) != probe.Greeting(nonce) {
		t.Errorf("got %q, %v, want the greeting", answer, err)
	}
	wantTouch(t, next(t, touches), conn, nonce)
}

func TestTCPInPieces(t *testing.T) {
	c, touches := start(t)
	tcp, _ := c.Ports()
	conn := dial(t, "tcp", "127.0.0.1", tcp)
	for _, piece := range []string{nonce[:5], nonce[5:], "\n"} {
		if _, err := io.WriteString(conn, piece); err != nil {
			t.Fatal(err)
		}
		<-time.After(20 * time.Millisecond)
	}
	wantTouch(t, next(t, touches), conn, nonce)
}

// TestSilentConnections: who connects and says nothing, or goes away, has
// touched the canary.
func TestSilentConnections(t *testing.T) {
	c, touches := start(t)
	tcp, _ := c.Ports()
	conn := dial(t, "tcp", "127.0.0.1", tcp)
	begin := time.Now()
	wantTouch(t, next(t, touches), conn, "")
	if took := time.Since(begin); took < patience/2 {
		t.Errorf("told of after %s, want the time for a nonce to come", took)
	}
	gone := dial(t, "tcp", "127.0.0.7", tcp)
	begin = time.Now()
	gone.Close()
	wantTouch(t, next(t, touches), gone, "")
	if took := time.Since(begin); took > patience/2 {
		t.Errorf("told of after %s, want at once", took)
	}
}

// TestMoreConnectionsThanPlaces: silent connections keep nobody's nonce from
// being heard, and are reported all the same.
func TestMoreConnectionsThanPlaces(t *testing.T) {
	c, touches := start(t)
	tcp, _ := c.Ports()
	for i := range maxConns {
		// All come from 127.0.0.1; touches of different canaries are not repetitions.
		dial(t, "tcp", fmt.Sprintf("127.0.0.%d", i+1), tcp)
	}
	wantTaken(t, c, maxConns)
	conn := dial(t, "tcp", "127.0.1.1", tcp)
	fmt.Fprintf(conn, "%s\n", nonce)
	heard := 0
	for range maxConns + 1 {
		if got := next(t, touches); got.Nonce == nonce {
			heard++
		}
	}
	if answer, _ := io.ReadAll(conn); heard != 1 || string(answer) != probe.Greeting(nonce) {
		t.Errorf("one more than there are places: heard %d times, answer %q, want it heard and greeted", heard, answer)
	}
	wantTaken(t, c, 0)
}

func wantTaken(t *testing.T, c *Canaries, want int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); c.places.taken() != want; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %d places taken, want %d", c.places.taken(), want)
		}
	}
}

func TestRepetitionsAreToldOnce(t *testing.T) {
	c, touches := start(t)
	_, udp := c.Ports()
	conn := dial(t, "udp", "127.0.0.1", udp)
	for range 3 {
		fmt.Fprint(conn, nonce)
		if _, err := conn.Read(make([]byte, 200)); err != nil {
			t.Fatal(err)
		}
	}
	wantTouch(t, next(t, touches), conn, nonce)
	none(t, touches)
}

func TestPortsAreKeptAndGivenBack(t *testing.T) {
	c, err := New(Options{Touched: func(host.Touch) {}})
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

// TestDeadCanaryIsAnError: a canary that is gone while its context lasts is
// not taken for a quiet one.
func TestDeadCanaryIsAnError(t *testing.T) {
	for name, kill := range map[string]func(*Canaries) error{
		"tcp": func(c *Canaries) error { return c.tcp.Close() },
		"udp": func(c *Canaries) error { return c.udp.Close() },
	} {
		c, err := New(Options{Touched: func(host.Touch) {}})
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
		case <-time.After(5 * time.Second):
			t.Errorf("%s: Start goes on", name)
		}
	}
}

func TestNewNeedsSomebodyToTell(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("got nil, want an error")
	}
}
