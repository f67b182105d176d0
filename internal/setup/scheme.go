// SPDX-License-Identifier: Apache-2.0

// Package setup assembles the operator from its parts. For each subcommand it
// defines the options, binds them to flags, checks them and runs what they
// configure. It contains no other logic.
package setup

import (
	"fmt"

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
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig %q: %w", path, err)
	}
	cfg.UserAgent = user + "/" + Version()
	cfg.QPS, cfg.Burst = 50, 100
	return cfg, nil
}
