// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"botbottle.dev/bottle-operator/internal/preflight"
)

// preflightCluster implements preflight.Cluster with the agent's credentials.
type preflightCluster struct {
	agent   *AgentOptions
	cfg     *rest.Config
	bounded *http.Client
	client  kubernetes.Interface

	mu   sync.Mutex
	date time.Time // of the last answer
}

var _ preflight.Cluster = (*preflightCluster)(nil)

func newPreflightCluster(cfg *rest.Config, agent *AgentOptions) (*preflightCluster, error) {
	c := &preflightCluster{agent: agent, cfg: cfg}
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			response, err := next.RoundTrip(r)
			if err == nil && r.URL.Path == "/version" {
				date, _ := http.ParseTime(response.Header.Get("Date"))
				c.mu.Lock()
				c.date = date
				c.mu.Unlock()
			}
			return response, err
		})
	})
	var err error
	if c.bounded, err = boundedClient(cfg); err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	if c.client, err = kubernetes.NewForConfigAndClient(cfg, c.bounded); err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	return c, nil
}

// Time implements preflight.Cluster.
func (c *preflightCluster) Time(ctx context.Context) (time.Time, error) {
	if err := checkKubernetes(ctx, c.client.CoreV1().RESTClient()); err != nil {
		return time.Time{}, errors.New(problemOf(c.agent.explain(c.cfg, err)))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.date.IsZero() {
		return time.Time{}, errors.New("its answer has no Date header; something between the node and the API server removes it")
	}
	return c.date, nil
}

// Identity implements preflight.Cluster.
func (c *preflightCluster) Identity(ctx context.Context) error {
	_, err := c.agent.identity(ctx, c.cfg, c.bounded)
	var identity *identityError
	if err == nil || errors.As(err, &identity) {
		return err
	}
	return fmt.Errorf("%s: make a token for this node (docs/install.md)", problemOf(err))
}

// Resources implements preflight.Cluster.
func (c *preflightCluster) Resources(_ context.Context, groupVersion string) ([]metav1.APIResource, error) {
	list, err := c.client.Discovery().ServerResourcesForGroupVersion(groupVersion)
	if err != nil {
		return nil, shorten(err)
	}
	return list.APIResources, nil
}

// Policy implements preflight.Cluster.
func (c *preflightCluster) Policy(ctx context.Context, name string) (*admissionv1.ValidatingAdmissionPolicy, error) {
	p, err := c.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(ctx, name, metav1.GetOptions{})
	return p, shorten(err)
}

// Binding implements preflight.Cluster.
func (c *preflightCluster) Binding(ctx context.Context, name string) (*admissionv1.ValidatingAdmissionPolicyBinding, error) {
	b, err := c.client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Get(ctx, name, metav1.GetOptions{})
	return b, shorten(err)
}

// shorten replaces the text of an error that the API server did not explain.
func shorten(err error) error {
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return err
	}
	return errors.New(problemOf(err))
}
