// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
)

// action is a subresource that sets an annotation of the Bottle.
type action struct {
	*access
	verb       string
	annotation string
}

var (
	_ rest.NamedCreater                   = &action{}
	_ rest.SubresourceObjectMetaPreserver = &action{}
)

func (a *action) New() runtime.Object { return &subresources.BottleAction{} }

// Destroy does nothing: there is nothing to clean up.
func (a *action) Destroy() {}

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate keeps the UID that the
// client sent.
func (a *action) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

// Create requests the action. What the client sent is not used, except that a UID in
// it must be the Bottle's.
func (a *action) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, o *metav1.CreateOptions) (runtime.Object, error) {
	done, err := a.create(ctx, name, obj, validate, o)
	a.sessions.metrics.ended(a.verb, result(err))
	if err != nil {
		return nil, err
	}
	return done, nil
}

func (a *action) create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, o *metav1.CreateOptions) (*subresources.BottleAction, error) {
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	b, err := a.find.bottle(ctx, request.NamespaceValue(ctx), name)
	if err != nil {
		return nil, err
	}
	sent, ok := obj.(*subresources.BottleAction)
	switch {
	case !ok:
		return nil, apierrors.NewBadRequest("the body must be a BottleAction")
	case sent.UID != "" && sent.UID != b.UID:
		return nil, conflict(b, "it has another UID than the one that was sent")
	case b.DeletionTimestamp != nil:
		return nil, conflict(b, "it is being deleted")
	}
	var more []client.PatchOption
	if len(o.DryRun) > 0 {
		more = append(more, client.DryRunAll)
	}
	at := a.annotate.now()
	if err := a.annotate.set(ctx, b, a.annotation, at, more...); err != nil {
		return nil, err
	}
	done := &subresources.BottleAction{RequestedAt: at}
	done.Namespace, done.Name, done.UID = b.Namespace, b.Name, b.UID
	done.CreationTimestamp = metav1.NewTime(a.annotate.clock.Now())
	return done, nil
}
