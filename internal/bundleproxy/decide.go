// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"botbottle.dev/bottle-operator/internal/egress"
)

// target is where a request wants to go.
type target struct {
	host string // as the guest wrote it, without brackets
	port uint16
	// addrs are the addresses that may be dialled. They are set when the
	// request is allowed.
	addrs []netip.Addr
	// resolved is when the addresses were looked up.
	resolved time.Time
	// opened: requests to the target are inspected, and the connection is never a tunnel.
	opened bool
}

// decision is the outcome of a request.
type decision struct {
	allowed bool
	status  int
	// reason is why the request is allowed or not. It never contains anything that a
	// guest wrote, except an address in its canonical form and a rule for what was
	// refused.
	reason string
	// refusal says why the request is not forwarded.
	refusal egress.Refusal
	// more is what the guest learns in addition, in lines of printable ASCII.
	more string
}

// deny denies a request.
func deny(r egress.Refusal) decision {
	return decision{status: http.StatusForbidden, refusal: r, reason: r.Reason()}
}

// fail ends a request that a rule allows but that cannot be forwarded.
func fail(t target, cause egress.Cause) decision {
	r := egress.Refusal{Host: t.host, Port: t.port, Cause: cause}
	return decision{status: http.StatusBadGateway, refusal: r, reason: r.Reason()}
}

// reject refuses a request that no bundle forwards.
func reject(t target, cause egress.Cause) decision {
	return deny(egress.Refusal{Host: t.host, Port: t.port, Cause: cause})
}

// decide decides about a request by its target: the authority of CONNECT, or
// the URL of a plain request. It ignores the Host header, which net/http
// replaces with the target before a request is forwarded.
func (p *proxy) decide(r *http.Request) (target, decision) {
	if r.Method != http.MethodConnect && !r.URL.IsAbs() {
		return target{}, reject(target{}, egress.CauseRequest)
	}
	t := target{host: r.URL.Hostname()}
	if r.Method != http.MethodConnect && r.URL.Scheme != "http" {
		return t, reject(t, egress.CauseScheme)
	}
	if r.Method == http.MethodConnect && r.ContentLength != 0 {
		// Programs differ on whether the body belongs to the CONNECT or to the
		// tunnel.
		d := reject(t, egress.CauseBody)
		d.status = http.StatusBadRequest
		return t, d
	}
	port, ok := portOf(r)
	if !ok {
		return t, reject(t, egress.CausePort)
	}
	t.port = port
	set := p.rules.current()
	rule, ok := set.Match(t.host, t.port)
	if !ok {
		err := cmp.Or(set.Unreachable(t.host), set.Refusal(t.host, t.port))
		refusal := egress.Refuse(t.host, t.port, err)
		if err == nil && set.AllowsOtherPort(t.host) {
			refusal.Cause = egress.CauseOtherPort
		}
		return t, deny(refusal)
	}
	t.opened = set.Opens(t.host, t.port)
	d := p.lookAtHost(set, rule, &t)
	if d.status != 0 {
		return t, d
	}
	t.resolved = time.Now()
	t.addrs, d = p.resolve(r.Context(), set, t)
	if d.allowed {
		d.reason = "rule " + rule.String()
	}
	return t, d
}

// portOf returns the target's port. CONNECT must name it; a URL may omit port
// 80.
func portOf(r *http.Request) (uint16, bool) {
	text := r.URL.Port()
	if text == "" && r.Method != http.MethodConnect && !strings.HasSuffix(r.URL.Host, ":") {
		text = "80"
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n > 0
}

// resolve returns the addresses of an allowed host that may be dialled. It
// leaves out the others, because the owner of a name chooses its addresses.
func (p *proxy) resolve(ctx context.Context, set egress.Set, t target) ([]netip.Addr, decision) {
	all, err := p.lookup(ctx, t.host)
	if err != nil || len(all) == 0 {
		return nil, fail(t, lookupCause(err))
	}
	var addrs []netip.Addr
	var firstErr error
	for _, a := range all {
		if err := set.CheckAddr(a, t.port); err != nil {
			firstErr = cmp.Or(firstErr, err)
			continue
		}
		addrs = append(addrs, a.Unmap())
	}
	if len(addrs) == 0 {
		return nil, deny(egress.Refuse(t.host, t.port, firstErr))
	}
	// Try IPv4 first: a bundle's network has IPv4 and often nothing else.
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return addrs[:min(len(addrs), maxDials)], decision{allowed: true}
}

func (p *proxy) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	// The trailing dot avoids the node's search domains: the rule names exactly
	// this host.
	return p.resolver.LookupNetIP(ctx, "ip", strings.TrimSuffix(host, ".")+".")
}

// lookupCause returns why a lookup found no address.
func lookupCause(err error) egress.Cause {
	var dns *net.DNSError
	if err == nil || errors.As(err, &dns) && dns.IsNotFound {
		return egress.CauseUnknownName
	}
	return egress.CauseResolver
}
