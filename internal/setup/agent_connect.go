// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/state"
)

const (
	// requestTimeout bounds each request that the agent makes while it starts.
	requestTimeout = 15 * time.Second
	// noTimeout is longer than any outage of the API server. It is used where an
	// outage must not end the agent.
	noTimeout = 10 * 365 * 24 * time.Hour
)

// retryPauses returns the pauses between attempts to reach the API server. They
// start at one second and double up to ten.
func retryPauses() wait.Backoff {
	return wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.2, Steps: 100, Cap: 10 * time.Second}
}

// apiServer is what the agent knows about its connection to the API server.
type apiServer struct {
	connected prometheus.Gauge

	mu      sync.Mutex
	problem string                         // why the agent waits; "" when it does not
	synced  func(ctx context.Context) bool // nil until the manager exists
}

// newAPIServer observes the requests of all clients that are created from cfg
// after this call.
func newAPIServer(cfg *rest.Config, registry prometheus.Registerer) (*apiServer, error) {
	a := &apiServer{problem: "it has not been contacted yet", connected: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "bottle_agent_api_server_connected",
		Help: "Whether the API server answers the agent's requests (1) or not (0).",
	})}
	if err := registry.Register(a.connected); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			response, err := next.RoundTrip(r)
			a.observe(r, response, err)
			return response, err
		})
	})
	return a, nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// observe records how a request ended. It ignores requests that the agent itself
// cancelled, because they say nothing about the API server.
func (a *apiServer) observe(r *http.Request, response *http.Response, err error) {
	switch {
	case err != nil && errors.Is(r.Context().Err(), context.Canceled):
	case err != nil, response.StatusCode == http.StatusUnauthorized, response.StatusCode >= http.StatusInternalServerError:
		a.connected.Set(0)
	default:
		a.connected.Set(1)
	}
}

// waiting returns why the agent cannot work yet, or "" if it can.
func (a *apiServer) waiting(ctx context.Context) string {
	a.mu.Lock()
	problem, synced := a.problem, a.synced
	a.mu.Unlock()
	if problem == "" && (synced == nil || !synced(ctx)) {
		problem = "the node's Bottles have not been read yet"
	}
	return problem
}

// setProblem records why the agent waits; "" means that it does not.
func (a *apiServer) setProblem(problem string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.problem = problem
}

// setSynced sets the function that reports whether the node's Bottles have been
// read.
func (a *apiServer) setSynced(synced func(ctx context.Context) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.synced = synced
}

// permanentError is an error that an outage of the API server cannot cause.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// retry calls attempt, with growing pauses, until it succeeds or returns a
// permanentError, or until ctx ends. It logs a failure unless it is the same
// problem as the last one logged.
func (a *apiServer) retry(ctx context.Context, attempt func(ctx context.Context) error) error {
	pauses := retryPauses()
	logged := ""
	for {
		err := attempt(ctx)
		if err == nil || errors.As(err, new(permanentError)) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		problem := problemOf(err)
		a.setProblem(problem)
		if problem != logged {
			ctrl.Log.Error(err, "Waiting for the API server; machines and walls are still guarded", "reason", problem)
			logged = problem
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pauses.Step()):
		}
	}
}

// connection is what the agent learns from the API server when it connects.
type connection struct {
	mgr       ctrl.Manager
	cluster   string // the UID of the namespace kube-system
	namespace string // of the agent's Lease
}

