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
	// maxConns bounds the open connections; another one closes the oldest.
	maxConns = 64
	// patience is how long a connection may take to send its nonce.
	patience = time.Second
	// maxRead, in bytes, is more than a nonce and the end of its line.
	maxRead = 80
	// maxDrained bounds the bytes that are read and discarded after the nonce.
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
		arrived := arrivalOf(conn) // while it is certainly still open
		c.slots.enter(conn)
		conns.Go(func() {
			defer c.slots.leave(conn)
			c.serveConn(ctx, conn, arrived)
		})
	}
}

// slots are the open connections, the oldest first. There are at most maxConns:
// another one closes the oldest, which has been silent for longest, so that
// silent connections do not keep out a nonce.
type slots struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (p *slots) enter(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.conns) == maxConns {
		p.conns[0].Close() // its serveConn reports it
		p.conns = slices.Delete(p.conns, 0, 1)
	}
	p.conns = append(p.conns, conn)
}

func (p *slots) leave(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(c net.Conn) bool { return c == conn })
}

func (p *slots) taken() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// serveConn reports one connection once: when its nonce has arrived, or when it
// is certain that none will come.
func (c *Canaries) serveConn(ctx context.Context, conn net.Conn, arrived arrival) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(c.patience)) // on a closed connection, the read below fails
	nonce := probe.ParseNonce(readLine(conn))
	c.report(arrived, nonce)
	if nonce == "" {
		return
	}
	if _, err := io.WriteString(conn, probe.Greeting(nonce)); err != nil {
		return
	}
	// Closing with unread data would reset the connection, and the greeting
	// would be lost.
	if tcp, ok := conn.(*net.TCPConn); ok && tcp.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, conn, maxDrained)
	}
}

// readLine reads up to the end of a line, of the data or of the buffer.
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
