// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// doorBounds bound the connections to a door.
type doorBounds struct {
	// connections is how many clients may be connected after their handshake.
	connections int
	// handshakes is how many handshakes may go on at a time, and perSource how many of
	// them with one source. Nothing is known about these clients but their address.
	handshakes, perSource int
	// timeout bounds a handshake.
	timeout time.Duration
}

// bounds are far above what two managers need, which connect once for each session.
var bounds = doorBounds{connections: 2048, handshakes: 1024, perSource: 128, timeout: 10 * time.Second}

// door is a listener that accepts a client after its TLS handshake, and so after its
// authentication. A connection beyond a bound is closed at once, so that nobody waits for
// clients who may never finish.
type door struct {
	*net.TCPListener
	config *tls.Config
	bounds doorBounds
	log    io.Writer

	admitted chan net.Conn
	failed   chan error
	inside   chan struct{}   // has an element for each connection after its handshake
	closed   context.Context //nolint:containedctx // the lifetime of the listener
	close    context.CancelFunc

	mu       sync.Mutex
	knocking int
	bySource map[netip.Prefix]int
}

func newDoor(l *net.TCPListener, config *tls.Config, b doorBounds, log io.Writer) *door {
	d := &door{
		TCPListener: l, config: config, bounds: b, log: log,
		admitted: make(chan net.Conn), failed: make(chan error), inside: make(chan struct{}, b.connections), bySource: map[netip.Prefix]int{},
	}
	d.closed, d.close = context.WithCancel(context.Background())
	go d.listen()
	return d
}

// Accept returns the next client that has authenticated itself.
func (d *door) Accept() (net.Conn, error) {
	select {
	case conn := <-d.admitted:
		return conn, nil
	case err := <-d.failed:
		return nil, err
	case <-d.closed.Done():
		return nil, net.ErrClosed
	}
}

// Close also ends the handshakes that go on.
func (d *door) Close() error {
	d.close()
	return d.TCPListener.Close()
}

// listen starts the handshakes. Accept reports its errors to the HTTP server, which pauses
// after one and then calls Accept again.
func (d *door) listen() {
	for d.closed.Err() == nil {
		conn, err := d.AcceptTCP()
		if err != nil {
			select {
			case d.failed <- err:
			case <-d.closed.Done():
			}
			continue
		}
		source := sourceOf(conn.RemoteAddr())
		if !d.knock(source) {
			conn.Close()
			continue
		}
		go func() {
			admitted := d.shake(conn)
			d.leave(source)
			if admitted == nil {
				conn.Close()
				return
			}
			select {
			case d.admitted <- admitted:
			case <-d.closed.Done():
				admitted.Close()
			}
		}()
	}
}

// sourceOf returns what counts as one source: an IPv4 address, or the /64 network of an
// IPv6 address, which one host usually has for itself.
func sourceOf(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	prefix, err := ip.Prefix(min(ip.BitLen(), 64))
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}

// knock counts a handshake, unless there are too many.
func (d *door) knock(source netip.Prefix) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.knocking >= d.bounds.handshakes || d.bySource[source] >= d.bounds.perSource {
		return false
	}
	d.knocking++
	d.bySource[source]++
	return true
}

func (d *door) leave(source netip.Prefix) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.knocking--
	if d.bySource[source]--; d.bySource[source] == 0 {
		delete(d.bySource, source)
	}
}

// shake makes the handshake. It returns nil if the client is not the manager, is too slow,
// or finds no room.
func (d *door) shake(conn *net.TCPConn) net.Conn {
	ctx, cancel := context.WithTimeout(d.closed, d.bounds.timeout)
	defer cancel()
	limited := &limitedConn{TCPConn: conn}
	secure := tls.Server(limited, d.config)
	if err := secure.HandshakeContext(ctx); err != nil {
		fmt.Fprintf(d.log, "TLS handshake with %s: %v", conn.RemoteAddr(), err)
		return nil
	}
	select {
	case d.inside <- struct{}{}:
	default:
		fmt.Fprintf(d.log, "%d clients are connected, which is the most", d.bounds.connections)
		return nil
	}
	limited.release = sync.OnceFunc(func() { <-d.inside })
	return secure
}

// limitedConn makes room for another connection when it is closed.
type limitedConn struct {
	*net.TCPConn
	release func()
}

func (c *limitedConn) Close() error {
	if c.release != nil {
		defer c.release()
	}
	return c.TCPConn.Close()
}
