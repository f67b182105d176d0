// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/inherit"
)

// metadataWriter writes the labels and annotations that placeholders inherit.
type metadataWriter struct {
	client.Client
	recorder events.EventRecorder
}

// update brings what a placeholder inherits up to date, if the placeholder stays as it
// is. Labels and annotations are changed by separate writes: an admission webhook may
// refuse a change of a label, and drains must learn of a new annotation all the same.
func (w metadataWriter) update(ctx context.Context, f facts, pod *corev1.Pod) error {
	if pod == nil || f.pod.deleting {
		return nil
	}
	if d := decide(f); d.clear || d.pod != "" && d.pod != podHold {
		return nil
	}
	return errors.Join(
		w.patch(ctx, f.bottle, pod, "labels", inherit.LabelChange(f.bottle, pod)),
		w.patch(ctx, f.bottle, pod, "annotations", inherit.AnnotationChange(f.bottle, pod)))
}

// patch changes a map in the metadata of a placeholder. A change that the API server
// refuses is reported by an Event, and tried again by the next pass.
func (w metadataWriter) patch(ctx context.Context, b *v1alpha1.Bottle, pod *corev1.Pod, field string, change inherit.Change) error {
	if len(change) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, field: change}})
	if err != nil {
		return fmt.Errorf("encode a patch of the %s of placeholder Pod %s: %w", field, pod.Name, err)
	}
	err = w.Patch(ctx, pod.DeepCopy(), client.RawPatch(types.MergePatchType, patch), client.FieldOwner(v1alpha1.ManagerFieldOwner))
	if refused(err) {
		message := agentstatus.Bounded(fmt.Sprintf("the API server refused to change the %s of Pod %s: %v", field, pod.Name, err))
		w.recorder.Eventf(b, nil, corev1.EventTypeWarning, v1alpha1.ReasonPlaceholderRefused, "Placing", "%s", message)
		return nil
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("change the %s of placeholder Pod %s: %w", field, pod.Name, err)
	}
	return nil
}
