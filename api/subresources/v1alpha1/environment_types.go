// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// BottleEnvironment has the values that a Bottle takes from Secrets and ConfigMaps. It
// has the name and namespace of the Bottle. Only the agent of the Bottle's node can list and
// watch it. A Bottle that names no objects has none.
//
// A watch, whatever its resourceVersion, starts with the present state, as ADDED
// events, and then, if it allows bookmarks, a BOOKMARK with the annotation
// k8s.io/initial-events-end. Further bookmarks follow while nothing changes.
// resourceVersions rise, but those of one replica of the manager mean nothing to
// another.
//
// +kubebuilder:object:root=true
type BottleEnvironment struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// bottleUID is the UID of the Bottle.
	BottleUID types.UID `json:"bottleUID,omitempty"`
	// observedGeneration is the generation of the Bottle whose references these are.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// objects are the named Secrets and ConfigMaps, sorted by kind and name.
	Objects []EnvironmentObject `json:"objects,omitempty"`
}

// ObjectState says whether an object could be read.
type ObjectState string

// States of an object.
const (
	// ObjectPresent: data has the keys that the Bottle names.
	ObjectPresent ObjectState = "Present"
	// ObjectNotFound: the object does not exist.
	ObjectNotFound ObjectState = "NotFound"
	// ObjectPending: the manager has not read the object yet. Another event follows.
	ObjectPending ObjectState = "Pending"
	// ObjectTooLarge: the values that the Bottle names are more than an environment
	// may have.
	ObjectTooLarge ObjectState = "TooLarge"
	// ObjectForbidden: the manager may not read objects of this kind in the namespace.
	ObjectForbidden ObjectState = "Forbidden"
)

// EnvironmentObject is a Secret or ConfigMap.
type EnvironmentObject struct {
	// kind is Secret or ConfigMap.
	Kind string `json:"kind,omitempty"`
	Name string `json:"name,omitempty"`
	// state says whether data is complete.
	State           ObjectState `json:"state,omitempty"`
	ResourceVersion string      `json:"resourceVersion,omitempty"`
	// data has only the keys that the Bottle names. Of a pull Secret, these are
	// .dockerconfigjson and .dockercfg.
	Data map[string][]byte `json:"data,omitempty"`
}

// BottleEnvironmentList is a list of BottleEnvironment.
//
// +kubebuilder:object:root=true
type BottleEnvironmentList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BottleEnvironment `json:"items"`
}
