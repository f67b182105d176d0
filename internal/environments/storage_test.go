// SPDX-License-Identifier: Apache-2.0

package environments

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/tools/cache"

	"botbottle.dev/bottle-operator/api/subresources/v1alpha1"
)

const testAgent = "system:serviceaccount:bottle-system:bottle-agent"

// as returns the context of a request by the agents' account with a token that is
// bound to these Nodes.
func as(t *testing.T, nodes ...string) context.Context {
	return request.WithUser(request.WithNamespace(t.Context(), ""), &user.DefaultInfo{
		Name: testAgent, Extra: map[string][]string{extraNode: nodes}})
}

// asUser returns the context of a request by another account, with a token that is bound to
// node-1, as every Pod there has one.
func asUser(t *testing.T, name string) context.Context {
	return request.WithUser(request.WithNamespace(t.Context(), ""), &user.DefaultInfo{Name: name, Extra: map[string][]string{extraNode: {"node-1"}}})
}

func names(t *testing.T, r *Storage, ctx context.Context, options *internalversion.ListOptions) (string, error) {
	t.Helper()
	list, err := r.List(ctx, options)
	if err != nil {
		return "", err
	}
	var out []string
	for _, env := range list.(*v1alpha1.BottleEnvironmentList).Items {
		out = append(out, env.Namespace+"/"+env.Name)
	}
	return strings.Join(out, " "), nil
}

func TestTheCallersNodeDecides(t *testing.T) {
	s, _ := newWorld()
	r := NewStorage(s, testAgent)
	s.put(bottle("a", "ua", "node-1", "s"))
	s.put(bottle("b", "ub", "node-2", "s"))
	elsewhere := bottle("c", "uc", "node-1", "s")
	elsewhere.Namespace = "other"
	s.put(elsewhere)
	for name, tt := range map[string]struct {
		ctx     context.Context
		options *internalversion.ListOptions
		want    string
	}{
		"node-1":           {as(t, "node-1"), nil, "default/a other/c"},
		"node-2":           {as(t, "node-2"), nil, "default/b"},
		"one namespace":    {request.WithNamespace(as(t, "node-1"), "other"), nil, "other/c"},
		"one name":         {as(t, "node-1"), &internalversion.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", "a")}, "default/a"},
		"a name of node-2": {as(t, "node-1"), &internalversion.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", "b")}, ""},
	} {
		if got, err := names(t, r, tt.ctx, tt.options); err != nil || got != tt.want {
			t.Errorf("%s: got %q and %v, want %q", name, got, err, tt.want)
		}
	}
	for name, ctx := range map[string]context.Context{
		"no user":      t.Context(),
		"no Node":      as(t),
		"an empty one": as(t, ""),
		"two Nodes":    as(t, "node-1", "node-2"),

		"a Pod's account":            asUser(t, "system:serviceaccount:team:all-of-bottles"),
		"an account of that name":    asUser(t, "system:serviceaccount:team:bottle-agent"),
		"the manager":                asUser(t, "system:serviceaccount:bottle-system:bottle-manager"),
		"a name that begins like it": asUser(t, testAgent+"-2"),
	} {
		_, listErr := r.List(ctx, nil)
		_, watchErr := r.Watch(ctx, nil)
		if !apierrors.IsForbidden(listErr) || !apierrors.IsForbidden(watchErr) {
			t.Errorf("%s: got %v and %v, want both refused", name, listErr, watchErr)
		}
		if name == "no Node" && !strings.Contains(listErr.Error(), "--bound-object-kind Node") {
			t.Errorf("got %q, want it to say how to get such a token", listErr)
		}
	}
	if _, err := r.List(as(t, "node-1"), &internalversion.ListOptions{FieldSelector: fields.OneTermEqualSelector("bottleUID", "x")}); !apierrors.IsBadRequest(err) {
		t.Errorf("unknown field: got %v, want a bad request", err)
	}
}

// bottles is an informer that is not synced before done is true.
type bottles struct {
	cache.ResourceEventHandlerRegistration
	done bool
}

func (b *bottles) AddEventHandler(cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	return b, nil
}
func (b *bottles) HasSynced() bool { return b.done }

func TestNothingIsServedBeforeAllBottlesAreKnown(t *testing.T) {
	s, _ := newWorld()
	informer := &bottles{}
	if err := s.Follow(informer); err != nil {
		t.Fatal(err)
	}
	r := NewStorage(s, testAgent)
	if _, err := r.Watch(as(t, "node-1"), nil); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("got %v, want it to be unavailable", err)
	}
	informer.done = true
	if _, err := r.Watch(as(t, "node-1"), nil); err != nil {
		t.Errorf("got %v, want a watch", err)
	}
}

func TestTheTableHasNoValues(t *testing.T) {
	s, o := newWorld()
	o.putSecret("s", map[string]string{"token": "hush"})
	s.put(bottle("a", "ua", "node-1", "s", "missing"))
	r := NewStorage(s, testAgent)
	list, err := r.List(as(t, "node-1"), nil)
	if err != nil {
		t.Fatal(err)
	}
	table, err := r.ConvertToTable(t.Context(), list, nil)
	if err != nil {
		t.Fatal(err)
	}
	cells, err := json.Marshal(table.Rows[0].Cells)
	if err != nil || string(cells) != `["a","1/2",1]` {
		t.Errorf("cells: got %s and %v, want the name, 1/2 and the generation", cells, err)
	}
}
