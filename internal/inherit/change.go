// SPDX-License-Identifier: Apache-2.0

package inherit

import (
	"encoding/json"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// Change is what a merge patch of a map of labels or annotations contains: the value
// to set, or nil for a key to remove.
type Change map[string]*string

// LabelChange returns what must change in a placeholder's labels so that it has
// those that it inherits now, and none that the manager gave to it for another
// reason earlier. Labels that somebody else gave to the Pod stay.
func LabelChange(b *v1alpha1.Bottle, pod *corev1.Pod) Change {
	return changeOf(pod.Labels, Labels(b), b.Labels, owned(pod.ManagedFields, "f:labels"))
}

// AnnotationChange is like LabelChange, for annotations.
func AnnotationChange(b *v1alpha1.Bottle, pod *corev1.Pod) Change {
	return changeOf(pod.Annotations, Annotations(b), nil, owned(pod.ManagedFields, "f:annotations"))
}

// changeOf compares what a Pod has with what it should inherit. copied are the keys
// that the manager set, as the API server recorded. If it recorded nothing, because
// somebody removed the record, the keys in assumed count instead: earlier managers
// copied all labels.
func changeOf(have, want, assumed map[string]string, copied map[string]bool) Change {
	change := Change{}
	for key, value := range want {
		if current, has := have[key]; !has || current != value {
			change[key] = &value
		}
	}
	for key, value := range have {
		if _, wanted := want[key]; wanted || ours(key) {
			continue
		}
		if was, has := assumed[key]; copied[key] || copied == nil && has && was == value {
			change[key] = nil
		}
	}
	return change
}

// metadataFields is the part of a FieldsV1 that records who set labels and
// annotations.
type metadataFields struct {
	Metadata map[string]map[string]json.RawMessage `json:"f:metadata"`
}

// owned returns the keys of a map in the metadata that the manager set; nil if there
// is no record of what it set.
func owned(entries []metav1.ManagedFieldsEntry, field string) map[string]bool {
	var keys map[string]bool
	for _, entry := range entries {
		if entry.Manager != v1alpha1.ManagerFieldOwner || entry.Subresource != "" || entry.FieldsV1 == nil {
			continue
		}
		if keys == nil {
			keys = map[string]bool{}
		}
		var fields metadataFields
		if json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields) != nil {
			continue
		}
		for key := range fields.Metadata[field] {
			if name, is := strings.CutPrefix(key, "f:"); is {
				keys[name] = true
			}
		}
	}
	return keys
}

// Record returns the part of a Pod's managedFields that LabelChange and
// AnnotationChange read, for caches that drop the rest.
func Record(entries []metav1.ManagedFieldsEntry) []metav1.ManagedFieldsEntry {
	fields := metadataFields{Metadata: map[string]map[string]json.RawMessage{}}
	known := false
	for _, field := range []string{"f:labels", "f:annotations"} {
		keys := owned(entries, field)
		known = known || keys != nil
		fields.Metadata[field] = map[string]json.RawMessage{}
		for key := range keys {
			fields.Metadata[field]["f:"+key] = json.RawMessage("{}")
		}
	}
	data, err := json.Marshal(fields)
	if !known || err != nil {
		return nil
	}
	return []metav1.ManagedFieldsEntry{{Manager: v1alpha1.ManagerFieldOwner, FieldsV1: metav1.NewFieldsV1(string(data))}}
}
