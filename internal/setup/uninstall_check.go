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

// checkTimeout bounds a check. Helm waits longer for its hooks.
const checkTimeout = time.Minute

// UninstallCheckOptions configure the check before the operator is removed.
type UninstallCheckOptions struct {
	Kubeconfig string
}

// Bind adds the flags.
func (o *UninstallCheckOptions) Bind(fs *pflag.FlagSet) {
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig file; leave empty in a Pod")
}

// Validate returns nil.
func (o *UninstallCheckOptions) Validate() error { return nil }

// Run returns an error if Bottles exist. Otherwise it lets the operator be removed.
func (o *UninstallCheckOptions) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	cfg, err := restConfig(o.Kubeconfig, "bottle-uninstall-check")
	if err != nil {
		return err
	}
	scheme, err := newScheme()
	if err != nil {
		return err
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("--kubeconfig: %w", err)
	}
	if err := uninstall.Check(ctx, c); err != nil {
		return err
	}
	ctrl.Log.Info("There are no Bottles: the operator can be removed")
	return nil
}
