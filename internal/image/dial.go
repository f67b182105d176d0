// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/nodeaddr"
)

// addresses decides to which addresses the store connects. Whoever names an
// image, runs a registry or controls a name in the DNS chooses where the agent connects
// to, and the agent can reach what they cannot.
type addresses struct {
	// allowed are networks that the node's administrator named.
	allowed []netip.Prefix
	// elsewhere returns addresses of the node that no interface has; nil for none.
	elsewhere func() []netip.Addr
}

func (s *registries) addresses() addresses {
	return addresses{allowed: s.o.AllowNetworks, elsewhere: s.o.NodeAddresses}
}

// refusedError means that the store does not connect to an address. It says
// nothing about what answers there.
type refusedError struct {
	// host is HOST:PORT as it was to be dialled.
	host string
	addr netip.Addr
	// why says what the address is, such as "loopback".
	why string
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("address %s may not be used: it is %s", e.addr, e.why)
}

const nodeItself = "an address of the node itself"

// names reports whether the administrator named a network that contains a.
func (p addresses) names(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(p.allowed, func(n netip.Prefix) bool { return n.Contains(a) })
}

// check returns a *refusedError for an address that leads to the node itself, to
// its credentials or to no single host, unless the administrator named it.
func (p addresses) check(a netip.Addr) error {
	if p.names(a) {
		return nil
	}
	plain := a.Unmap().WithZone("")
	own, err := nodeaddr.Local()
	if err != nil {
		return ownErrorf("the node's own addresses cannot be read, so no address can be checked")
	}
	if p.elsewhere != nil {
		own = append(own, p.elsewhere()...)
	}
	networks := make([]netip.Prefix, len(own))
	for i, o := range own {
		networks[i] = netip.PrefixFrom(o, o.BitLen())
	}
	var refused *egress.AddrError
	if errors.As(egress.Set{}.Without(nodeItself, networks...).Unreachable(plain.String()), &refused) {
		return &refusedError{addr: plain, why: refused.Why}
	}
	local, err := nodeaddr.IsLocal(plain)
	switch {
	case err != nil:
		return ownErrorf("the route to an address cannot be read, so the address cannot be checked")
	case local:
		return &refusedError{addr: plain, why: nodeItself}
	}
	return nil
}

// checkHost checks a host that a proxy resolves. It checks an address as check does, and
// requires anything else to be a proper host name, because a proxy may read 127.1 as an
// address.
func (p addresses) checkHost(u *url.URL) error {
	host := u.Hostname()
	if addr, err := netip.ParseAddr(host); err == nil {
		return at(u.Host, p.check(addr))
	}
	if _, err := egress.Parse(host); err != nil {
		return ownErrorf("the agent asks no proxy for this host name, because it leads to the proxy itself or can be read as an address: use a DNS name")
	}
	return nil
}

// warnOfRefused logs which mirrors and registries of the flags are at addresses
// that the store refuses. Names are not resolved.
func (s *registries) warnOfRefused() {
	hosts := slices.Clone(s.o.PlainHTTP)
	for _, mirrors := range s.mirrors {
		for _, m := range mirrors {
			registry, _, _ := strings.Cut(m, "/")
			hosts = append(hosts, registry)
		}
	}
	slices.Sort(hosts)
	p := s.addresses()
	for _, host := range slices.Compact(hosts) {
		u := url.URL{Host: host}
		addr, err := netip.ParseAddr(u.Hostname())
		if err != nil {
			continue
		}
		if err := p.check(addr); err != nil {
			s.o.Log.Info("A registry of --image-mirror or --image-plain-http is at an address that the agent does not connect to: name its network in --registry-allow-networks", "registry", host, "reason", err.Error())
		}
	}
}

// at adds the host that was to be dialled to a refusal.
func at(host string, err error) error {
	var refused *refusedError
	if errors.As(err, &refused) {
		return &refusedError{host: host, addr: refused.addr, why: refused.why}
	}
	return err
}

// dialer makes the connections of one attempt to pull. It checks each address
// at the moment when it connects to it.
type dialer struct {
	addresses
	net.Dialer
	// public and private are set once the dialer tried such an address that no flag
	// names. They decide how much a failure may reveal: see failureText.
	public, private atomic.Bool
}

func newDialer(p addresses) *dialer {
	d := &dialer{addresses: p}
	d.Dialer = net.Dialer{Timeout: dialTimeout, ControlContext: d.control}
	return d
}

// control is called with the address to which a socket is about to connect.
func (d *dialer) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return ownErrorf("an address cannot be checked")
	}
	if d.names(to.Addr()) {
		return nil
	}
	if err := d.check(to.Addr()); err != nil {
		return err
	}
	if (egress.Set{}).CheckAddr(to.Addr().Unmap(), to.Port()) != nil {
		d.private.Store(true)
	} else {
		d.public.Store(true)
	}
	return nil
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, at(address, err)
	}
	return &stallConn{Conn: conn}, nil
}

// guardedTransport sends requests directly, where the dialer checks each
// address, or to the proxy of the agent's environment. The administrator named
// the proxy, so its address is not checked; which hosts it reaches is up to it.
type guardedTransport struct {
	*dialer
	direct, proxied *http.Transport
	proxy           func(*http.Request) (*url.URL, error)
}

func (t *guardedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	proxy, err := t.proxy(req)
	if err != nil {
		return nil, ownErrorf("the proxy in the agent's environment (HTTPS_PROXY, HTTP_PROXY) is not a URL")
	}
	send := t.direct
	if proxy != nil {
		if err := t.checkHost(req.URL); err != nil {
			return nil, err
		}
		t.private.Store(true) // it is not known what the proxy connects to
		send = t.proxied
	}
	resp, err := send.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if err := t.checkAnswer(resp.Header); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

func (t *guardedTransport) CloseIdleConnections() {
	t.direct.CloseIdleConnections()
	t.proxied.CloseIdleConnections()
}

var realmText = regexp.MustCompile(`(?i)\brealm="?([^",\s]+)`)

// checkAnswer refuses an answer that sends the agent to an address that may not
// be used, as a redirect or as the token server. The dialer would refuse it too,
// but the library does not even try some, and its errors quote the registry.
func (t *guardedTransport) checkAnswer(h http.Header) error {
	links := h.Values("Location")
	for _, challenge := range h.Values("WWW-Authenticate") {
		for _, realm := range realmText.FindAllStringSubmatch(challenge, -1) {
			links = append(links, realm[1])
		}
	}
	for _, link := range links {
		to, err := url.Parse(link)
		if err != nil {
			continue
		}
		if addr, err := netip.ParseAddr(to.Hostname()); err == nil {
			if err := t.check(addr); err != nil {
				return at(to.Host, err)
			}
		}
	}
	return nil
}
