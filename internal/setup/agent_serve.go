// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/client-go/rest"

	"botbottle.dev/bottle-operator/internal/metricsauth"
)

// serve serves health and metrics until ctx ends, whether or not the API server
// can be reached; metrics that are restricted to authorized users need the API server,
// which cfg names. serve returns an error if it cannot listen on an address. If a server
// fails later, serve calls fail, which ends the agent.
func (o *AgentOptions) serve(ctx context.Context, cfg *rest.Config, health http.Handler, metrics prometheus.Gatherer, fail context.CancelCauseFunc) error {
	handler, config, err := o.secured(cfg, metricsHandler(metrics))
	if err != nil {
		return err
	}
	for _, s := range []struct {
		flag, address string
		handler       http.Handler
		tls           *tls.Config // nil means no TLS
	}{
		{"health-probe-bind-address", o.HealthAddress, health, nil},
		{"metrics-bind-address", o.Metrics.Address, handler, config},
	} {
		if s.address == "" || s.address == "0" {
			continue
		}
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.address)
		if err != nil {
			return fmt.Errorf("--%s: %w", s.flag, err)
		}
		server := &http.Server{Handler: s.handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 90 * time.Second, MaxHeaderBytes: 64 << 10}
		server.ErrorLog = log.New(io.Discard, "", 0) // strangers could fill the log
		if s.tls != nil {
			listener = tls.NewListener(listener, s.tls)
		}
		context.AfterFunc(ctx, func() { _ = server.Close() }) // the process is ending
		go func() {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				fail(fmt.Errorf("--%s: %w", s.flag, err))
			}
		}()
	}
	return nil
}

// secured returns what serves the metrics: h itself, or, if the options say so, a handler
// that admits only authorized users, with its TLS configuration.
func (o *AgentOptions) secured(cfg *rest.Config, h http.Handler) (http.Handler, *tls.Config, error) {
	if !o.Metrics.enabled() || !o.Metrics.isSecure() {
		return h, nil, nil
	}
	c, err := boundedClient(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	guard, err := metricsauth.New(cfg, c)
	if err != nil {
		return nil, nil, fmt.Errorf("--metrics-secure: %w", err)
	}
	config, err := selfSigned()
	return guard.Wrap(h), config, err
}

// metricsHandler serves /metrics. It omits metrics that cannot be collected, such
// as those of Bottles that have not been read yet, and serves the rest.
func metricsHandler(metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	return mux
}

// healthHandler serves /healthz, which is ok until guarding is closed, and
// /readyz, which is ok once the agent no longer waits for the API server.
func healthHandler(guarding <-chan struct{}, api *apiServer) http.Handler {
	mux := http.NewServeMux()
	check := func(path string, problem func(ctx context.Context) string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), time.Second)
			defer cancel()
			if text := problem(ctx); text != "" {
				http.Error(w, text, http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(w, "ok")
		})
	}
	check("/healthz", func(context.Context) string {
		select {
		case <-guarding:
			return "nothing guards the machines"
		default:
			return ""
		}
	})
	check("/readyz", func(ctx context.Context) string {
		if problem := api.waiting(ctx); problem != "" {
			return "waiting for the API server: " + problem
		}
		return ""
	})
	return mux
}
