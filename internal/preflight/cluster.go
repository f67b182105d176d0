// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// Cluster is what the cluster's checks ask the API server. An error's text is shown, so it
// must be short and without secrets.
type Cluster interface {
	// Time returns the API server's clock, to the second. The error says why the API server
	// cannot be used.
	Time(ctx context.Context) (time.Time, error)
	// Identity returns nil if the API server takes the agent for the agent of this node. The
	// error also says what to do.
	Identity(ctx context.Context) error
	// Resources returns the resources of an API version.
	Resources(ctx context.Context, groupVersion string) ([]metav1.APIResource, error)
	// Policy and Binding return what Kubernetes has under a name.
	Policy(ctx context.Context, name string) (*admissionv1.ValidatingAdmissionPolicy, error)
	Binding(ctx context.Context, name string) (*admissionv1.ValidatingAdmissionPolicyBinding, error)
}

// Limits of the difference between the node's clock and the API server's. From the second
// on, certificates and tokens that were just made may not be valid yet on one of the two.
const (
	tolerableSkew = 5 * time.Second
	fatalSkew     = time.Minute
)

// policyNames are the policies that restrict agents to their own node.
var policyNames = []string{"bottle-agent-bottles", "bottle-agent-certificates", "bottle-agent-events", "bottle-agent-identity",
	"bottle-agent-leases", "bottle-agent-nodes", "bottle-agent-tokens"}

// OfCluster returns the checks of the cluster.
func OfCluster(c Cluster) []Check {
	return []Check{
		{"api-server", func(ctx context.Context) (Outcome, string) {
			if _, err := c.Time(ctx); err != nil {
				return Failure, fmt.Sprintf("the API server cannot be used (%v): check --kubeconfig, the route and the firewall between this node and the API server", err)
			}
			return OK, ""
		}},
		{"identity", func(ctx context.Context) (Outcome, string) {
			if err := c.Identity(ctx); err != nil {
				return Failure, err.Error()
			}
			return OK, ""
		}},
		{"clock", func(ctx context.Context) (Outcome, string) { return clock(ctx, c) }},
		{"bottles-api", func(ctx context.Context) (Outcome, string) { return bottlesAPI(ctx, c) }},
		{"policies", func(ctx context.Context) (Outcome, string) { return policies(ctx, c) }},
	}
}

// NoCluster returns the check that takes the place of the cluster's checks if there are no
// credentials.
func NoCluster() Check {
	return Check{"api-server", func(context.Context) (Outcome, string) {
		return Warning, "neither the API server nor the clock was checked: set --kubeconfig and --node-name"
	}}
}

func clock(ctx context.Context, c Cluster) (Outcome, string) {
	asked := time.Now()
	theirs, err := c.Time(ctx)
	if err != nil {
		return Warning, "the node's clock could not be compared with the API server's: see api-server"
	}
	answered := time.Now()
	// The API server read its clock at some moment between the question and the answer, and
	// cut off the fraction of a second.
	var skew time.Duration
	switch {
	case theirs.Add(time.Second).Before(asked):
		skew = asked.Sub(theirs.Add(time.Second))
	case theirs.After(answered):
		skew = answered.Sub(theirs)
	}
	side := "ahead of"
	if skew < 0 {
		side = "behind"
	}
	text := fmt.Sprintf("the node's clock is %s %s the API server's: synchronise it (timedatectl set-ntp true, or chrony)", skew.Abs().Round(time.Second), side)
	switch {
	case skew.Abs() > fatalSkew:
		return Failure, text
	case skew.Abs() > tolerableSkew:
		return Warning, text
	}
	return OK, ""
}

const install = "install the chart, or kubectl apply --server-side -k config/default"

// bottlesAPI checks that the API server knows Bottles as this release does.
func bottlesAPI(ctx context.Context, c Cluster) (Outcome, string) {
	group := v1alpha1.GroupVersion.String()
	resources, err := c.Resources(ctx, group)
	if err != nil && !apierrors.IsNotFound(err) {
		return Failure, fmt.Sprintf("the API server does not say whether it knows Bottles (%v): see api-server", err)
	}
	for _, want := range []string{"bottles", "bottles/status"} {
		if !slices.ContainsFunc(resources, func(r metav1.APIResource) bool { return r.Name == want }) {
			return Failure, fmt.Sprintf("the API server does not know %s of %s, because the CustomResourceDefinition is missing: %s", want, group, install)
		}
	}
	return OK, ""
}

// policies checks that each policy is there, is bound, and denies.
func policies(ctx context.Context, c Cluster) (Outcome, string) {
	var missing []string
	for _, name := range policyNames {
		policy, err := c.Policy(ctx, name)
		var binding *admissionv1.ValidatingAdmissionPolicyBinding
		if err == nil {
			binding, err = c.Binding(ctx, name)
		}
		switch {
		case apierrors.IsNotFound(err):
			missing = append(missing, name)
		case apierrors.IsForbidden(err):
			return Warning, "the agent may not read the policies that restrict it to its own node, so they were not checked: apply the ClusterRole bottle-agent of this release"
		case err != nil:
			return Warning, fmt.Sprintf("the policies that restrict the agent to its own node could not be read (%v): see api-server", err)
		case !denies(policy, binding):
			missing = append(missing, name+" (changed so that it does not deny)")
		}
	}
	if len(missing) > 0 {
		return Failure, fmt.Sprintf("nothing restricts the agent to its own node, because these policies are missing: %s: %s", strings.Join(missing, ", "), install)
	}
	return OK, ""
}

func denies(p *admissionv1.ValidatingAdmissionPolicy, b *admissionv1.ValidatingAdmissionPolicyBinding) bool {
	fails := p.Spec.FailurePolicy == nil || *p.Spec.FailurePolicy == admissionv1.Fail
	return fails && len(p.Spec.Validations) > 0 && b.Spec.PolicyName == p.Name && slices.Contains(b.Spec.ValidationActions, admissionv1.Deny)
}
