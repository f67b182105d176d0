// SPDX-License-Identifier: Apache-2.0

// Package bundleproxy is the built-in bundle: an HTTP proxy that lets a guest
// reach what the egress rules allow and answers 403 to anything else. It
// decides by the request's target and resolves only allowed names. It checks each
// resolved address and dials exactly the addresses that it checked. It opens the
// connections to hosts that have rules for their requests: it decides about each request,
// adds the credential of its rule, and looks for known secrets. It does not inspect
// tunnels, authenticate clients, follow redirects or cache anything: the network around it
// decides who may connect to it.
package bundleproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"time"
)

const (
	maxConns       = 512      // of guests, idle or in use
	maxHeader      = 64 << 10 // bytes of the header of a request or response
	resolveTimeout = 5 * time.Second
	dialTimeout    = 5 * time.Second // for each address
	maxDials       = 4               // addresses tried for one connection
	// shutdownGrace is how long requests under way may take to end.
	shutdownGrace = 3 * time.Second
)

// limits are the time limits of connections.
type limits struct {
	readHeader time.Duration // for a request's line and header
	keepAlive  time.Duration // between two requests of a connection
	// silence is how long a tunnel, a request or a response may transfer no
	// data.
	silence time.Duration
	// drain is how long the body of a refused request may take to arrive.
	drain time.Duration
}

// defaultLimits allow a long silence: a model may think for minutes before it
// answers.
var defaultLimits = limits{readHeader: 10 * time.Second, keepAlive: time.Minute, silence: 15 * time.Minute, drain: 5 * time.Second}

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
	// Interface is the network interface at whose addresses Run serves; it may come and go.
	// Connections to other addresses are closed at once. If it is "", all are served.
	Interface string
	// RulesPath is the path of the rules file. The file is read again within
	// about a second of a change. A missing file allows nothing.
	RulesPath string
	// SecretsDir is the folder with the files of package brokerfile. They are read again
	// like the rules. If it is "", no connection can be opened.
	SecretsDir string
	// UpstreamCA is the path of a PEM file with the authorities that are accepted for
	// hosts beside the public ones. The file may be missing; "" for none.
	UpstreamCA string
	// Log gets one JSON line per decision. Decisions beyond a rate are only
	// counted in it.
	Log io.Writer
	// Resolver looks up names. If nil, the system's resolver does.
	Resolver Resolver
	// Dial connects to targets. If nil, a plain dialer is used.
	Dial DialFunc
	// Networks returns the networks of the bundle's interfaces. It is called at
	// the start and again every few seconds. If nil, the system's interfaces
	// are read.
	Networks func() ([]netip.Prefix, error)
	// Ready, if not nil, is called with the address that Run listens on.
	Ready func(net.Addr)

	limits  limits       // defaultLimits if zero
	started func(*proxy) // for tests; nil for none
}

// Run serves until ctx ends. It then returns nil after the requests under way
// have ended or shutdownGrace is over. An error means that it cannot listen or
// serve, or cannot find out which networks are its own.
func Run(ctx context.Context, o Options) error {
	p := newProxy(o)
	if o.started != nil {
		o.started(p)
	}
	var err error
	p.pollFiles(func() { err = p.rules.start() })
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}

	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	if o.Interface != "" {
		listener = &interfaceListener{listener, o.Interface}
	}
	server := p.server()
	served := make(chan error, 1)
	go func() { served <- server.Serve(limitListener(listener, maxConns, p.limits.silence)) }()

	opened := make(chan struct{})
	go func() {
		_ = p.opener.server.Serve(p.opener.queue) // ends when the queue is closed
		close(opened)
	}()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan struct{})
	go func() {
		p.rules.watch(ctx, p.pollFiles)
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
	p.opener.shutDown()
	cancel()
	<-watched
	<-opened
	p.plain.CloseIdleConnections()
	p.upstreams.closeAll()
	p.log.flush()
	return err
}

// shutDown waits for requests to end, and closes them after shutdownGrace.
// Tunnels do not count as requests. They end with their upstreams.
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
	limits    limits
	rules     *rules
	resolver  Resolver
	dialTo    DialFunc
	log       *decisionLog
	upstreams *upstreamSet
	plain     *http.Transport // of plain requests
	forward   *httputil.ReverseProxy
	broker    *broker
	roots     *roots
	opener    *opener
}

func newProxy(o Options) *proxy {
	if o.limits == (limits{}) {
		o.limits = defaultLimits
	}
	if o.Networks == nil {
		o.Networks = interfaceNetworks
	}
	p := &proxy{limits: o.limits, resolver: o.Resolver, dialTo: o.Dial, log: newDecisionLog(o.Log), upstreams: newUpstreams(o.limits.silence)}
	if p.resolver == nil {
		p.resolver = net.DefaultResolver
	}
	if p.dialTo == nil {
		p.dialTo = dialTCP
	}
	p.rules = newRules(o.RulesPath, p.log, o.Networks, p.revoke)
	p.plain = p.newPlainTransport()
	p.forward = p.newForward()
	p.broker = newBroker(o.SecretsDir, p.log)
	p.roots = newRoots(o.UpstreamCA)
	p.opener = newOpener(p)
	return p
}

func (p *proxy) server() *http.Server {
	return &http.Server{
		Handler:                      p,
		ReadHeaderTimeout:            p.limits.readHeader,
		IdleTimeout:                  p.limits.keepAlive,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		ConnContext:                  contextWithGuestConn,
		// Discard its messages, because they may contain what a guest sent.
		ErrorLog: log.New(io.Discard, "", 0),
	}
}

// ServeHTTP decides about the request, and forwards it if it is allowed.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t, d := p.decide(r)
	if !d.allowed || !t.opened { // otherwise each request is logged
		p.log.decision(t, d)
	}
	if !d.allowed {
		p.refuse(w, r, d)
		return
	}
	connect := r.Method == http.MethodConnect
	switch r = r.WithContext(withTarget(r.Context(), t)); {
	case connect && t.opened:
		p.opener.open(w, r, t)
	case connect:
		p.tunnel(w, r, t)
	case t.opened:
		p.opener.forward(w, r, outgoing{target: t, scheme: "http"})
	default:
		p.forwardPlain(w, r)
	}
}

// pollFiles reads the files again that have changed; pollRules does that for the rules.
// A new value of a Secret is in effect only after the rules that the agent wrote before
// it, so that no host gets a value for which a rule was just removed.
func (p *proxy) pollFiles(pollRules func()) {
	p.broker.pollCA()
	p.broker.pollSecrets()
	pollRules()
	p.broker.apply()
	changed, err := p.roots.poll()
	if err != nil {
		p.log.event("upstream-ca", "kept the authorities: the file cannot be read or understood")
	}
	if changed {
		p.opener.transport.closeIdle()
	}
}
