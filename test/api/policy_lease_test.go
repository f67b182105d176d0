// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/test/api/apienv"
)

// The agents' ServiceAccount may write the agents' Leases, but not the managers'
// leader election Lease, which is in the same namespace.
func TestAgentLeases(t *testing.T) {
	cfg := apienv.Start(t)
	c := apienv.Client(t, cfg)
	agent := apienv.Client(t, apienv.AsServiceAccount(cfg, "bottle-agent"))
	lease := func(name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: apienv.SystemNamespace, Name: name}}
	}
	// The policy takes effect a moment after its creation.
	gomega.NewWithT(t).Eventually(func() error {
		return agent.Create(t.Context(), lease("probe"), client.DryRunAll)
	}, 20*time.Second, 50*time.Millisecond).Should(gomega.MatchError(gomega.ContainSubstring("may write only Leases")))

	for name, allowed := range map[string]bool{
		"bottle-agent-policy-test":   true,
		"bottle-manager-policy-test": false,
		"bottle-agent":               false,
	} {
		t.Run(name, func(t *testing.T) {
			check := func(verb string, err error) {
				t.Helper()
				switch {
				case allowed && err != nil:
					t.Errorf("%s: got %v, want it allowed", verb, err)
				case !allowed && (!apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "may write only Leases")):
					t.Errorf("%s: got %v, want it refused by the policy", verb, err)
				}
			}
			check("create", agent.Create(t.Context(), lease(name), client.DryRunAll))
			existing := lease(name)
			must(t, c.Create(t.Context(), existing))
			defer func() { must(t, c.Delete(t.Context(), existing)) }()
			changed := existing.DeepCopy()
			changed.Spec.HolderIdentity = ptr.To("stolen")
			check("update", agent.Update(t.Context(), changed, client.DryRunAll))
		})
	}
}
