// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"botbottle.dev/bottle-operator/internal/egress"
)

// target is where a request wants to go.
type target struct {
	host string // as the guest wrote it, without brackets
	port uint16
	// addrs are those that may be dialled, set when the request is allowed.
	addrs []netip.Addr
}

// decision is what becomes of a request. The reason never has anything in it
// that a guest wrote, but an address in its canonical form.
type decision struct {
	allowed bool
	status  int
	reason  string
}

func deny(reason string) decision {
	return decision{status: http.StatusForbidden, reason: reason}
}

// decide judges a request by its target: the authority of CONNECT, or the URL
// of a plain request. The Host header says nothing here, and net/http puts the
// target in its place before a request is passed on.
func (p *proxy) decide(r *http.Request) (target, decision) {
	if r.Method != http.MethodConnect && !r.URL.IsAbs() {
		return target{}, deny("this is a proxy: it answers no requests of its own")
	}
	t := target{host: r.URL.Hostname()}
	if r.Method != http.MethodConnect && r.URL.Scheme != "http" {
		return t, deny("only http is forwarded; use CONNECT for anything else")
	}
	if r.Method == http.MethodConnect && r.ContentLength != 0 {
		// Whose it is, ours or the tunnel's, programs read in ways that differ.
		return t, decision{status: http.StatusBadRequest, reason: "CONNECT takes no body"}
	}
	port, ok := portOf(r)
	if !ok {
		return t, deny("the target has no valid port")
	}
	t.port = port
	set := p.rules.current()
	rule, ok := set.Match(t.host, t.port)
	if !ok {
		if err := set.Unreachable(t.host); err != nil {
			return t, deny(err.Error())
		}
		return t, deny("no egress rule allows this host and port")
	}
	var d decision
	t.addrs, d = p.resolve(r.Context(), set, t)
	if d.allowed {
		d.reason = "rule " + rule.String()
	}
	return t, d
}

// portOf is the target's port: CONNECT must name it, a URL may leave out 80.
func portOf(r *http.Request) (uint16, bool) {
	text := r.URL.Port()
	if text == "" && r.Method != http.MethodConnect && !strings.HasSuffix(r.URL.Host, ":") {
		text = "80"
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n > 0
}

// resolve returns the addresses of an allowed host that may be dialled. Those
// that may not are left out: a name's owner chooses where it leads.
func (p *proxy) resolve(ctx context.Context, set egress.Set, t target) ([]netip.Addr, decision) {
	all, err := p.lookup(ctx, t.host)
	if err != nil || len(all) == 0 {
		return nil, decision{status: http.StatusBadGateway, reason: "the name does not resolve"}
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
		return nil, deny(firstErr.Error())
	}
	// A bundle's network has IPv4 and often nothing else.
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return addrs[:min(len(addrs), maxDials)], decision{allowed: true}
}

func (p *proxy) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	// The dot keeps the node's search domains out: the rule names this host.
	return p.resolver.LookupNetIP(ctx, "ip", strings.TrimSuffix(host, ".")+".")
}
