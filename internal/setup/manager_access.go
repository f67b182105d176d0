// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"fmt"
	"net"
	"net/http"

	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"botbottle.dev/bottle-operator/internal/accessapi"
	"botbottle.dev/bottle-operator/internal/accesscert"
)

// AccessOptions configure the API subresources.botbottle.dev.
type AccessOptions struct {
	Address string
	Service string
}

// Bind adds the flags.
func (o *AccessOptions) Bind(fs *pflag.FlagSet) {
	fs.StringVar(&o.Address, "access-bind-address", ":10250", "address for the API subresources.botbottle.dev, which kube-apiserver forwards requests to; 0 disables it, and agents then get no Secrets and ConfigMaps")
	fs.StringVar(&o.Service, "access-service", "bottle-manager-access", "name of the Service, in the operator's namespace, through which kube-apiserver reaches this API")
}

// Validate returns an error that names the invalid flag.
func (o *AccessOptions) Validate() error {
	if !o.enabled() {
		return nil
	}
	if _, _, err := net.SplitHostPort(o.Address); err != nil {
		return fmt.Errorf("--access-bind-address %q: want HOST:PORT, :PORT or 0", o.Address)
	}
	if o.Service == "" {
		return fmt.Errorf("--access-service: required")
	}
	return nil
}

func (o *AccessOptions) enabled() bool { return o.Address != "" && o.Address != "0" }

// add makes mgr serve the API, whether it is the leader or not, and sign the
// certificates of agents while it is the leader. It returns a check that fails until
// the API is served.
func (o *AccessOptions) add(ctx context.Context, mgr ctrl.Manager, namespace string) (healthz.Checker, error) {
	if !o.enabled() {
		return healthz.Ping, nil
	}
	direct, err := client.New(mgr.GetConfig(), client.Options{Scheme: mgr.GetScheme(), HTTPClient: mgr.GetHTTPClient()})
	if err != nil {
		return nil, fmt.Errorf("access API: %w", err)
	}
	authority := accesscert.NewAuthority(accesscert.Options{
		Client: direct, Namespace: namespace, Service: o.Service, Clock: clock.RealClock{}, Log: mgr.GetLogger().WithName("access-certificates"),
	})
	if err := mgr.Add(authority); err != nil {
		return nil, fmt.Errorf("access API: %w", err)
	}
	if err := (&accesscert.Signer{Client: mgr.GetClient(), Authority: authority, Namespace: namespace}).SetupWithManager(mgr); err != nil {
		return nil, err
	}
	environments, err := newEnvironments(ctx, mgr, namespace)
	if err != nil {
		return nil, err
	}
	kubernetes, err := kubernetes.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("access API: %w", err)
	}
	server, err := accessapi.New(accessapi.Options{
		Address: o.Address, Namespace: namespace,
		Client: direct, Cache: mgr.GetClient(), Kubernetes: kubernetes,
		Serving: authority.Serving(), Ready: authority.Ready(), AgentTLS: authority.ClientConfig,
		Environments: environments,
		Registerer:   metrics.Registry, Clock: clock.RealClock{}, Log: mgr.GetLogger().WithName("access-audit"),
	})
	if err != nil {
		return nil, err
	}
	return func(*http.Request) error { return server.Ready() }, mgr.Add(server)
}
