// SPDX-License-Identifier: Apache-2.0

package canary

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

const (
	// maxConns are listened to at a time; one more ends the oldest.
	maxConns = 64
	// patience is how long a connection may take to bring its nonce.
	patience = time.Second
	// maxRead is more than a nonce and a line's end.
	maxRead = 80
	// maxDrained is what is read away behind it.
	maxDrained = 4096
)

func (c *Canaries) serveTCP(ctx context.Context) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := c.tcp.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case err != nil && pause(ctx, err):
			continue
		case err != nil:
			return fmt.Errorf("canary over TCP: %w", err)
		}
		arrived := arrivalOf(conn) // while it is open for certain
		c.places.enter(conn)
		conns.Go(func() {
			defer c.places.leave(conn)
			c.hear(ctx, conn, arrived)
		})
	}
}

// places are the connections that are listened to, the oldest first. There are
// at most maxConns: one more ends the oldest, which has said nothing for
// longest, so that silent connections keep nobody's nonce away.
type places struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (p *places) enter(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.conns) == maxConns {
		p.conns[0].Close() // its hear reports it
		p.conns = slices.Delete(p.conns, 0, 1)
	}
	p.conns = append(p.conns, conn)
}

func (p *places) leave(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(c net.Conn) bool { return c == conn })
}

func (p *places) taken() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// hear reports one connection once: when its nonce is there, or when it is
// clear that none will come.
func (c *Canaries) hear(ctx context.Context, conn net.Conn, arrived arrival) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(patience)) // a connection that is gone fails below
	nonce := probe.ParseNonce(readLine(conn))
	c.report(arrived, nonce)
	if nonce == "" {
		return
	}
	if _, err := io.WriteString(conn, probe.Greeting(nonce)); err != nil {
		return
	}
	// What is unread at the end would take the greeting back with a reset.
	if tcp, ok := conn.(*net.TCPConn); ok && tcp.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, conn, maxDrained)
	}
}

// readLine reads up to a line's end, or less where there is none.
func readLine(conn net.Conn) []byte {
	buf := make([]byte, maxRead)
	n := 0
	for n < len(buf) && !bytes.Contains(buf[:n], []byte("\n")) {
		m, err := conn.Read(buf[n:])
		n += m
		if err != nil {
			break
		}
	}
	return buf[:n]
}

func arrivalOf(conn net.Conn) arrival {
	a := arrival{proto: probe.ProtoTCP, local: addrPort(conn.LocalAddr()), remote: addrPort(conn.RemoteAddr())}
	if tcp, ok := conn.(*net.TCPConn); ok {
		a.ifindex = receivedOn(tcp)
	}
	return a
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return tcp.AddrPort()
}
