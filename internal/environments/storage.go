// SPDX-License-Identifier: Apache-2.0

package environments

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"botbottle.dev/bottle-operator/api/subresources/v1alpha1"
)

// Resource is the name of the resource that a Storage serves.
const Resource = "bottleenvironments"

// extraNode is the key under which the API server says which Node a caller's token is
// bound to.
const extraNode = "authentication.kubernetes.io/node-name"

// Storage serves a Store in an API server, to agents alone: RBAC must allow the request,
// and the caller must be the agents' ServiceAccount, because a role with wildcards also
// allows it to others. The Node that the caller's token is bound to decides what they get.
type Storage struct {
	store *Store
	// agent is the user name of that ServiceAccount.
	agent string
}

var (
	_ rest.Scoper               = &Storage{}
	_ rest.Lister               = &Storage{}
	_ rest.Watcher              = &Storage{}
	_ rest.SingularNameProvider = &Storage{}
)

// NewStorage returns the storage of Resource in the group subresources.botbottle.dev.
// agent is the user name of the agents' ServiceAccount.
func NewStorage(s *Store, agent string) *Storage { return &Storage{store: s, agent: agent} }

// New returns an empty BottleEnvironment.
func (*Storage) New() runtime.Object { return &v1alpha1.BottleEnvironment{} }

// NewList returns an empty list.
func (*Storage) NewList() runtime.Object { return &v1alpha1.BottleEnvironmentList{} }

// Destroy does nothing: the Store belongs to the manager.
func (*Storage) Destroy() {}

// NamespaceScoped returns true.
func (*Storage) NamespaceScoped() bool { return true }

// GetSingularName returns the singular of Resource.
func (*Storage) GetSingularName() string { return "bottleenvironment" }

// List returns the environments of the caller's node.
func (r *Storage) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	node, selects, err := r.request(ctx, options)
	if err != nil {
		return nil, err
	}
	return r.store.list(node, selects), nil
}

// Watch sends the environments of the caller's node, and then their changes. It
// starts with the present state whatever the resourceVersion, because the store keeps
// no history. A client that continues a list is told again what it knows.
func (r *Storage) Watch(ctx context.Context, options *internalversion.ListOptions) (watch.Interface, error) {
	node, selects, err := r.request(ctx, options)
	if err != nil {
		return nil, err
	}
	w, err := r.store.watch(ctx, node, options != nil && options.AllowWatchBookmarks, selects)
	if err != nil {
		return nil, apierrors.NewTooManyRequests(err.Error(), 5)
	}
	return w, nil
}

// request returns the caller's node, and what the caller selects.
func (r *Storage) request(ctx context.Context, options *internalversion.ListOptions) (string, func(*v1alpha1.BottleEnvironment) bool, error) {
	node, err := r.callerNode(ctx)
	if err != nil {
		return "", nil, apierrors.NewForbidden(v1alpha1.GroupVersion.WithResource(Resource).GroupResource(), "", err)
	}
	selects, err := selector(request.NamespaceValue(ctx), options)
	if err != nil {
		return "", nil, apierrors.NewBadRequest(err.Error())
	}
	if !r.store.HasSynced() {
		// An empty answer would mean that no Bottle names anything.
		return "", nil, apierrors.NewServiceUnavailable("this replica of the manager does not know all Bottles yet")
	}
	return node, selects, nil
}

// callerNode returns the Node that the agent's token is bound to.
func (r *Storage) callerNode(ctx context.Context) (string, error) {
	user, ok := request.UserFrom(ctx)
	if !ok {
		return "", errors.New("the caller is unknown")
	}
	if user.GetName() != r.agent {
		return "", fmt.Errorf("only agents get environments: their user is %s", r.agent)
	}
	nodes := user.GetExtra()[extraNode]
	if len(nodes) != 1 || nodes[0] == "" {
		return "", errors.New("the caller's token is not bound to a Node: request one with boundObjectRef of kind Node, " +
			"as with kubectl create token bottle-agent --bound-object-kind Node --bound-object-name NODE")
	}
	return nodes[0], nil
}

func selector(namespace string, options *internalversion.ListOptions) (func(*v1alpha1.BottleEnvironment) bool, error) {
	byField, byLabel := fields.Everything(), labels.Everything()
	if options != nil && options.FieldSelector != nil {
		byField = options.FieldSelector
	}
	if options != nil && options.LabelSelector != nil {
		byLabel = options.LabelSelector
	}
	for _, q := range byField.Requirements() {
		if q.Field != "metadata.name" && q.Field != "metadata.namespace" {
			return nil, fmt.Errorf("field selector: %q is not a field to select by: use metadata.name or metadata.namespace", q.Field)
		}
	}
	return func(env *v1alpha1.BottleEnvironment) bool {
		return (namespace == "" || namespace == env.Namespace) && byLabel.Matches(labels.Set(env.Labels)) &&
			byField.Matches(fields.Set{"metadata.name": env.Name, "metadata.namespace": env.Namespace})
	}, nil
}

func (s *Store) list(node string, selects func(*v1alpha1.BottleEnvironment) bool) *v1alpha1.BottleEnvironmentList {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := &v1alpha1.BottleEnvironmentList{
		TypeMeta: typeMeta("BottleEnvironmentList"),
		ListMeta: metav1.ListMeta{ResourceVersion: formatVersion(s.version)},
		Items:    []v1alpha1.BottleEnvironment{},
	}
	for _, env := range s.nodes[node] {
		if selects(env) {
			list.Items = append(list.Items, *env)
		}
	}
	slices.SortFunc(list.Items, func(a, b v1alpha1.BottleEnvironment) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return list
}

// ConvertToTable returns a table that has no values.
func (*Storage) ConvertToTable(_ context.Context, object, _ runtime.Object) (*metav1.Table, error) {
	table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: "name of the Bottle"},
		{Name: "Present", Type: "string", Description: "number of named objects whose data is present, of all named objects"},
		{Name: "Generation", Type: "integer", Description: "generation of the Bottle"},
	}}
	var items []v1alpha1.BottleEnvironment
	switch o := object.(type) {
	case *v1alpha1.BottleEnvironmentList:
		table.ResourceVersion, items = o.ResourceVersion, o.Items
	case *v1alpha1.BottleEnvironment:
		table.ResourceVersion, items = o.ResourceVersion, []v1alpha1.BottleEnvironment{*o}
	default:
		return nil, fmt.Errorf("table of %T: not an environment", object)
	}
	for i := range items {
		env := &items[i]
		present := 0
		for _, o := range env.Objects {
			if o.State == v1alpha1.ObjectPresent {
				present++
			}
		}
		table.Rows = append(table.Rows, metav1.TableRow{
			Cells:  []any{env.Name, fmt.Sprintf("%d/%d", present, len(env.Objects)), env.ObservedGeneration},
			Object: runtime.RawExtension{Object: env},
		})
	}
	return table, nil
}
