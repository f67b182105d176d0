// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DesiredState says whether a Bottle's machine should run.
// +kubebuilder:validation:Enum=Running;Stopped
type DesiredState string

const (
	// DesiredStateRunning keeps the machine running.
	DesiredStateRunning DesiredState = "Running"
	// DesiredStateStopped keeps the machine stopped. Its disk stays on the node, and
	// what the Bottle has booked there stays booked.
	DesiredStateStopped DesiredState = "Stopped"
)

// PullPolicy says when an image is pulled, as in a Pod.
// +kubebuilder:validation:Enum=Always;IfNotPresent;Never
type PullPolicy string

// BottleSpec is the desired state of a Bottle.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.image) && has(self.artifact))",message="image and artifact cannot both be set: choose one, or neither for the node's default image"
// +kubebuilder:validation:XValidation:rule="!has(self.egress) || !has(self.egress.rules) || self.egress.rules.size() == 0 || !has(self.bundle) || !has(self.bundle.image)",fieldPath=".egress.rules",message="spec.egress.rules needs the built-in bundle, because no other image gets the rules and their credentials: remove spec.bundle.image, or remove the rules and let your image decide on requests"
// +kubebuilder:validation:XValidation:rule="!has(self.env) || !has(self.egress) || !has(self.egress.rules) || self.egress.rules.all(r, !has(r.credential) || !has(r.credential.env) || !self.env.exists(e, e.name == r.credential.env && has(e.valueFrom) && has(e.valueFrom.secretKeyRef) && e.valueFrom.secretKeyRef.name == r.credential.secretKeyRef.name))",fieldPath=".egress.rules",message="spec.env gives the guest a variable from the same Secret under the name of a credential's env, so the guest would have the secret in clear: remove the variable from spec.env, and the guest gets a placeholder instead"
type BottleSpec struct {
	// slug is the Bottle's short name on its node. It is part of the names of the
	// Bottle's machine, network and container, and it determines which subnet the
	// Bottle gets if that subnet is free. It cannot be changed. Several Bottles
	// may have the same slug.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]+(-[a-z0-9]+)*$')",message="slug must consist of lower-case letters, digits and single hyphens between them, such as my-agent-2"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="slug cannot be changed: create a new Bottle"
	Slug string `json:"slug,omitempty"`

	// env lists the environment variables of everything that runs in the guest.
	// The operator adds variables such as HTTPS_PROXY, which point to the bundle;
	// a variable of the same name in this list takes precedence.
	// White space at the end of a value from a Secret or ConfigMap does not reach
	// the guest, because smolvm drops it.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=128
	Env []EnvVar `json:"env,omitempty"`

	// image is the image that provides the guest's root filesystem. It has one of
	// these forms: an OCI reference, which the node pulls once for all of its
	// Bottles; file:NAME, an archive or OCI layout in the node's local image
	// directory (the agent's flag --local-image-dir); or docker-daemon:NAME, an
	// image in the node's Docker Engine, if the node's agent allows that. If
	// image and artifact are both absent, the node's default image is used (the
	// agent's flag --default-image).
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('file:') || self.matches('^file:[A-Za-z0-9_][A-Za-z0-9._-]*$')",message="file: must be followed by a name of letters, digits, '.', '_' and '-' that does not start with '.' or '-'"
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('file:') || !self.contains('..')",message="the name after file: must not contain '..'"
	// +kubebuilder:validation:XValidation:rule="self.startsWith('file:') || self.matches('^[A-Za-z0-9][A-Za-z0-9._:/@-]*$')",message="image must be an OCI reference such as ghcr.io/org/agent:1.2, or file:NAME"
	Image *string `json:"image,omitempty"`

	// artifact is a packed machine (.smolmachine) to start from instead of an
	// image. Where spec.env sets a variable that the artifact also sets, spec.env
	// wins. Variables with secretKeyRef cannot be combined with an artifact,
	// because smolvm drops them.
	// +optional
	Artifact *Artifact `json:"artifact,omitempty"`

	// imagePullPolicy says when the node pulls the image or artifact from the
	// registry, as in a Pod: the default is Always for the tag latest, and
	// IfNotPresent otherwise. It applies when a machine is created.
	// +optional
	ImagePullPolicy *PullPolicy `json:"imagePullPolicy,omitempty"`

	// imagePullSecrets name Secrets in the Bottle's namespace that hold the
	// registry's credentials for the image or artifact, as in a Pod.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	ImagePullSecrets []LocalObjectReference `json:"imagePullSecrets,omitempty"`

	// command is the workload: it runs in the guest each time the machine starts.
	// If absent, the image's own command is the workload. A Bottle that has neither
	// simply runs.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=4096
	// +kubebuilder:validation:items:XValidation:rule="!self.contains('\\u0000')",message="command must not contain a NUL character: a process argument cannot hold one"
	Command []string `json:"command,omitempty"`

	// machine is the size of the microVM.
	// +optional
	Machine *Machine `json:"machine,omitempty"`

	// bundle is the sidecar container that is the guest's only way out.
	// +optional
	Bundle *Bundle `json:"bundle,omitempty"`

	// egress lists the destinations that the default bundle lets the guest
	// reach. If absent, the default bundle refuses every destination.
	// +optional
	Egress *Egress `json:"egress,omitempty"`

	// desiredState says whether the machine should run. Stopped shuts the machine
	// down and keeps its disk on the node. The Bottle keeps its placeholder Pod, so its
	// CPUs, memory and disk space still count against quotas and on the node, and it can
	// run again at any time. To give them up, delete the placeholder Pod of the stopped
	// Bottle: the disk is lost, and a node is chosen when the Bottle is Running again.
	// +optional
	// +kubebuilder:default=Running
	DesiredState DesiredState `json:"desiredState,omitempty"` //nolint:kubeapilinter // never empty: the API server fills in the default

	// restartPolicy says whether the workload is started again, in the same guest, when
	// it ends, as in a Pod. OnFailure and Never let the Bottle finish.
	// +optional
	// +kubebuilder:default=Always
	RestartPolicy RestartPolicy `json:"restartPolicy,omitempty"` //nolint:kubeapilinter // never empty: the API server fills in the default

	// stdin says what the workload reads as its standard input. A change takes effect at
	// the next start of the machine.
	// +optional
	// +kubebuilder:default=Closed
	Stdin Stdin `json:"stdin,omitempty"` //nolint:kubeapilinter // never empty: the API server fills in the default

	// lifetime limits how long the Bottle runs and how long it is kept.
	// +optional
	Lifetime *Lifetime `json:"lifetime,omitempty"`

	// nodeName pins the Bottle to the node with this name. kube-scheduler still
	// checks that the Bottle fits on the node.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	NodeName *string `json:"nodeName,omitempty"`

	// scheduling guides kube-scheduler's choice of a node.
	// +optional
	Scheduling *Scheduling `json:"scheduling,omitempty"`
}

// Bottle is a hardware-isolated microVM that can reach the network only through
// one sidecar container, the bundle, at a fixed IP address.
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

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is the desired state of the Bottle.
	// +required
	Spec BottleSpec `json:"spec,omitzero"`

	// status is the observed state of the Bottle.
	// Before the manager has written it, Ready is Unknown: without conditions, tools that
	// wait for objects would take a new Bottle for ready.
	// +optional
	// +kubebuilder:default={conditions: {{type: "Ready", status: "Unknown", reason: "Pending", message: "waiting for the manager", lastTransitionTime: "1970-01-01T00:00:00Z"}}}
	Status BottleStatus `json:"status,omitempty,omitzero"` //nolint:kubeapilinter // a value, as in every built-in kind
}

// BottleList is a list of Bottles.
//
// +kubebuilder:object:root=true
type BottleList struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	// items are the Bottles in the list.
	Items []Bottle `json:"items"`
}
