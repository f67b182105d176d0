// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/streaming/pkg/httpstream"
)

const (
	// dialTimeout bounds the connection to an agent and its TLS handshake.
	dialTimeout = 10 * time.Second
	// answerTimeout bounds the time until an agent has answered a request for
	// streams or a log.
	answerTimeout = 30 * time.Second
	// keepAlive is the time between two probes of a silent connection to an agent.
	keepAlive = 15 * time.Second
	// maxHead bounds the head of an agent's answer.
	maxHead = 16 << 10
	// sessionHeader tells the agent the number of the session, for its own log.
	sessionHeader = "X-Bottle-Session"
)

// hop makes requests to agents.
type hop struct {
	// tls returns the configuration for the agent of a node: the manager's
	// certificate, and what the agent's must be.
	tls func(node string) (*tls.Config, error)
}

// dial connects to a target's agent. Its errors are for the user. The connection is
// closed when ctx ends.
func (h *hop) dial(ctx context.Context, t *target) (net.Conn, error) {
	conn, err := h.handshake(ctx, t)
	if err != nil {
		return nil, err
	}
	return closeWith(ctx, conn), nil
}

// handshake connects to a target's agent. Its errors are for the user.
func (h *hop) handshake(ctx context.Context, t *target) (net.Conn, error) {
	config, err := h.tls(t.node)
	if err != nil {
		return nil, apierrors.NewServiceUnavailable("the manager has no certificate for the agents yet: " + err.Error())
	}
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive, Count: 4}}
	raw, err := dialer.DialContext(dialing, "tcp", t.address)
	if err != nil {
		return nil, unreachable(t, err)
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(dialing); err != nil {
		raw.Close()
		return nil, unreachable(t, fmt.Errorf("TLS: %w", err))
	}
	return conn, nil
}

// closeWith returns a connection that is closed when ctx ends. The end of ctx waits for
// nothing: TLS would wait until it could say goodbye.
func closeWith(ctx context.Context, conn net.Conn) net.Conn {
	raw := conn
	if c, ok := conn.(*tls.Conn); ok {
		raw = c.NetConn()
	}
	return &closing{Conn: conn, stop: context.AfterFunc(ctx, func() { raw.Close() })}
}

// closing is a connection that is closed with a context.
type closing struct {
	net.Conn
	stop func() bool
}

func (c *closing) Close() error {
	c.stop()
	return c.Conn.Close()
}

// call is one request to an agent.
type call struct {
	target  *target
	verb    string
	method  string
	options options
	session string
	// early is a connection that may serve the call, or nil.
	early *early
	// header has only what the agent needs of the client's.
	header http.Header
}

func (c *call) request(ctx context.Context) (*http.Request, error) {
	u := url.URL{Scheme: "http", Host: c.target.node, Path: c.target.path(c.verb), RawQuery: c.options.query().Encode()}
	r, err := http.NewRequestWithContext(ctx, c.method, u.String(), http.NoBody)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if c.header != nil {
		r.Header = c.header.Clone()
	}
	r.Header.Set(sessionHeader, c.session)
	return r, nil
}

// upgrade makes a request for streams and waits for the agent's answer. If the agent
// agrees, upgrade returns the connection, on which the same request may be made once
// more: it is then swallowed, and answered with what the agent has answered. So a
// user gets an error as an HTTP status, whichever protocol the client speaks.
func (h *hop) upgrade(ctx context.Context, c *call, seen *traffic) (net.Conn, error) {
	request, err := c.request(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := h.reach(ctx, c)
	if err != nil {
		return nil, err
	}
	answer, rest, err := ask(conn, request) //nolint:bodyclose // it ends with the connection
	if err != nil {
		conn.Close()
		return nil, unreachable(c.target, err)
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		return nil, refused(c.target, answer)
	}
	up := &upgraded{Conn: &prefixed{Conn: conn, first: bytes.NewReader(rest)}, replay: bytes.NewReader(cleanHead(answer)), seen: seen, node: c.target.node, closed: make(chan struct{})}
	if answer.Header.Get(httpstream.HeaderProtocolVersion) != "" {
		up.in, up.out, up.whole.To = seen.fromClient(), seen.fromAgent(), up.Conn
	}
	return up, nil
}

// reach returns a connection for a call. It is closed when ctx ends.
func (h *hop) reach(ctx context.Context, c *call) (net.Conn, error) {
	conn, err := c.early.take(c.target)
	switch {
	case err != nil:
		return nil, err
	case conn != nil:
		return closeWith(ctx, conn), nil
	}
	return h.dial(ctx, c.target)
}

// ask sends a request and reads the answer, within answerTimeout. rest is what was
// read beyond the head of an answer that switches protocols.
func ask(conn net.Conn, request *http.Request) (answer *http.Response, rest []byte, err error) {
	if err := conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return nil, nil, err
	}
	if err := request.Write(conn); err != nil {
		return nil, nil, err
	}
	limited := &io.LimitedReader{R: conn, N: maxHead + maxAnswer}
	reader := bufio.NewReaderSize(limited, maxHead)
	answer, err = http.ReadResponse(reader, request)
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		return nil, nil, fmt.Errorf("no valid answer: %w", err)
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return answer, nil, nil // the deadline stays for the body
	}
	rest, err = reader.Peek(reader.Buffered())
	return answer, bytes.Clone(rest), errors.Join(err, conn.SetDeadline(time.Time{}))
}

// cleanHead returns the head of an answer that switches protocols, with the headers
// that mean something in it and no others.
func cleanHead(answer *http.Response) []byte {
	out := &bytes.Buffer{}
	fmt.Fprint(out, "HTTP/1.1 101 Switching Protocols\r\n")
	for _, name := range []string{"Connection", "Upgrade", httpstream.HeaderProtocolVersion, "Sec-Websocket-Accept", "Sec-Websocket-Protocol"} {
		if value := answer.Header.Get(name); value != "" {
			fmt.Fprintf(out, "%s: %s\r\n", name, textproto.TrimString(value))
		}
	}
	fmt.Fprint(out, "\r\n")
	return out.Bytes()
}

// prefixed is a connection of which some bytes have been read already.
type prefixed struct {
	net.Conn
	first *bytes.Reader
}

func (p *prefixed) Read(b []byte) (int, error) {
	if p.first.Len() > 0 {
		return p.first.Read(b)
	}
	return p.Conn.Read(b)
}
