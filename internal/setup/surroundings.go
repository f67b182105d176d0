// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"golang.org/x/net/http/httpproxy"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/internal/subnet"
	"botbottle.dev/bottle-operator/internal/surroundings"
)

// resolvConf are the files that name the node's resolvers. systemd-resolved writes
// its own address into the first and those of the real resolvers into the second.
var resolvConf = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// surroundings returns the source of what is known about the networks around the
// node's Bottles. It does not contact the API server.
func (o *AgentOptions) surroundings(cfg *rest.Config) (*surroundings.Source, error) {
	fixed, err := o.fixedNetworks()
	if err != nil {
		return nil, err
	}
	resolver := &net.Resolver{}
	source, err := surroundings.New(surroundings.Options{
		Fixed: fixed, Hosts: append(o.hosts(), apiHosts(cfg)...), ResolvConf: resolvConf,
		Resolve: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return resolver.LookupNetIP(ctx, "ip4", host)
		},
		Routes: surroundings.Routes, Watch: surroundings.Watch,
		Clock: clock.RealClock{}, Log: ctrl.Log.WithName("surroundings"),
	})
	if err != nil {
		return nil, fmt.Errorf("the networks around the node: %w", err)
	}
	return source, nil
}

// reservedNetworks parses --reserved-networks. The error names every network that
// is not valid.
func (o *AgentOptions) reservedNetworks() (out []subnet.Reserved, err error) {
	var errs []error
	for _, text := range o.ReservedNetworks {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("--reserved-networks %q: want a network such as 10.244.0.0/16", text))
		case p != p.Masked():
			errs = append(errs, fmt.Errorf("--reserved-networks %s: it has bits beyond its mask: write %s, or /%d for one address", text, p.Masked(), p.Addr().BitLen()))
		case p.Bits() == 0:
			errs = append(errs, fmt.Errorf("--reserved-networks %s: it names every address: name only the networks that are in use", text))
		}
		out = append(out, subnet.Reserved{Network: p, By: "--reserved-networks"})
	}
	return out, errors.Join(errs...)
}

// fixedNetworks returns the networks that flags name. The networks of --egress-closed and
// --registry-allow-networks count only if they leave a part of the pool: closing all
// private networks says nothing about which of them are in use.
func (o *AgentOptions) fixedNetworks() ([]subnet.Reserved, error) {
	out, err := o.reservedNetworks()
	if err != nil {
		return nil, err
	}
	pool, err := o.pool()
	if err != nil {
		return nil, err
	}
	closed, err := o.egressClosed()
	if err != nil {
		return nil, err
	}
	registries, err := o.Images.allowedNetworks()
	if err != nil {
		return nil, err
	}
	for flag, networks := range map[string][]netip.Prefix{"--egress-closed": closed, "--registry-allow-networks": registries} {
		var some []subnet.Reserved
		for _, n := range networks {
			if whole := n.Bits() <= pool.Prefix().Bits() && n.Contains(pool.Prefix().Addr()); !whole {
				some = append(some, subnet.Reserved{Network: n, By: flag})
			}
		}
		// Together, too, they must leave something.
		if _, err := pool.Pick("", nil, some); err == nil {
			out = append(out, some...)
		}
	}
	return out, nil
}

// hosts returns the hosts that flags and the environment name. It leaves out what
// is not valid, which is reported elsewhere.
func (o *AgentOptions) hosts() (out []surroundings.Host) {
	add := func(host, by string) {
		if host != "" && !strings.HasSuffix(host, "localhost") {
			out = append(out, surroundings.Host{Name: host, By: by})
		}
	}
	for _, flag := range o.Images.Mirrors {
		registry, mirrors, _ := strings.Cut(flag, "=")
		add(registryHost(registry), "a registry of --image-mirror")
		for mirror := range strings.SplitSeq(mirrors, ",") {
			host, _, _ := strings.Cut(mirror, "/")
			add(registryHost(host), "a mirror of --image-mirror")
		}
	}
	for _, host := range o.Images.PlainHTTP {
		add(registryHost(host), "a registry of --image-plain-http")
	}
	add(imageHost(o.DefaultImage), "the registry of --default-image")
	for _, image := range o.Images.Prewarm {
		add(imageHost(image), "a registry of --prewarm-image")
	}
	if u, err := url.Parse(o.DockerHost); err == nil && u.Scheme != "unix" {
		add(u.Hostname(), "--docker-host")
	}
	env := httpproxy.FromEnvironment()
	for _, text := range []string{env.HTTPProxy, env.HTTPSProxy} {
		add(proxyHost(text), "the agent's HTTP proxy")
	}
	return out
}

// apiHosts returns the API server that cfg names, and the proxy on the way to it.
func apiHosts(cfg *rest.Config) (out []surroundings.Host) {
	u, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil
	}
	out = append(out, surroundings.Host{Name: u.Hostname(), By: "the API server"})
	if cfg.Proxy == nil {
		return out
	}
	if proxy, err := cfg.Proxy(&http.Request{Method: http.MethodGet, URL: u}); err == nil && proxy != nil {
		out = append(out, surroundings.Host{Name: proxy.Hostname(), By: "the proxy to the API server"})
	}
	return out
}

// registryHost returns the host of a registry, HOST[:PORT], without the port; "" if
// it is not valid.
func registryHost(registry string) string {
	r, err := name.NewRegistry(registry)
	if registry == "" || err != nil {
		return ""
	}
	return (&url.URL{Host: r.RegistryStr()}).Hostname()
}

// imageHost returns the host of an image's registry; "" for local images.
func imageHost(image string) string {
	if image == "" || strings.HasPrefix(image, "file:") || strings.HasPrefix(image, "docker-daemon:") {
		return ""
	}
	r, err := name.ParseReference(image)
	if err != nil {
		return ""
	}
	return registryHost(r.Context().RegistryStr())
}

// proxyHost returns the host of a proxy, which may lack a scheme.
func proxyHost(text string) string {
	if text == "" {
		return ""
	}
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return u.Hostname()
}
