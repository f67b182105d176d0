// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bufio"
	"bytes"
	"cmp"
	"io"
	"net"
	"net/http"
)

// guestWriter is the http.ResponseWriter of a forwarded request. It cleans the headers
// of informational answers, which httputil.ReverseProxy passes on as they are.
type guestWriter struct {
	http.ResponseWriter
	x    *exchange   // nil outside of opened connections
	conn *openedConn // of a request by HTTP/1.1, whose handler alone writes to it; or nil
}

// Write implements http.ResponseWriter.
func (w *guestWriter) Write(p []byte) (int, error) {
	if w.conn != nil {
		w.conn.cork.put()
	}
	return w.ResponseWriter.Write(p)
}

// FlushError implements what http.ResponseController looks for. httputil.ReverseProxy
// flushes after each Write. If the next Write follows at once, it is enough to flush
// after that.
func (w *guestWriter) FlushError() error {
	if w.x != nil && w.x.ahead != nil && w.x.ahead.hasMore() {
		return nil
	}
	err := http.NewResponseController(w.ResponseWriter).Flush()
	return cmp.Or(err, w.pullCork())
}

// pullCork writes to the guest's connection what is collected there.
func (w *guestWriter) pullCork() error {
	if w.conn == nil {
		return nil
	}
	return w.conn.cork.pull(w.conn.halfConn)
}

// WriteHeader implements http.ResponseWriter.
func (w *guestWriter) WriteHeader(status int) {
	if status < http.StatusOK {
		removeClaims(w.Header())
		removeHopHeaders(w.Header())
		if w.x != nil {
			w.x.maskHeader(w.Header())
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Hijack implements http.Hijacker. What the guest has sent already is read from the
// connection too: httputil.ReverseProxy does not look for it elsewhere.
func (w *guestWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return upgradedConn{conn, io.MultiReader(bytes.NewReader(early), conn)}, rw, nil
}

// Unwrap is used by http.ResponseController.
func (w *guestWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// upgradedConn is the guest's connection of a WebSocket. It hides that the connection
// can close one direction, because a WebSocket ends in both.
type upgradedConn struct {
	net.Conn
	from io.Reader
}

// Read implements net.Conn.
func (c upgradedConn) Read(b []byte) (int, error) { return c.from.Read(b) }
