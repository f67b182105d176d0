// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"botbottle.dev/bottle-operator/internal/egress"
)

// dialError reports that no address of an allowed target accepts a connection. It
// says all that a guest learns about it.
type dialError struct{ decision }

func (e *dialError) Error() string { return "bundle: " + e.refusal.String() }

// dialCause returns why a dial failed, as far as a guest may know.
func dialCause(err error) egress.Cause {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return egress.CauseConnectionRefused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return egress.CauseNoRoute
	case errors.As(err, &timeout) && timeout.Timeout():
		return egress.CauseTimeout
	}
	return egress.CauseUnreachable
}

type targetKey struct{}

func withTarget(ctx context.Context, t target) context.Context {
	return context.WithValue(ctx, targetKey{}, t)
}

// dial connects to one of the addresses that were decided on for the request in
// ctx. It tries them in order, and fails if there was no decision.
func (p *proxy) dial(ctx context.Context) (*upstream, error) {
	t, ok := ctx.Value(targetKey{}).(target)
	if !ok || len(t.addrs) == 0 {
		return nil, errors.New("bundle: nothing was decided about this connection")
	}
	var firstErr error
	for _, addr := range t.addrs {
		dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
		conn, err := p.dialTo(dialCtx, netip.AddrPortFrom(addr, t.port))
		cancel()
		if err != nil {
			firstErr = cmp.Or(firstErr, err)
			continue
		}
		u := p.upstreams.add(conn, target{host: t.host, port: t.port, addrs: []netip.Addr{addr}, opened: t.opened})
		// The rules may have changed after the decision but before the
		// connection was added to the set that revoke checks.
		if !p.stillAllowed(u) {
			u.end()
			return nil, &dialError{deny(rulesChanged(t))}
		}
		return u, nil
	}
	return nil, &dialError{fail(t, dialCause(firstErr))}
}

func rulesChanged(t target) egress.Refusal {
	return egress.Refusal{Host: t.host, Port: t.port, Cause: egress.CauseRulesChanged}
}

func dialTCP(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil // always the type for "tcp"
}

// revoke closes the connections that the rules no longer allow.
func (p *proxy) revoke() {
	// Close idle connections too: later requests would reuse them without
	// another check of the address.
	p.plain.CloseIdleConnections()
	p.opener.revoke()
	for _, u := range p.upstreams.all() {
		if !p.stillAllowed(u) {
			if !u.target.opened { // otherwise its requests are logged
				p.log.decision(u.target, deny(rulesChanged(u.target)))
			}
			u.end()
		}
	}
}

func (p *proxy) stillAllowed(u *upstream) bool {
	set := p.rules.current()
	_, ok := set.Match(u.target.host, u.target.port)
	opened := set.Opens(u.target.host, u.target.port)
	return ok && opened == u.target.opened && set.CheckAddr(u.target.addrs[0], u.target.port) == nil
}

// upstreamSet is the set of connections to the outside.
type upstreamSet struct {
	limit time.Duration // of silence
	mu    sync.Mutex
	open  map[*upstream]struct{}
}

func newUpstreams(limit time.Duration) *upstreamSet {
	return &upstreamSet{limit: limit, open: map[*upstream]struct{}{}}
}

func (us *upstreamSet) add(conn *net.TCPConn, t target) *upstream {
	us.mu.Lock()
	defer us.mu.Unlock()
	u := &upstream{target: t, set: us}
	us.open[u] = struct{}{}
	u.start(conn, us.limit, u.end)
	return u
}

func (us *upstreamSet) all() []*upstream {
	us.mu.Lock()
	defer us.mu.Unlock()
	out := make([]*upstream, 0, len(us.open))
	for u := range us.open {
		out = append(out, u)
	}
	return out
}

func (us *upstreamSet) closeAll() {
	for _, u := range us.all() {
		u.end()
	}
}

// upstream is a connection to the outside.
type upstream struct {
	idleConn
	target target
	set    *upstreamSet
}

func (u *upstream) Close() error {
	u.set.mu.Lock()
	delete(u.set.open, u)
	u.set.mu.Unlock()
	return u.idleConn.Close()
}

// end closes the connection and ignores the error.
func (u *upstream) end() { _ = u.Close() }
