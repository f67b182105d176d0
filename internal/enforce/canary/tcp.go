// SPDX-License-Identifier: Apache-2.0

package canary

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

const (
	// maxConns are listened to at a time; more are told of and closed unheard.
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
		select {
		case c.places <- struct{}{}:
			conns.Go(func() {
				defer func() { <-c.places }()
				c.hear(ctx, conn)
			})
		default:
			c.report(arrivalOf(conn), "")
			conn.Close()
		}
	}
}

// hear tells of one connection once: when its nonce is there, or it becomes
// clear that none will be.
func (c *Canaries) hear(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(patience)) // a connection that is gone fails below
	nonce := probe.ParseNonce(readLine(conn))
	c.report(arrivalOf(conn), nonce)
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
