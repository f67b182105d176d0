// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"

	"botbottle.dev/bottle-operator/internal/egress"
)

// connected is the answer to a CONNECT that is allowed.
const connected = "HTTP/1.1 200 Connection established\r\n\r\n"

// halfConn is a connection that can close one direction.
type halfConn interface {
	net.Conn
	CloseWrite() error
}

// tunnel connects the guest's connection to the target. It dials first, so that the
// answer says whether there is a connection.
func (p *proxy) tunnel(w http.ResponseWriter, r *http.Request, t target) {
	host, err := p.dial(r.Context())
	if err != nil {
		d := fail(t, egress.CauseBadAnswer)
		var dial *dialError
		if errors.As(err, &dial) {
			d = dial.decision
		}
		if r.Context().Err() == nil && d.status != http.StatusForbidden { // the guest still waits, and revoke has not logged it
			p.log.decision(t, d)
		}
		p.refuse(w, r, d)
		return
	}
	defer func() { _ = host.Close() }()
	guest, early, err := takeOver(w)
	if err != nil {
		return // the guest's connection is gone
	}
	defer func() { _ = guest.Close() }()
	if _, err := host.Write(early); err != nil {
		return
	}
	pipe(guest, host)
}

// takeOver answers a CONNECT and returns the guest's connection and what the guest has
// sent on it already.
func takeOver(w http.ResponseWriter) (halfConn, []byte, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	guest, ok := conn.(halfConn)
	if !ok {
		_ = conn.Close()
		return nil, nil, errors.New("bundle: the connection cannot close one direction")
	}
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err == nil {
		_, err = io.WriteString(conn, connected)
	}
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return guest, early, nil
}

// pipe copies in both directions until both have ended or one has failed.
func pipe(a, b halfConn) {
	var wg sync.WaitGroup
	wg.Go(func() { pipeOneWay(a, b) })
	pipeOneWay(b, a)
	wg.Wait()
}

// pipeOneWay copies until src ends. If it fails, nothing more can pass in the other
// direction either: it closes both.
func pipeOneWay(dst, src halfConn) {
	buf := copyBuffers.Get()
	defer copyBuffers.Put(buf)
	if _, err := io.CopyBuffer(writerOnly{dst}, readerOnly{src}, buf); err != nil {
		_ = dst.Close()
		_ = src.Close()
		return
	}
	_ = dst.CloseWrite()
}

// readerOnly and writerOnly make io.CopyBuffer use its buffer.
type (
	readerOnly struct{ io.Reader }
	writerOnly struct{ io.Writer }
)

// copyBufferSize is the size of the buffers for copying, in bytes.
const copyBufferSize = 32 << 10

// bufferPool implements httputil.BufferPool.
type bufferPool struct{ pool sync.Pool }

var copyBuffers = &bufferPool{}

// Get returns a buffer of copyBufferSize bytes.
func (b *bufferPool) Get() []byte {
	if buf, ok := b.pool.Get().(*[copyBufferSize]byte); ok {
		return buf[:]
	}
	return make([]byte, copyBufferSize)
}

// Put takes a buffer back that Get returned.
func (b *bufferPool) Put(buf []byte) { b.pool.Put((*[copyBufferSize]byte)(buf)) }
