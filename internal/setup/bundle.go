// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/spf13/pflag"

	"botbottle.dev/bottle-operator/internal/bundleproxy"
)

// BundleOptions configure the default bundle.
type BundleOptions struct {
	Rules, Listen string
}

// Bind adds the flags.
func (o *BundleOptions) Bind(fs *pflag.FlagSet) {
	fs.StringVar(&o.Rules, "rules", "", "file with the egress rules; it is reloaded when it changes")
	fs.StringVar(&o.Listen, "listen", ":8888", "TCP address to listen on")
}

// Validate returns an error that names every invalid flag.
func (o *BundleOptions) Validate() error {
	var errs []error
	if o.Rules == "" {
		errs = append(errs, errors.New("--rules: required"))
	}
	if _, _, err := net.SplitHostPort(o.Listen); err != nil {
		errs = append(errs, fmt.Errorf("--listen %q: want HOST:PORT or :PORT", o.Listen))
	}
	return errors.Join(errs...)
}

// Run runs the proxy until ctx ends. It writes one line to log for each decision.
func (o *BundleOptions) Run(ctx context.Context, log io.Writer) error {
	if err := o.Validate(); err != nil {
		return err
	}
	discardStandardLog()
	go fitMemory(ctx, cgroupLimits)
	return bundleproxy.Run(ctx, bundleproxy.Options{Listen: o.Listen, RulesPath: o.Rules, Log: log})
}