// connect waits for the API server, and for credentials that are those of this
// node's agent. The error is a permanentError or ctx.Err().
func (o *AgentOptions) connect(ctx context.Context, cfg *rest.Config, dir *state.Dir, api *apiServer) (c connection, err error) {
	err = api.retry(ctx, func(ctx context.Context) error {
		// A client caches the token for a minute. Each attempt has a client of its own,
		// so that a new token helps at once.
		bounded, err := boundedClient(cfg)
		if err != nil {
			return permanentError{fmt.Errorf("--kubeconfig: %w", err)}
		}
		core, err := corev1client.NewForConfigAndClient(cfg, bounded)
		if err != nil {
			return permanentError{fmt.Errorf("--kubeconfig: %w", err)}
		}
		if err := checkKubernetes(ctx, core.RESTClient()); err != nil {
			return o.explain(cfg, err)
		}
		if c.namespace, err = o.identity(ctx, cfg, bounded); err != nil {
			return err
		}
		system, err := core.Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("identity of the cluster: %w", err)
		}
		c.cluster = string(system.UID)
		if err := dir.ClaimCluster(c.cluster); err != nil {
			return permanentError{err}
		}
		c.mgr, err = o.newManager(cfg)
		return err
	})
	if err == nil {
		if o.Namespace != "" {
			c.namespace = o.Namespace
		}
		api.setProblem("")
		ctrl.Log.Info("Connected to the API server", "cluster", c.cluster, "namespace", c.namespace)
	}
	return c, err
}

// newManager returns a manager that caches only this node's Bottles and its Node.
func (o *AgentOptions) newManager(cfg *rest.Config) (ctrl.Manager, error) {
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme: scheme,
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				&v1alpha1.Bottle{}: {Field: fields.OneTermEqualSelector("status.nodeName", o.NodeName)},
				&corev1.Node{}:     {Field: fields.OneTermEqualSelector("metadata.name", o.NodeName)},
			},
		},
		MapperProvider: boundedMapper,
		// The agent serves both itself; see serve.
		Metrics:                metricsserver.Options{BindAddress: "0"},
		HealthProbeBindAddress: "0",
		// The agent must not end if the API server fails before the caches sync.
		Controller:              config.Controller{CacheSyncTimeout: noTimeout},
		GracefulShutdownTimeout: ptr.To(25 * time.Second),
	})
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	return mgr, nil
}

// boundedClient returns a client for single requests, with requestTimeout. Do not
// use it for watches.
func boundedClient(cfg *rest.Config) (*http.Client, error) {
	unbounded, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, err
	}
	bounded := *unbounded
	bounded.Timeout = requestTimeout
	return &bounded, nil
}

// boundedMapper reads the API server's kinds, with requestTimeout.
func boundedMapper(cfg *rest.Config, _ *http.Client) (meta.RESTMapper, error) {
	bounded, err := boundedClient(cfg)
	if err != nil {
		return nil, err
	}
	return apiutil.NewDynamicRESTMapper(cfg, bounded)
}

// problemOf describes in a fixed phrase why the API server cannot be used. An
// error's own text can be long and may quote what a proxy or a credential plugin
// wrote, so it goes only to the log.
func problemOf(err error) string {
	var status apierrors.APIStatus
	var name *net.DNSError
	var timeout net.Error
	var identity *identityError
	var old tooOldError
	switch {
	case errors.As(err, &identity):
		return identity.problem
	case errors.As(err, &old):
		return old.Error()
	case apierrors.IsUnauthorized(err):
		return "it does not accept the agent's credentials"
	case apierrors.IsForbidden(err):
		return "it does not permit the agent to read what it needs"
	case meta.IsNoMatchError(err):
		return "it does not know Bottles: the CustomResourceDefinition is missing"
	case errors.As(err, &status) && status.Status().Code > 0:
		return fmt.Sprintf("it answers with status %d", status.Status().Code)
	case untrusted(err):
		return "its certificate is not trusted"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "it refuses connections"
	case errors.As(err, &name):
		return "its host name cannot be resolved"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "it does not answer in time"
	}
	return "it cannot be reached; the log has the error"
}

func untrusted(err error) bool {
	return errors.As(err, new(*tls.CertificateVerificationError)) || errors.As(err, new(x509.UnknownAuthorityError)) ||
		errors.As(err, new(x509.HostnameError)) || errors.As(err, new(x509.CertificateInvalidError))
}
