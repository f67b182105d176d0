// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"context"
	"net"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	streams "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/api/v1alpha1"
)

func (a *access) exec(c *connection) error {
	o, err := parsed(c, "BottleExecOptions", parseExec)
	if err != nil {
		return err
	}
	early := a.early(c)
	defer early.close()
	b, err := a.bottle(c)
	if err != nil {
		return err
	}
	copies := o.Purpose == subresources.PurposeFiles && finished(b)
	if !copies {
		if err := requireMachine(b); err != nil {
			return err
		}
		return a.stream(c, streamed{bottle: b, verb: verbExec, options: o, early: early})
	}
	return a.stream(c, streamed{bottle: b, verb: verbExec, options: o, prepare: func(ctx context.Context) error { return a.files.open(ctx, b) }})
}

func (a *access) attach(c *connection) error {
	o, err := parsed(c, "BottleAttachOptions", parseAttach)
	if err != nil {
		return err
	}
	early := a.early(c)
	defer early.close()
	b, err := a.bottle(c)
	if err != nil {
		return err
	}
	if err := requireMachine(b); err != nil {
		return err
	}
	return a.stream(c, streamed{bottle: b, verb: verbAttach, options: o, early: early})
}

// streamed is a request for streams to a Bottle.
type streamed struct {
	bottle  *v1alpha1.Bottle
	verb    string
	options options
	// prepare, if it is set, makes the Bottle ready within the session.
	prepare func(ctx context.Context) error
	// early is a connection to the agent that may serve the request, or nil.
	early *early
}

// stream connects the client's streams to the agent's, until one of them ends.
func (a *access) stream(c *connection, s streamed) error {
	// Agents speak SPDY alone. WebSockets that cannot end single streams have no translator.
	webSocket := wsstream.IsWebSocketRequest(c.r)
	if !httpstream.IsUpgradeRequest(c.r) || webSocket && !wsstream.IsWebSocketRequestWithStreamCloseProtocol(c.r) {
		return apierrors.NewBadRequest("the request must ask for an upgrade to SPDY/3.1, or to a WebSocket with the subprotocol " + remotecommand.StreamProtocolV5Name)
	}
	t, err := a.find.target(c.r.Context(), s.bottle)
	if err != nil {
		return err
	}
	opened, ctx, err := a.sessions.begin(c.r, t, s.verb)
	if err != nil {
		return err
	}
	err = a.connect(ctx, c, s, &call{target: t, verb: s.verb, options: s.options, session: opened.id, early: s.early}, opened)
	a.sessions.end(opened, err)
	if _, refused := err.(apierrors.APIStatus); refused {
		return err
	}
	return nil // the streams have told the client
}

// connect serves an opened session. It returns an API status if nothing has been
// sent to the client yet.
func (a *access) connect(ctx context.Context, c *connection, s streamed, next *call, opened *session) error {
	if s.prepare != nil {
		if err := s.prepare(ctx); err != nil {
			return err
		}
	}
	translate := wsstream.IsWebSocketRequestWithStreamCloseProtocol(c.r)
	next.method, next.header = c.r.Method, forwarded(c.r)
	if translate {
		next.method, next.header = http.MethodPost, spdyHeader()
	}
	conn, err := a.hop.upgrade(ctx, next, &opened.traffic)
	if err != nil {
		return err
	}
	defer conn.Close()

	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
	location := &url.URL{Scheme: "http", Host: next.target.node, Path: next.target.path(s.verb), RawQuery: s.options.query().Encode()}
	r := c.r.Clone(ctx)
	r.Body, r.ContentLength, r.TransferEncoding = http.NoBody, 0, nil
	if translate {
		streams.NewStreamTranslatorHandler(location, transport, 0, s.options.streams()).ServeHTTP(webSocketWriter{c.w}, r)
	} else {
		handler := proxy.NewUpgradeAwareHandler(location, transport, false, true, proxy.NewErrorResponder(c.responder))
		handler.ServeHTTP(c.w, r)
	}
	if opened.followed() && !opened.ended() {
		return errInterrupted
	}
	return nil
}

// forwarded returns the headers of a client's upgrade that the agent needs.
func forwarded(r *http.Request) http.Header {
	h := http.Header{}
	for _, name := range []string{
		httpstream.HeaderConnection, httpstream.HeaderUpgrade, httpstream.HeaderProtocolVersion,
		"Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Protocol",
	} {
		if values := r.Header.Values(name); len(values) > 0 {
			h[http.CanonicalHeaderKey(name)] = values
		}
	}
	return h
}

// spdyHeader asks for SPDY on behalf of a client that speaks WebSocket.
func spdyHeader() http.Header {
	h := http.Header{}
	h.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	h.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	h.Add(httpstream.HeaderProtocolVersion, remotecommand.StreamProtocolV5Name)
	h.Add(httpstream.HeaderProtocolVersion, remotecommand.StreamProtocolV4Name)
	return h
}
