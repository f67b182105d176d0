// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DesiredState says whether a Bottle's machine is to run.
// +kubebuilder:validation:Enum=Running;Stopped
type DesiredState string

const (
	// DesiredStateRunning keeps the machine running.
	DesiredStateRunning DesiredState = "Running"
	// DesiredStateStopped keeps the machine stopped and its disk on the node.
	DesiredStateStopped DesiredState = "Stopped"
)

// PullPolicy says when an image is pulled, as in a Pod.
// +kubebuilder:validation:Enum=Always;IfNotPresent;Never
type PullPolicy string

// BottleSpec is what the user asks for.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.image) && has(self.artifact))",message="image and artifact cannot both be set: choose one, or neither for the node's default image"
type BottleSpec struct {
	// slug is the Bottle's short name on its node: it is part of the names of
	// its machine, network and container, and decides its first choice of a
	// subnet. It cannot be changed.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]+(-[a-z0-9]+)*$')",message="slug must be lower-case letters, digits and single inner hyphens, such as my-agent-2"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="slug cannot be changed: make a new Bottle"
	Slug string `json:"slug,omitempty"`

	// env is the environment of everything that runs in the guest. White space
	// at the end of a value from a Secret or ConfigMap does not reach the guest.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=128
	Env []EnvVar `json:"env,omitempty"`

	// image is the guest's root filesystem: an OCI reference, which is pulled to
	// the node once for all Bottles, file:NAME for an archive or OCI layout in
	// the node's folder of local images or, where the node allows it,
	// docker-daemon:NAME for an image of its Docker Engine.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('file:') || self.matches('^file:[A-Za-z0-9_][A-Za-z0-9._-]*$')",message="after file: the name of an archive must follow, of letters, digits, '.', '_' and '-', without '/' and not starting with '.'"
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('file:') || !self.contains('..')",message="the name after file: must not contain '..'"
	// +kubebuilder:validation:XValidation:rule="self.startsWith('file:') || self.matches('^[A-Za-z0-9][A-Za-z0-9._:/@-]*$')",message="image must be an OCI reference such as ghcr.io/org/agent:1.2, or file:NAME"
	Image *string `json:"image,omitempty"`

	// artifact is a packed machine (.smolmachine) to start from, in place of
	// an image. Its env comes before spec.env, which so wins. Values of Secrets
	// cannot be given beside it: smolvm drops them.
	// +optional
	Artifact *Artifact `json:"artifact,omitempty"`

	// imagePullPolicy says when the registry is asked for the image or the
	// artifact, as in a Pod. It counts when a machine is made.
	// +optional
	ImagePullPolicy *PullPolicy `json:"imagePullPolicy,omitempty"`

	// imagePullSecrets name the Secrets with which the image or the artifact is
	// pulled, as in a Pod.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	ImagePullSecrets []LocalObjectReference `json:"imagePullSecrets,omitempty"`

	// command runs in the guest at every start; absent means the image's own.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=4096
	// +kubebuilder:validation:items:XValidation:rule="!self.contains('\\u0000')",message="command must not contain a NUL character: no process can be given one"
	Command []string `json:"command,omitempty"`

	// machine is the size of the microVM.
	// +optional
	Machine *Machine `json:"machine,omitempty"`

	// bundle is the sidecar container that is the guest's only way out.
	// +optional
	Bundle *Bundle `json:"bundle,omitempty"`

	// egress is what the default bundle lets through.
	// +optional
	Egress *Egress `json:"egress,omitempty"`

	// desiredState is Running or Stopped.
	// +optional
	// +kubebuilder:default=Running
	DesiredState DesiredState `json:"desiredState,omitempty"` //nolint:kubeapilinter // never empty: the API server fills in the default

	// lifetime bounds how long the Bottle runs and is kept. Not yet applied.
	// +optional
	Lifetime *Lifetime `json:"lifetime,omitempty"`

	// nodeName asks for this very node; the scheduler still checks that the
	// Bottle fits there.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	NodeName *string `json:"nodeName,omitempty"`

	// scheduling is handed to kube-scheduler.
	// +optional
	Scheduling *Scheduling `json:"scheduling,omitempty"`
}

// Bottle is a hardware-isolated microVM whose only way out is one sidecar
// container at one pinned IP.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=btl,categories=all
// +kubebuilder:selectablefield:JSONPath=`.status.nodeName`
// +kubebuilder:printcolumn:name="Slug",type=string,JSONPath=`.spec.slug`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.nodeName`
// +kubebuilder:printcolumn:name="Bundle IP",type=string,JSONPath=`.status.network.bundleIP`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Restarts",type=integer,JSONPath=`.status.machine.restarts`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Bottle struct {
	metav1.TypeMeta `json:",inline"`

	// metadata of the Bottle.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what the user asks for.
	// +required
	Spec BottleSpec `json:"spec,omitzero"`

	// status is what the operator observed.
	// +optional
	Status BottleStatus `json:"status,omitempty,omitzero"` //nolint:kubeapilinter // a value, as in every built-in kind
}

// BottleList is a list of Bottles.
//
// +kubebuilder:object:root=true
type BottleList struct {
	metav1.TypeMeta `json:",inline"`

	// metadata of the list.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	// items of the list.
	Items []Bottle `json:"items"`
}
