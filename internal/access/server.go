// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"crypto/tls"
	"errors"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// maxHeaderBytes bounds a request, whose URL holds the command.
	maxHeaderBytes = 256 << 10
	headerTimeout  = 15 * time.Second
	idleTimeout    = 2 * time.Minute // of a connection between two requests
	// listenInterval is the pause before another attempt to listen.
	listenInterval = 2 * time.Second
	// endTimeout is how long the end of the server waits for its sessions to end.
	endTimeout = 10 * time.Second
)

// Options of a Server. All are required.
type Options struct {
	// Address is what the server listens on.
	Address string
	// TLS is the server's configuration. It must accept only the manager.
	TLS      *tls.Config
	Bottles  Bottles
	Machines host.Machines
	Bundles  host.Bundles
	Prover   Prover
	Sessions *Sessions
	Log      logr.Logger
}

// Server serves the manager.
type Server struct {
	Options
	// running are the requests that are served.
	running sync.WaitGroup
	// listening is closed once addr is set.
	listening chan struct{}
	addr      net.Addr
}

// New returns a Server, which does nothing until Start.
func New(o Options) *Server { return &Server{Options: o, listening: make(chan struct{})} }

// Start serves until ctx ends. It then ends all sessions.
func (s *Server) Start(ctx context.Context) error {
	l := s.listen(ctx)
	if l == nil {
		return nil
	}
	s.addr = l.Addr()
	close(s.listening)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{
		Handler:           s.handler(),
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // no HTTP/2
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// Whoever can reach the port could otherwise fill the log.
		ErrorLog: log.New(debugLog{s.Log}, "", 0),
	}
	s.Log.Info("The access server is listening", "address", l.Addr().String())
	var err error
	served := make(chan error, 1)
	go func() { served <- server.Serve(newDoor(l, s.TLS, bounds, debugLog{s.Log})) }()
	select {
	case err = <-served:
	case <-ctx.Done():
	}
	cancel()
	_ = server.Close() // the listener's error does not matter any more
	s.wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// listen returns the listener. While the address cannot be used, it tries again, because
// the rest of the agent must go on. It returns nil when ctx ends.
func (s *Server) listen(ctx context.Context) *net.TCPListener {
	for reported := false; ; reported = true {
		address, err := net.ResolveTCPAddr("tcp", s.Address)
		if err == nil {
			var l *net.TCPListener
			if l, err = net.ListenTCP("tcp", address); err == nil {
				return l
			}
		}
		if !reported {
			s.Log.Error(err, "The access server cannot listen; trying again")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(listenInterval):
		}
	}
}

// wait waits for the end of the sessions, which the server does not know after their
// upgrade.
func (s *Server) wait() {
	ended := make(chan struct{})
	go func() {
		s.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(endTimeout):
		s.Log.Info("Some sessions have not ended in time")
	}
}

// NeedLeaderElection makes controller-runtime start the server at once.
func (s *Server) NeedLeaderElection() bool { return false }

// Addr waits until the server listens and returns its address.
func (s *Server) Addr(ctx context.Context) (net.Addr, error) {
	select {
	case <-s.listening:
		return s.addr, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// handler routes the requests.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for _, route := range []struct {
		methods []string
		verb    string
		serve   func(*session) error
	}{
		{[]string{http.MethodGet, http.MethodPost}, "exec", s.exec},
		{[]string{http.MethodGet, http.MethodPost}, "attach", s.attach},
		{[]string{http.MethodGet}, "log", s.log},
		{[]string{http.MethodPost}, "proof", s.proof},
	} {
		for _, method := range route.methods {
			mux.HandleFunc(method+" /v1/bottles/{namespace}/{name}/{uid}/"+route.verb, func(w http.ResponseWriter, r *http.Request) {
				s.running.Add(1)
				defer s.running.Done()
				s.serve(w, r, route.verb, route.serve)
			})
		}
	}
	return mux
}

// debugLog logs what the HTTP server reports, such as failed handshakes, at the debug
// level.
type debugLog struct{ log logr.Logger }

func (d debugLog) Write(p []byte) (int, error) {
	d.log.V(1).Info("HTTP server", "message", string(p[:min(len(p), 300)]))
	return len(p), nil
}
