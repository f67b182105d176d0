// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

const testNode = "node-a"

// world is a node and an API server that records patches.
type world struct {
	client.Client
	facts hosttest.Facts
	// maxBottles is the agent's flag --max-bottles.
	maxBottles int
	clock      *testclock.FakeClock
	writes     []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{maxBottles: 250, clock: testclock.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))}
	w.Client = fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithStatusSubresource(&corev1.Node{}).
		WithInterceptorFuncs(interceptor.Funcs{
			Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
				w.writes = append(w.writes, "patch "+obj.GetName())
				return c.Patch(ctx, obj, patch, opts...)
			},
			SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
				w.writes = append(w.writes, "patch "+sub)
				return c.SubResource(sub).Patch(ctx, obj, patch, opts...)
			},
		}).Build()
	return w
}

func (w *world) reconciler() *Reconciler {
	return New(Options{Client: w.Client, Facts: NewFacts(&w.facts, w.clock), Node: testNode, MaxBottles: w.maxBottles})
}
