// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"net"
	"time"
)

// timed is a connection that is ended when nothing moves on it, also under a
// write that the other end does not take. The TCP connection is a field so that
// none of its other methods moves bytes past the timer.
type timed struct {
	conn    *net.TCPConn
	limit   time.Duration
	silence *time.Timer
}

// start begins the time; end is called when it is over.
func (t *timed) start(conn *net.TCPConn, limit time.Duration, end func()) {
	t.conn, t.limit = conn, limit
	t.silence = time.AfterFunc(limit, end)
}

func (t *timed) Read(b []byte) (int, error) {
	n, err := t.conn.Read(b)
	t.moved(n)
	return n, err
}

func (t *timed) Write(b []byte) (int, error) {
	n, err := t.conn.Write(b)
	t.moved(n)
	return n, err
}

func (t *timed) moved(n int) {
	if n > 0 {
		t.silence.Reset(t.limit)
	}
}

func (t *timed) Close() error {
	t.silence.Stop()
	return t.conn.Close()
}

// CloseRead and CloseWrite let a tunnel end one direction at a time.
func (t *timed) CloseRead() error  { return t.conn.CloseRead() }
func (t *timed) CloseWrite() error { return t.conn.CloseWrite() }

func (t *timed) LocalAddr() net.Addr                 { return t.conn.LocalAddr() }
func (t *timed) RemoteAddr() net.Addr                { return t.conn.RemoteAddr() }
func (t *timed) SetDeadline(at time.Time) error      { return t.conn.SetDeadline(at) }
func (t *timed) SetReadDeadline(at time.Time) error  { return t.conn.SetReadDeadline(at) }
func (t *timed) SetWriteDeadline(at time.Time) error { return t.conn.SetWriteDeadline(at) }
