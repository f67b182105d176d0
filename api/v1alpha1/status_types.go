// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BottleStatus is what the operator observed.
type BottleStatus struct {
	// conditions are Ready, Scheduled, NetworkReady, SmolfileReady, BundleReady,
	// MachineReady, EgressEnforced and, only while True, PendingRestart,
	// Reconciling and Stalled.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// observedGeneration is the generation that was last acted on to its end.
	// +optional
	// +kubebuilder:validation:Minimum=0
	ObservedGeneration *int64 `json:"observedGeneration,omitempty"`

	// nodeName is the node that kube-scheduler chose.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	NodeName *string `json:"nodeName,omitempty"`

	// startTime is when the machine first ran.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`

	// network is the subnet triple.
	// +optional
	Network *NetworkStatus `json:"network,omitempty"`

	// smolfile on the node.
	// +optional
	Smolfile *SmolfileStatus `json:"smolfile,omitempty"`

	// bundle is the sidecar container on the node.
	// +optional
	Bundle *BundleStatus `json:"bundle,omitempty"`

	// resources as booked with the scheduler and as given to smolvm.
	// +optional
	Resources *ResourcesStatus `json:"resources,omitempty"`

	// image that the machine was made from.
	// +optional
	Image *ImageStatus `json:"image,omitempty"`

	// machine is the microVM on the node.
	// +optional
	Machine *MachineStatus `json:"machine,omitempty"`

	// egress is what the default bundle refused, told at most once a minute, and
	// a leak that counts.
	// +optional
	Egress *EgressStatus `json:"egress,omitempty"`
}

// EgressStatus is what the bundle refused, and what got out.
type EgressStatus struct {
	// recentDenials are the last targets that were refused, as HOST:PORT,
	// escaped and cut.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=96
	RecentDenials []string `json:"recentDenials,omitempty"`

	// leak is there while a leak counts: wherever the Bottle is placed, its
	// machine does not start until the spec or the annotation
	// botbottle.dev/prove changes.
	// +optional
	Leak *EgressLeak `json:"leak,omitempty"`
}

// EgressLeak is something but the bundle that was reached.
type EgressLeak struct {
	// time at which it was noticed.
	// +required
	Time metav1.Time `json:"time,omitempty,omitzero"` //nolint:kubeapilinter // there is no leak without its time

	// path is what was reached, in words.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Path string `json:"path,omitempty"`

	// smolvmVersion is the version of smolvm that ran the machine.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	SmolvmVersion *string `json:"smolvmVersion,omitempty"`

	// backend is the network backend of the machine.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Backend *string `json:"backend,omitempty"`

	// asked is the state of the Bottle that the leak is held against.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Asked string `json:"asked,omitempty"`
}

// NetworkStatus is the subnet triple.
type NetworkStatus struct {
	// subnet of the Bottle, in CIDR form.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Subnet string `json:"subnet,omitempty"`

	// gateway is the node's own address in the subnet.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Gateway string `json:"gateway,omitempty"`

	// bundleIP is the pinned address of the bundle.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	BundleIP string `json:"bundleIP,omitempty"`
}

// SmolfileStatus is the Smolfile on the node.
type SmolfileStatus struct {
	// path on the node.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Path string `json:"path,omitempty"`

	// sha256 of the file in hexadecimal.
	// +required
	// +kubebuilder:validation:MinLength=64
	// +kubebuilder:validation:MaxLength=64
	SHA256 string `json:"sha256,omitempty"`
}

// BundleStatus is the sidecar container on the node.
type BundleStatus struct {
	// name of the container.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name,omitempty"`

	// containerID of the container.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	ContainerID *string `json:"containerID,omitempty"`

	// image of the container.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Image *string `json:"image,omitempty"`
}

// ResourcesStatus is the machine's size.
type ResourcesStatus struct {
	// cpus given to the machine.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16
	CPUs int32 `json:"cpus,omitempty"`

	// memory given to the machine.
	// +required
	Memory resource.Quantity `json:"memory,omitempty,omitzero"` //nolint:kubeapilinter // a machine without memory is none
}

// ImageStatus is the image that the machine was made from.
type ImageStatus struct {
	// reference as asked for.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Reference string `json:"reference,omitempty"` //nolint:kubeapilinter // the word of the OCI specification

	// digest of the archive, as sha256:HEX.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Digest *string `json:"digest,omitempty"`
}

// MachineStatus is the microVM on the node.
type MachineStatus struct {
	// name of the machine in smolvm.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name,omitempty"`

	// pid of its VMM on the node.
	// +optional
	// +kubebuilder:validation:Minimum=0
	PID *int64 `json:"pid,omitempty"`

	// startTime of its VMM.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`

	// restarts counts the starts after the first one that were not asked for.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Restarts *int32 `json:"restarts,omitempty"`

	// smolvmVersion is the version of smolvm on the node.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	SmolvmVersion *string `json:"smolvmVersion,omitempty"`

	// lastLoss is how the machine was last lost without being asked to stop.
	// +optional
	LastLoss *MachineLoss `json:"lastLoss,omitempty"`
}

// MachineLoss is one unasked end of a machine.
type MachineLoss struct {
	// time at which it was noticed.
	// +required
	Time metav1.Time `json:"time,omitempty,omitzero"` //nolint:kubeapilinter // there is no loss without its time

	// cause as far as it is known, such as "killed by signal 9".
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Cause string `json:"cause,omitempty"`
}
