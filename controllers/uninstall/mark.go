// SPDX-License-Identifier: Apache-2.0

package uninstall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// CRDName is the name of the CRD of Bottles.
const CRDName = "bottles.botbottle.dev"

// policies are the names of the policies in config/policy. Each has a binding of the same
// name.
var policies = []string{
	"bottle-agent-bottles", "bottle-agent-certificates", "bottle-agent-events", "bottle-agent-identity", "bottle-agent-leases",
	"bottle-agent-nodes", "bottle-agent-tokens", "bottle-tenant-bottles", "bottle-tenant-pod-access", "bottle-tenant-pods", "bottle-uninstall",
}

// Policies returns the names of the policies that are held while Bottles exist.
func Policies() []string { return slices.Clone(policies) }

var (
	crdKind        = schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}
	policyKind     = schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingAdmissionPolicy"}
	bindingKind    = schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: "ValidatingAdmissionPolicyBinding"}
	errCRDDeleting = errors.New("the CRD of Bottles is being deleted")
)

// mark reads and writes the mark of one cluster.
type mark struct {
	// live reads from the API server, never from a cache.
	live   client.Reader
	writer client.Writer
}

// set holds the policies and marks the CRD with the operator's namespace. It changes
// nothing that is as it should be. It returns the names of the policies that do not exist
// or are being deleted. It fails if the CRD is being deleted.
func (m mark) set(ctx context.Context, namespace string) (missing []string, err error) {
	// The policies come first: as long as the CRD is not marked, they refuse nothing.
	if missing, err = m.hold(ctx); err != nil {
		return missing, err
	}
	crd, err := m.crd(ctx)
	if err != nil {
		return missing, err
	}
	if crd.Annotations[v1alpha1.InUse] != namespace {
		// The version of the reply is newer than any deletion that began before.
		if err := m.patch(ctx, crd, map[string]any{"annotations": map[string]any{v1alpha1.InUse: namespace}}); err != nil {
			return missing, err
		}
	}
	if !crd.DeletionTimestamp.IsZero() {
		return missing, errCRDDeleting
	}
	return missing, nil
}

// clear removes the mark and releases the policies, unless a Bottle exists. It reports
// whether it did. A Bottle that is created meanwhile is not missed by the caller: nobody
// places it without another call of set.
func (m mark) clear(ctx context.Context) (bool, error) {
	crd, err := m.crd(ctx)
	if client.IgnoreNotFound(err) != nil {
		return false, err
	}
	if err == nil {
		// After the CRD: whoever marks it after the list causes a conflict.
		bottles, err := m.bottles(ctx, 1)
		if err != nil || len(bottles.Items) > 0 {
			return false, err
		}
		if _, marked := crd.Annotations[v1alpha1.InUse]; marked {
			change := map[string]any{"annotations": map[string]any{v1alpha1.InUse: nil}, "resourceVersion": crd.ResourceVersion}
			if err := m.patch(ctx, crd, change); err != nil {
				return false, err
			}
		}
	}
	return true, m.release(ctx)
}

// bottles lists at most limit Bottles of all namespaces.
func (m mark) bottles(ctx context.Context, limit int64) (*metav1.PartialObjectMetadataList, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("BottleList"))
	if err := m.live.List(ctx, list, client.Limit(limit)); err != nil {
		return nil, fmt.Errorf("list Bottles: %w", err)
	}
	return list, nil
}

func (m mark) crd(ctx context.Context) (*metav1.PartialObjectMetadata, error) {
	crd := &metav1.PartialObjectMetadata{}
	crd.SetGroupVersionKind(crdKind)
	if err := m.live.Get(ctx, client.ObjectKey{Name: CRDName}, crd); err != nil {
		return nil, fmt.Errorf("get CRD %s: %w", CRDName, err)
	}
	return crd, nil
}

// held lists our policies and their bindings. The bindings come first: the API server lets
// only those who may get everything change a binding with a parameter whose policy is gone.
func (m mark) held(ctx context.Context) ([]metav1.PartialObjectMetadata, error) {
	var out []metav1.PartialObjectMetadata
	for _, kind := range []schema.GroupVersionKind{bindingKind, policyKind} {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		if err := m.live.List(ctx, list); err != nil {
			return nil, fmt.Errorf("list admission policies: %w", err)
		}
		for _, o := range list.Items {
			if slices.Contains(policies, o.Name) {
				o.SetGroupVersionKind(kind)
				out = append(out, o)
			}
		}
	}
	return out, nil
}

func (m mark) hold(ctx context.Context) (missing []string, err error) {
	found, err := m.held(ctx)
	if err != nil {
		return nil, err
	}
	safe := map[string]int{}
	for i := range found {
		o := &found[i]
		if !o.DeletionTimestamp.IsZero() {
			continue // the API server lets nobody add a finalizer
		}
		safe[o.Name]++
		if controllerutil.AddFinalizer(o, v1alpha1.InUse) {
			if err := m.patch(ctx, o, map[string]any{"finalizers": o.Finalizers, "resourceVersion": o.ResourceVersion}); err != nil {
				return nil, err
			}
		}
	}
	for _, name := range policies {
		if safe[name] != 2 { // the policy and its binding
			missing = append(missing, name)
		}
	}
	return missing, nil
}

func (m mark) release(ctx context.Context) error {
	found, err := m.held(ctx)
	if err != nil {
		return err
	}
	for i := range found {
		if o := &found[i]; controllerutil.RemoveFinalizer(o, v1alpha1.InUse) {
			err := m.patch(ctx, o, map[string]any{"finalizers": o.Finalizers, "resourceVersion": o.ResourceVersion})
			if client.IgnoreNotFound(err) != nil {
				return err
			}
		}
	}
	return nil
}

// patch changes an object's metadata, and stores the reply in o.
func (m mark) patch(ctx context.Context, o *metav1.PartialObjectMetadata, change map[string]any) error {
	data, err := json.Marshal(map[string]any{"metadata": change})
	if err != nil {
		return fmt.Errorf("encode the patch: %w", err)
	}
	if err := m.writer.Patch(ctx, o, client.RawPatch(types.MergePatchType, data), client.FieldOwner(v1alpha1.ManagerFieldOwner)); err != nil {
		return fmt.Errorf("change %s %s: %w", o.Kind, o.Name, err)
	}
	return nil
}
