// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/surroundings"
	"botbottle.dev/bottle-operator/test/api/apienv"
)

// With the rights of config/rbac, and no more, an agent finds out which networks the
// cluster uses.
func TestAgentFindsTheClustersNetworks(t *testing.T) {
	cfg := apienv.Start(t)
	c := apienv.Client(t, cfg)
	other := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "other-of-" + strings.ToLower(t.Name())}, Spec: corev1.NodeSpec{PodCIDR: "192.168.77.0/24", PodCIDRs: []string{"192.168.77.0/24"}}}
	if err := c.Create(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Delete(context.Background(), other) })
	other.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.78.9"}}
	if err := c.Status().Update(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	// The API server makes its own Service and EndpointSlice after it has started.
	service := &corev1.Service{}
	own := types.NamespacedName{Namespace: "default", Name: "kubernetes"}
	gomega.NewWithT(t).Eventually(func() error { return c.Get(t.Context(), own, service) }, time.Minute, 100*time.Millisecond).Should(gomega.Succeed())

	agent := apienv.Client(t, apienv.AsAgent(cfg, "n"))
	gomega.NewWithT(t).Eventually(func() string {
		s, err := surroundings.New(surroundings.Options{
			Resolve: func(context.Context, string) ([]netip.Addr, error) { return nil, nil },
			Routes:  func() ([]surroundings.Route, error) { return nil, nil },
			Clock:   clock.RealClock{}, Log: logr.Discard(),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s.FollowCluster(ctx, agent)
		var text strings.Builder
		for _, r := range s.Reserved() {
			text.WriteString(r.String() + "\n")
		}
		return text.String()
	}, time.Minute, time.Second).Should(gomega.And(
		gomega.ContainSubstring("192.168.77.0/24 (the Pod network of Node "+other.Name+")\n"),
		gomega.ContainSubstring("192.168.78.9/32 (an address of Node "+other.Name+")\n"),
		gomega.ContainSubstring(service.Spec.ClusterIP+"/32 (the API server)\n"),
		gomega.ContainSubstring("(the Service network)\n"),
	))

	// It may read no other Service.
	if err := agent.Get(t.Context(), types.NamespacedName{Namespace: "default", Name: "other"}, &corev1.Service{}); !apierrors.IsForbidden(err) {
		t.Errorf("another Service: got %v, want Forbidden", err)
	}
}
