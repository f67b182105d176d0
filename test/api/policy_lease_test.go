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

// An agent may write its own Lease, but not another agent's, nor the managers'
// leader election Lease, which is in the same namespace.
func TestAgentLeases(t *testing.T) {
	cfg := apienv.Start(t)
	c := apienv.Client(t, cfg)
	agent := apienv.Client(t, apienv.AsAgent(cfg, "lease-test"))
	lease := func(name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: apienv.SystemNamespace, Name: name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: ptr.To("lease-test"), LeaseDurationSeconds: ptr.To[int32](40)},
		}
	}
	const own = "may write only its own Lease"
	// The policy takes effect a moment after its creation.
	gomega.NewWithT(t).Eventually(func() error {
		return agent.Create(t.Context(), lease("probe"), client.DryRunAll)
	}, 20*time.Second, 50*time.Millisecond).Should(gomega.MatchError(gomega.ContainSubstring(own)))

	for name, tc := range map[string]struct {
		name   string
		change func(*coordinationv1.Lease)
		want   string // "" means allowed
	}{
		"its own":          {"bottle-agent-lease-test", nil, ""},
		"another agent's":  {"bottle-agent-lease-test-2", nil, own},
		"the managers'":    {"bottle-manager-lease-test", nil, own},
		"none's":           {"bottle-agent", nil, own},
		"another holder":   {"bottle-agent-lease-test", func(l *coordinationv1.Lease) { l.Spec.HolderIdentity = ptr.To("node-b") }, "its holder"},
		"valid for a day":  {"bottle-agent-lease-test", func(l *coordinationv1.Lease) { l.Spec.LeaseDurationSeconds = ptr.To[int32](86400) }, "60 seconds"},
		"without duration": {"bottle-agent-lease-test", func(l *coordinationv1.Lease) { l.Spec.LeaseDurationSeconds = nil }, "60 seconds"},
		"with a finalizer": {"bottle-agent-lease-test", func(l *coordinationv1.Lease) { l.Finalizers = []string{"x.example/y"} }, "metadata"},
		"with an owner": {"bottle-agent-lease-test", func(l *coordinationv1.Lease) {
			l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n", UID: "u"}}
		}, "metadata"},
		"with a label": {"bottle-agent-lease-test", func(l *coordinationv1.Lease) { l.Labels = map[string]string{"a": "b"} }, "metadata"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.change == nil {
				tc.change = func(l *coordinationv1.Lease) { l.Spec.RenewTime = ptr.To(metav1.NowMicro()) }
			}
			check := func(verb string, err error) {
				t.Helper()
				switch {
				case tc.want == "" && err != nil:
					t.Errorf("%s: got %v, want it allowed", verb, err)
				case tc.want != "" && (!apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tc.want)):
					t.Errorf("%s: got %v, want it refused with %q", verb, err, tc.want)
				}
			}
			created := lease(tc.name)
			tc.change(created)
			check("create", agent.Create(t.Context(), created, client.DryRunAll))
			existing := lease(tc.name)
			must(t, c.Create(t.Context(), existing))
			defer func() { must(t, c.Delete(t.Context(), existing)) }()
			changed := existing.DeepCopy()
			tc.change(changed)
			check("update", agent.Update(t.Context(), changed, client.DryRunAll))
		})
	}
}
