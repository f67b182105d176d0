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
	const notAnAddress = "must be IP:PORT"
	addressed := func(address string) func(*coordinationv1.Lease) {
		return func(l *coordinationv1.Lease) {
			l.Annotations = map[string]string{"botbottle.dev/agent-address": address}
		}
	}
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
		"with its address":          {"bottle-agent-lease-test", addressed("10.0.0.5:9443"), ""},
		"with an IPv6 address":      {"bottle-agent-lease-test", addressed("[fd00::5]:9443"), ""},
		"with the longest address":  {"bottle-agent-lease-test", addressed("[2001:db80:1111:2222:3333:4444:5555:6666]:65535"), ""},
		"with another annotation":   {"bottle-agent-lease-test", func(l *coordinationv1.Lease) { l.Annotations = map[string]string{"a": "b"} }, "metadata"},
		"with a loopback address":   {"bottle-agent-lease-test", addressed("127.0.0.1:9443"), notAnAddress},
		"with IPv6's loopback":      {"bottle-agent-lease-test", addressed("[::1]:9443"), notAnAddress},
		"with a metadata service":   {"bottle-agent-lease-test", addressed("169.254.169.254:80"), notAnAddress},
		"with no port":              {"bottle-agent-lease-test", addressed("10.0.0.5"), notAnAddress},
		"with port 0":               {"bottle-agent-lease-test", addressed("10.0.0.5:0"), notAnAddress},
		"with port 65536":           {"bottle-agent-lease-test", addressed("10.0.0.5:65536"), notAnAddress},
		"with a name":               {"bottle-agent-lease-test", addressed("kubernetes.default:443"), notAnAddress},
		"with four numbers, no IP":  {"bottle-agent-lease-test", addressed("10.0.0.999:9443"), notAnAddress},
		"with a zone":               {"bottle-agent-lease-test", addressed("[fd00::5%eth0]:9443"), notAnAddress},
		"with more after the port":  {"bottle-agent-lease-test", addressed("10.0.0.5:9443/x"), notAnAddress},
		"with a newline at the end": {"bottle-agent-lease-test", addressed("10.0.0.5:9443\n"), notAnAddress},
		"with an empty address":     {"bottle-agent-lease-test", addressed(""), notAnAddress},
		"with a label":              {"bottle-agent-lease-test", func(l *coordinationv1.Lease) { l.Labels = map[string]string{"a": "b"} }, "metadata"},
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

// An agent may remove its address again, but not what others have written.
func TestAgentLeaseAnnotations(t *testing.T) {
	cfg := apienv.Start(t)
	c := apienv.Client(t, cfg)
	agent := apienv.Client(t, apienv.AsAgent(cfg, "lease-notes"))
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: apienv.SystemNamespace, Name: "bottle-agent-lease-notes",
			Annotations: map[string]string{"botbottle.dev/agent-address": "10.0.0.5:9443", "note": "by an administrator"},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To("lease-notes"), LeaseDurationSeconds: ptr.To[int32](40)},
	}
	must(t, c.Create(t.Context(), lease))
	defer func() { must(t, c.Delete(t.Context(), lease)) }()
	update := func(annotations map[string]string) error {
		changed := lease.DeepCopy()
		changed.Annotations = annotations
		return agent.Update(t.Context(), changed, client.DryRunAll)
	}
	// The policy takes effect a moment after its creation.
	gomega.NewWithT(t).Eventually(func() error { return update(nil) }, 20*time.Second, 50*time.Millisecond).
		Should(gomega.MatchError(gomega.ContainSubstring("metadata")))
	if err := update(map[string]string{"note": "by the agent"}); err == nil {
		t.Error("another's annotation changed: got no error, want it refused")
	}
	if err := update(map[string]string{"note": "by an administrator"}); err != nil {
		t.Errorf("its address removed: got %v, want it allowed", err)
	}
}
