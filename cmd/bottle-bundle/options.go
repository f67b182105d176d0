// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"os"
	"os/signal"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/bundleproxy"
)

// options are the flags.
type options struct {
	rules, listen          string
	networkInterface       string
	secretsDir, upstreamCA string
	ignoreTerm             bool
	memory                 int64
}

func (o *options) bind(fs *pflag.FlagSet) {
	fs.StringVar(&o.rules, "rules", "", "file with the egress rules; it is reloaded when it changes")
	fs.StringVar(&o.secretsDir, "secrets-dir", "/run/bottle-broker", "folder with the Bottle's authority and the values of its Secrets; its files are reloaded when they change")
	fs.StringVar(&o.upstreamCA, "upstream-ca", "", "PEM file with the authorities that opened hosts may have beside the public ones; it may be missing, and is reloaded when it changes")
	fs.BoolVar(&o.ignoreTerm, "ignore-sigterm", false, "keep serving after SIGTERM until the container is killed: in a Pod that ends, the guest may need the bundle until the guest itself has ended")
	fs.Int64Var(&o.memory, "memory-limit", 0, "bytes of memory that the bundle keeps to if its container may use more, as in a Pod whose limit also covers a machine; 0 means the container's limit")
	fs.StringVar(&o.listen, "listen", ":8888", "TCP address to listen on")
	fs.StringVar(&o.networkInterface, "interface", "", "serve only connections to the addresses of this network interface, which may come and go. In a Pod, it is the bridge that leads to the guest, so other Pods, which connect to the Pod's own address, are not served. If empty, serve all connections")
}

// validate returns an error that names everything that is invalid.
func (o *options) validate(args []string) error {
	var errs []error
	if len(args) > 0 {
		errs = append(errs, fmt.Errorf("got the argument %q: there are only flags", args[0]))
	}
	if o.rules == "" {
		errs = append(errs, errors.New("--rules: required"))
	}
	if _, _, err := net.SplitHostPort(o.listen); err != nil {
		errs = append(errs, fmt.Errorf("--listen %q: want HOST:PORT or :PORT", o.listen))
	}
	if o.memory < 0 {
		errs = append(errs, fmt.Errorf("--memory-limit %d: want a number of bytes, or 0", o.memory))
	}
	return errors.Join(errs...)
}

// run runs the proxy until ctx ends. It writes one line to log for each decision.
func (o *options) run(ctx context.Context, log io.Writer) error {
	// net/http writes there what servers send without a request, and what is wrong with
	// a guest's connections. Servers and guests could cause any number of such lines.
	stdlog.SetOutput(io.Discard)
	go fitMemory(ctx, o.memory, cgroupLimits)
	ctx, stop := signal.NotifyContext(ctx, o.signals()...)
	defer stop()
	return bundleproxy.Run(ctx, bundleproxy.Options{
		Listen: o.listen, Interface: o.networkInterface, RulesPath: o.rules, SecretsDir: o.secretsDir, UpstreamCA: o.upstreamCA, Log: log,
	})
}

// signals returns the signals that end the proxy.
func (o *options) signals() []os.Signal {
	if o.ignoreTerm {
		signal.Ignore(unix.SIGTERM)
		return []os.Signal{unix.SIGINT}
	}
	return []os.Signal{unix.SIGTERM, unix.SIGINT}
}
