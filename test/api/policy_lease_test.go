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

// An agent's account writes Leases of agents, and not the one by which the
// manager elects its leader, which is in the same namespace.
func TestAgentLeases(t *testing.T) {
	cfg := apienv.Start(t)
	c := apienv.Client(t, cfg)
	agent := apienv.Client(t, apienv.AsServiceAccount(cfg, "bottle-agent"))
	lease := func(name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: apienv.SystemNamespace, Name: name}}
	}
	// The policy takes effect a moment after it was created.
	gomega.NewWithT(t).Eventually(func() error {
		return agent.Create(t.Context(), lease("probe"), client.DryRunAll)
	}, 20*time.Second, 50*time.Millisecond).Should(gomega.MatchError(gomega.ContainSubstring("writes no Lease but")))

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
				case !allowed && (!apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "writes no Lease but")):
					t.Errorf("%s: got %v, want it refused by the policy", verb, err)
				}
			}
			check("create", agent.Create(t.Context(), lease(name), client.DryRunAll))
			there := lease(name)
			must(t, c.Create(t.Context(), there))
			defer func() { must(t, c.Delete(t.Context(), there)) }()
			changed := there.DeepCopy()
			changed.Spec.HolderIdentity = ptr.To("stolen")
			check("update", agent.Update(t.Context(), changed, client.DryRunAll))
		})
	}
}
