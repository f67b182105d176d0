// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/pflag"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/controllers/uninstall"
)

// uninstallTimeout bounds what is done before and after the operator is removed. Helm waits
// longer for its hooks.
const uninstallTimeout = 2 * time.Minute

// UninstallCheckOptions configure the check before the operator is removed.
type UninstallCheckOptions struct{ Kubeconfig string }

// Bind adds the flags.
func (o *UninstallCheckOptions) Bind(fs *pflag.FlagSet) {
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig file; leave empty in a Pod")
}

// Validate returns nil.
func (o *UninstallCheckOptions) Validate() error { return nil }

// Run returns an error if Bottles exist. Otherwise it lets the operator be removed.
func (o *UninstallCheckOptions) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, uninstallTimeout)
	defer cancel()
	c, err := directClient(o.Kubeconfig, "bottle-uninstall-check")
	if err != nil {
		return err
	}
	if err := uninstall.Check(ctx, c); err != nil {
		return err
	}
	ctrl.Log.Info("There are no Bottles: the operator can be removed")
	return nil
}

// UninstallFinishOptions configure what is done after the operator was removed.
type UninstallFinishOptions struct{ Kubeconfig, Namespace string }

// Bind adds the flags.
func (o *UninstallFinishOptions) Bind(fs *pflag.FlagSet) {
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig file; leave empty in a Pod")
	fs.StringVar(&o.Namespace, "namespace", "", "namespace that the operator was in; if empty, the Pod's own (required outside a Pod)")
}

// Validate returns nil.
func (o *UninstallFinishOptions) Validate() error { return nil }

// Run removes what the manager and the agents left in the cluster.
func (o *UninstallFinishOptions) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, uninstallTimeout)
	defer cancel()
	namespace, err := (&ManagerOptions{Namespace: o.Namespace}).namespace(podNamespaceFile)
	if err != nil {
		return err
	}
	c, err := directClient(o.Kubeconfig, "bottle-uninstall-finish")
	if err != nil {
		return err
	}
	return uninstall.Finish(ctx, c, namespace)
}

// directClient returns a client that reads from the API server, never from a cache.
func directClient(kubeconfig, user string) (client.Client, error) {
	cfg, err := restConfig(kubeconfig, user)
	if err != nil {
		return nil, err
	}
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	return c, nil
}
