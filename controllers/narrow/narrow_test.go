// SPDX-License-Identifier: Apache-2.0

package narrow_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/controllers/narrow"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/host"
)

const node = "node-a"

// enforcement narrows nothing: the calls for all Bottles but one hang.
type enforcement struct {
	served chan struct{} // closed by the call for that one
}

func (e enforcement) Narrow(ctx context.Context, owner host.Owner, _ enforce.Reach) error {
	if owner.Name == "last" {
		close(e.served)
		return nil
	}
	<-ctx.Done()
	return nil
}

// informers are those of a manager without an API server. They pass on the handler of the
// only controller.
type informers struct {
	*informertest.FakeInformers
	added chan toolscache.ResourceEventHandler
}

func (i informers) GetInformer(ctx context.Context, o client.Object, options ...cache.InformerGetOption) (cache.Informer, error) {
	one, err := i.FakeInformers.GetInformer(ctx, o, options...)
	return informer{one, i.added}, err
}

type informer struct {
	cache.Informer
	added chan toolscache.ResourceEventHandler
}

func (i informer) AddEventHandlerWithOptions(h toolscache.ResourceEventHandler, o toolscache.HandlerOptions) (toolscache.ResourceEventHandlerRegistration, error) {
	registered, err := i.Informer.AddEventHandlerWithOptions(h, o)
	i.added <- h
	return registered, err
}

// TestABottleWaitsForNoOther checks that a Bottle is narrowed while the disk keeps waiting
// whoever narrows many others.
func TestABottleWaitsForNoOther(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	var bottles []client.Object
	for i := range 100 {
		bottles = append(bottles, bottle(fmt.Sprintf("b-%d", i)))
	}
	bottles = append(bottles, bottle("last"))
	informers := informers{&informertest.FakeInformers{Scheme: scheme}, make(chan toolscache.ResourceEventHandler, 1)}
	api := fake.NewClientBuilder().WithScheme(scheme).WithObjects(bottles...).Build()
	mgr, err := ctrl.NewManager(&rest.Config{}, ctrl.Options{
		Scheme: scheme, Logger: logr.Discard(), Metrics: metricsserver.Options{BindAddress: "0"},
		NewCache:       func(*rest.Config, cache.Options) (cache.Cache, error) { return informers, nil },
		MapperProvider: func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return api.RESTMapper(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	e := enforcement{make(chan struct{})}
	reach := &narrow.Reach{Enforcement: e, BundleStays: func(string) bool { return false },
		Bottles: narrow.Bottles{Client: api, Node: node, Owner: func(b *v1alpha1.Bottle) host.Owner { return host.Owner{Name: b.Name} }}}
	if err := reach.SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	handler := <-informers.added
	for _, b := range bottles {
		handler.OnAdd(b, false)
	}
	select {
	case <-e.served:
	case <-time.After(30 * time.Second):
		t.Error("the last Bottle was not narrowed while the others wait")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

func bottle(name string) *v1alpha1.Bottle {
	b := &v1alpha1.Bottle{}
	b.Namespace, b.Name, b.UID = "default", name, types.UID(name)
	here := node
	b.Status.NodeName = &here
	return b
}
