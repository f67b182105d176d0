// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/inherit"
)

// updateInherited brings the labels and annotations that a placeholder inherits up to
// date, if the placeholder stays as it is. Labels and annotations are changed by
// separate writes: an admission webhook may refuse a change of a label, and drains must
// learn of a new annotation all the same.
func (r *bottles) updateInherited(ctx context.Context, f facts, pod *corev1.Pod) error {
	if pod == nil || f.pod.deleting {
		return nil
	}
	if d := decide(f); d.clear || d.pod != "" && d.pod != podHold {
		return nil
	}
	return errors.Join(
		r.patchMetadata(ctx, f.bottle, pod, "labels", inherit.LabelChange(f.bottle, pod)),
		r.patchMetadata(ctx, f.bottle, pod, "annotations", inherit.AnnotationChange(f.bottle, pod)))
}

// patchMetadata changes a map in the metadata of a placeholder. A change that the API
// server refuses is reported by an Event, and tried again by the next pass.
func (r *bottles) patchMetadata(ctx context.Context, b *v1alpha1.Bottle, pod *corev1.Pod, field string, change inherit.Change) error {
	if len(change) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, field: change}})
	if err != nil {
		return fmt.Errorf("encode a patch of the %s of placeholder Pod %s: %w", field, pod.Name, err)
	}
	err = r.Patch(ctx, pod.DeepCopy(), client.RawPatch(types.MergePatchType, patch), client.FieldOwner(v1alpha1.ManagerFieldOwner))
	if refused(err) {
		message := agentstatus.Bounded(fmt.Sprintf("the API server refused to change the %s of Pod %s: %v", field, pod.Name, err))
		r.recorder.Eventf(b, nil, corev1.EventTypeWarning, v1alpha1.ReasonPlaceholderRefused, "Placing", "%s", message)
		return nil
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("change the %s of placeholder Pod %s: %w", field, pod.Name, err)
	}
	return nil
}
