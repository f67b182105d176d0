// SPDX-License-Identifier: Apache-2.0

package nodebottles_test

import (
	"context"
	"errors"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/nodebottles"
)

func TestGet(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	bottle := func(name string, node *string) *v1alpha1.Bottle {
		return &v1alpha1.Bottle{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: name}, Status: v1alpha1.BottleStatus{NodeName: node}}
	}
	down := errors.New("the cache is not there")
	c := fake.NewClientBuilder().WithScheme(scheme).
		WithObjects(bottle("here", ptr.To("node-1")), bottle("elsewhere", ptr.To("node-2")), bottle("nowhere", nil)).
		WithInterceptorFuncs(interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, k client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if k.Name == "unread" {
				return down
			}
			return c.Get(ctx, k, o, opts...)
		}}).Build()
	for name, want := range map[string]struct {
		found bool
		err   error
	}{"here": {found: true}, "elsewhere": {}, "nowhere": {}, "absent": {}, "unread": {err: down}} {
		b, err := nodebottles.Get(t.Context(), c, types.NamespacedName{Namespace: "team", Name: name}, "node-1")
		if found := b != nil && b.Name == name; found != want.found || !errors.Is(err, want.err) {
			t.Errorf("%s: got %v, %v, want found %t, %v", name, b, err, want.found, want.err)
		}
	}
}
