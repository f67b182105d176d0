// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"botbottle.dev/bottle-operator/internal/metricsauth"
)

// MetricsOptions say where /metrics is served, and to whom.
type MetricsOptions struct {
	Address string
	// secure is the flag --metrics-secure; its default depends on Address.
	secure *pflag.Flag
}

// Bind adds the flags. address is the default address.
func (o *MetricsOptions) Bind(fs *pflag.FlagSet, address string) {
	fs.StringVar(&o.Address, "metrics-bind-address", address, "address for /metrics; 0 disables it")
	fs.Bool("metrics-secure", true, "serve /metrics with TLS, and only to users who may get the URL /metrics; a loopback address is served so only if this is set")
	o.secure = fs.Lookup("metrics-secure")
}

// Validate returns an error that names the invalid flag.
func (o *MetricsOptions) Validate() error {
	if !o.enabled() {
		return nil
	}
	if _, _, err := net.SplitHostPort(o.Address); err != nil {
		return fmt.Errorf("--metrics-bind-address %q: want HOST:PORT, :PORT or 0", o.Address)
	}
	return nil
}

func (o *MetricsOptions) enabled() bool { return o.Address != "" && o.Address != "0" }

// isSecure reports whether /metrics is served with TLS, and only to those who may
// read it: unless the address is one that only the machine itself reaches, or the
// flag says otherwise.
func (o *MetricsOptions) isSecure() bool {
	if o.secure != nil && o.secure.Changed {
		return o.secure.Value.String() == "true"
	}
	host, _, _ := net.SplitHostPort(o.Address)
	a, err := netip.ParseAddr(host)
	return host != "localhost" && (err != nil || !a.IsLoopback())
}

// server returns the options of a manager's server.
func (o *MetricsOptions) server() (metricsserver.Options, error) {
	if !o.enabled() {
		return metricsserver.Options{BindAddress: "0"}, nil
	}
	out := metricsserver.Options{BindAddress: o.Address, SecureServing: o.isSecure()}
	if !out.SecureServing {
		return out, nil
	}
	config, err := selfSigned()
	if err != nil {
		return out, err
	}
	out.TLSOpts = []func(*tls.Config){func(c *tls.Config) {
		c.MinVersion, c.NextProtos = config.MinVersion, config.NextProtos
		c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &config.Certificates[0], nil }
	}}
	out.FilterProvider = func(cfg *rest.Config, c *http.Client) (metricsserver.Filter, error) {
		guard, err := metricsauth.New(cfg, c)
		if err != nil {
			return nil, err
		}
		return func(_ logr.Logger, next http.Handler) (http.Handler, error) { return guard.Wrap(next), nil }, nil
	}
	return out, nil
}

// selfSigned returns a configuration with a certificate that is made now and known
// to nobody: it hides tokens and metrics from those who only listen.
func selfSigned() (*tls.Config, error) {
	certificate, key, err := cert.GenerateSelfSignedCertKey("localhost", nil, nil)
	if err != nil {
		return nil, fmt.Errorf("certificate for /metrics: %w", err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("certificate for /metrics: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}, nil
}
