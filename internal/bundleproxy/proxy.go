// SPDX-License-Identifier: Apache-2.0

// Package bundleproxy is the built-in bundle: an HTTP proxy that lets a guest
// reach what the egress rules allow and answers 403 to anything else. It
// decides by the request's target alone, resolves no name that is not allowed,
// and judges the resolved address before it dials that very one. It does not
// look into tunnels, authenticates nobody, and caches nothing: who may talk to
// it is for the network around it to settle.
package bundleproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/elazarl/goproxy"
)

const (
	maxConns          = 512      // of guests, waiting or tunnelled
	maxHeader         = 64 << 10 // bytes of a request's line and header
	readHeaderTimeout = 10 * time.Second
	keepAliveTimeout  = time.Minute // between two requests of a connection
	// silenceTimeout ends a tunnel or a response on which nothing moves. It is
	// long: a model may think for minutes before it answers.
	silenceTimeout = 15 * time.Minute
	resolveTimeout = 5 * time.Second
	dialTimeout    = 5 * time.Second // for each address
	maxDials       = 4               // addresses tried for one connection
	// shutdownGrace is what requests under way get to end.
	shutdownGrace = 3 * time.Second
)

// Resolver looks up the addresses of a name; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// DialFunc connects to an address.
type DialFunc func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error)

// Options configure Run.
type Options struct {
	// Listen is the TCP address to listen on, such as :8888.
	Listen string
	// RulesPath is the rules file. It is read again within about a second of
	// its change; a missing one allows nothing.
	RulesPath string
	// Log gets one JSON line per decision.
	Log io.Writer
	// Resolver is the system's where nil.
	Resolver Resolver
	// Dial is a plain dial where nil.
	Dial DialFunc
	// Ready, where set, is called with the address listened on.
	Ready func(net.Addr)
}

// Run serves until ctx ends, and then returns nil once the requests under way
// are over or have had their time. An error means that it cannot listen or
// serve.
func Run(ctx context.Context, o Options) error {
	p := newProxy(o)
	// Before the first request: a guest must not meet rules that are not read.
	p.rules.reload()

	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	server := p.server()
	served := make(chan error, 1)
	go func() { served <- server.Serve(limit(listener, maxConns)) }()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan struct{})
	go func() {
		p.rules.watch(ctx)
		close(watched)
	}()
	if o.Ready != nil {
		o.Ready(listener.Addr())
	}
	select {
	case err = <-served:
		err = fmt.Errorf("bundle: serve: %w", err)
	case <-ctx.Done():
		err = shutDown(server)
	}
	cancel()
	<-watched
	p.forward.Tr.CloseIdleConnections()
	p.upstreams.closeAll()
	return err
}

// shutDown lets requests end, and ends them when their time is up. Tunnels are
// not requests; they end with their upstreams.
func shutDown(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownGrace)
	defer cancel()
	if err := server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return server.Close()
}

// proxy is the running bundle.
type proxy struct {
	rules     *rules
	resolver  Resolver
	dialTo    DialFunc
	log       *decisionLog
	upstreams *upstreams
	forward   *goproxy.ProxyHttpServer
}

func newProxy(o Options) *proxy {
	p := &proxy{resolver: o.Resolver, dialTo: o.Dial, log: newDecisionLog(o.Log), upstreams: newUpstreams(silenceTimeout)}
	if p.resolver == nil {
		p.resolver = net.DefaultResolver
	}
	if p.dialTo == nil {
		p.dialTo = dialTCP
	}
	p.rules = newRules(o.RulesPath, p.log, p.revoke)
	p.forward = p.newForward()
	return p
}

func (p *proxy) server() *http.Server {
	return &http.Server{
		Handler:                      p,
		ReadHeaderTimeout:            readHeaderTimeout,
		IdleTimeout:                  keepAliveTimeout,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		// Its messages may hold what a guest sent.
		ErrorLog: log.New(io.Discard, "", 0),
	}
}

// newForward is the part that moves bytes. It gets only requests that were let
// through, and dials only what was decided.
func (p *proxy) newForward() *goproxy.ProxyHttpServer {
	f := goproxy.NewProxyHttpServer()
	// Its messages hold URLs and headers.
	f.Logger = log.New(io.Discard, "", 0)
	f.KeepAcceptEncoding = true
	// The bundle's own environment leads to no other proxy.
	f.ConnectDial = nil
	f.ConnectDialWithReq = func(r *http.Request, _, _ string) (net.Conn, error) { return p.dial(r.Context()) }
	f.Tr = &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx) },
		DisableCompression:     true,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        keepAliveTimeout,
		MaxResponseHeaderBytes: maxHeader,
	}
	f.OnResponse().DoFunc(func(resp *http.Response, ctx *goproxy.ProxyCtx) *http.Response {
		if resp != nil {
			return resp
		}
		return goproxy.NewResponse(ctx.Req, goproxy.ContentTypeText, http.StatusBadGateway, "bundle: the host does not answer properly\n")
	})
	return f
}

// ServeHTTP decides, and passes on what is allowed.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t, d := p.decide(r)
	p.log.decision(t, d)
	if !d.allowed {
		answer(w, t, d)
		return
	}
	p.forward.ServeHTTP(w, r.WithContext(withTarget(r.Context(), t)))
}

func answer(w http.ResponseWriter, t target, d decision) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(d.status)
	if t.host == "" {
		fmt.Fprintf(w, "bundle: %s\n", d.reason)
		return
	}
	fmt.Fprintf(w, "bundle: %s, port %d: %s\n", printable(t.host, maxHost), t.port, d.reason)
}
