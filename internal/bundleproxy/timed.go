// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"net"
	"time"
)

// idleConn is a connection that is closed when it transfers no data for a
// while, even during a write that the other end does not accept. The TCP
// connection is a field rather than embedded, so that none of its other methods
// transfers data without resetting the timer.
type idleConn struct {
	conn  *net.TCPConn
	limit time.Duration
	timer *time.Timer
}

// start starts the timer. end is called when it expires.
func (t *idleConn) start(conn *net.TCPConn, limit time.Duration, end func()) {
	t.conn, t.limit = conn, limit
	t.timer = time.AfterFunc(limit, end)
}

func (t *idleConn) Read(b []byte) (int, error) {
	n, err := t.conn.Read(b)
	t.resetTimer(n)
	return n, err
}

func (t *idleConn) Write(b []byte) (int, error) {
	n, err := t.conn.Write(b)
	t.resetTimer(n)
	return n, err
}

func (t *idleConn) resetTimer(n int) {
	if n > 0 {
		t.timer.Reset(t.limit)
	}
}

func (t *idleConn) Close() error {
	t.timer.Stop()
	return t.conn.Close()
}

// CloseRead and CloseWrite let a tunnel end one direction at a time.
func (t *idleConn) CloseRead() error  { return t.conn.CloseRead() }
func (t *idleConn) CloseWrite() error { return t.conn.CloseWrite() }

func (t *idleConn) LocalAddr() net.Addr                 { return t.conn.LocalAddr() }
func (t *idleConn) RemoteAddr() net.Addr                { return t.conn.RemoteAddr() }
func (t *idleConn) SetDeadline(at time.Time) error      { return t.conn.SetDeadline(at) }
func (t *idleConn) SetReadDeadline(at time.Time) error  { return t.conn.SetReadDeadline(at) }
func (t *idleConn) SetWriteDeadline(at time.Time) error { return t.conn.SetWriteDeadline(at) }
