// SPDX-License-Identifier: Apache-2.0

// Package setup assembles the operator from its parts. For each subcommand it
// defines the options, binds them to flags, checks them and runs what they
// configure. It contains no other logic.
package setup

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// newScheme returns a scheme with Kubernetes' own types and Bottles.
func newScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(s); err != nil {
		return nil, fmt.Errorf("scheme: %w", err)
	}
	if err := v1alpha1.AddToScheme(s); err != nil {
		return nil, fmt.Errorf("scheme: %w", err)
	}
	return s, nil
}

// restConfig reads a kubeconfig. An empty path means the Pod's own ServiceAccount.
func restConfig(path, user string) (*rest.Config, error) {
	load := func() (*rest.Config, error) { return clientcmd.BuildConfigFromFlags("", path) }
	if path == "" { // BuildConfigFromFlags would log a warning
		load = rest.InClusterConfig
	}
	cfg, err := load()
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig %q: %w", path, err)
	}
	return withUser(cfg, user), nil
}

// restConfig returns the agent's connection to the API server.
func (o *AgentOptions) restConfig(user string) (*rest.Config, error) {
	if o.AccountDir == "" {
		return restConfig(o.Kubeconfig, user)
	}
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("--service-account-dir: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be set, as the kubelet does in a Pod")
	}
	cfg := &rest.Config{
		Host:            "https://" + net.JoinHostPort(host, port),
		BearerTokenFile: filepath.Join(o.AccountDir, "token"), // the client reads it again
		TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(o.AccountDir, "ca.crt")},
	}
	for _, file := range []string{cfg.BearerTokenFile, cfg.CAFile} {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("--service-account-dir: %w", err)
		}
	}
	return withUser(cfg, user), nil
}

func withUser(cfg *rest.Config, user string) *rest.Config {
	cfg.UserAgent = user + "/" + Version()
	cfg.QPS, cfg.Burst = 50, 100
	return cfg
}
