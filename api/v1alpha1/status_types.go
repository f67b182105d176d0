// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BottleStatus is the observed state of a Bottle.
type BottleStatus struct {
	// conditions report the state of the Bottle. Ready summarises the others. The
	// page docs/conditions.md describes all types and reasons.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// observedGeneration is the latest generation of the spec that the operator
	// finished acting on, with success or with a failure that only a change by the
	// user can resolve.
	// +optional
	// +kubebuilder:validation:Minimum=0
	ObservedGeneration *int64 `json:"observedGeneration,omitempty"`

	// nodeName is the node that kube-scheduler chose.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	NodeName *string `json:"nodeName,omitempty"`

	// startTime is the time at which the machine first ran or, if a finished Bottle was
	// run again, first ran since then.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`

	// network holds the Bottle's addresses on the node.
	// +optional
	Network *NetworkStatus `json:"network,omitempty"`

	// smolfile is the file on the node that configures the machine.
	// +optional
	Smolfile *SmolfileStatus `json:"smolfile,omitempty"`

	// bundle is the sidecar container on the node.
	// +optional
	Bundle *BundleStatus `json:"bundle,omitempty"`

	// resources are what is booked with the scheduler for the machine, its disks
	// and its bundle. The machine and the bundle get exactly this.
	// +optional
	Resources *ResourcesStatus `json:"resources,omitempty"`

	// image is the image or artifact that the machine was created from.
	// +optional
	Image *ImageStatus `json:"image,omitempty"`

	// machine is the microVM on the node.
	// +optional
	Machine *MachineStatus `json:"machine,omitempty"`

	// workload is the command that runs in the guest, as the guest itself reports it.
	// +optional
	Workload *WorkloadStatus `json:"workload,omitempty"`

	// egress reports the connections that the default bundle recently refused,
	// updated at most once a minute, and a leak for which the machine is kept
	// stopped.
	// +optional
	Egress *EgressStatus `json:"egress,omitempty"`
}

// NetworkStatus holds the Bottle's subnet and the two addresses in it that the
// operator assigns, together called the subnet triple.
type NetworkStatus struct {
	// subnet is the Bottle's subnet in CIDR notation.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Subnet string `json:"subnet,omitempty"`

	// gateway is the node's own address in the subnet.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Gateway string `json:"gateway,omitempty"`

	// bundleIP is the bundle's fixed address in the subnet.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	BundleIP string `json:"bundleIP,omitempty"`
}

// SmolfileStatus is the Smolfile on the node, the file that configures the
// machine.
type SmolfileStatus struct {
	// path is the file's absolute path on the node.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Path string `json:"path,omitempty"`

	// sha256 is the SHA-256 digest of the file in hexadecimal.
	// +required
	// +kubebuilder:validation:MinLength=64
	// +kubebuilder:validation:MaxLength=64
	SHA256 string `json:"sha256,omitempty"`
}

// BundleRuntime says what runs the sidecar container on a node.
// +kubebuilder:validation:Enum=Docker;Pod
type BundleRuntime string

const (
	// BundleRuntimeDocker is the node's Docker Engine.
	BundleRuntimeDocker BundleRuntime = "Docker"
	// BundleRuntimePod is the kubelet: the sidecar is the container of the Bottle's
	// placeholder Pod.
	BundleRuntimePod BundleRuntime = "Pod"
)

// BundleStatus is the sidecar container on the node.
type BundleStatus struct {
	// name is the name of the container.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name,omitempty"`

	// runtime says what runs the container: the node's Docker Engine (Docker), or the
	// kubelet, as the only container of the Bottle's placeholder Pod (Pod). A Bottle
	// keeps the runtime that it got on its node. If absent, it is Docker.
	// +optional
	Runtime *BundleRuntime `json:"runtime,omitempty"`

	// containerID is the ID that the Docker Engine or the container runtime of the
	// kubelet gave the container.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	ContainerID *string `json:"containerID,omitempty"`

	// image is the image of the container.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Image *string `json:"image,omitempty"`
}

// ResourcesStatus is what a Bottle may use of its node.
type ResourcesStatus struct {
	// cpus is the number of virtual CPUs of the machine.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16
	CPUs int32 `json:"cpus,omitempty"`

	// memory is the memory of the machine.
	// +required
	Memory resource.Quantity `json:"memory,omitempty,omitzero"` //nolint:kubeapilinter // every machine has memory

	// disk is the disk space that is booked for the machine, as
	// ephemeral-storage: spec.machine.storage plus spec.machine.overlay or, if
	// the spec sets neither, the value of the manager's flag --default-disk. It
	// stays booked while the machine is stopped.
	// +optional
	Disk *resource.Quantity `json:"disk,omitempty"`

	// bundle is what the bundle's container may use at most, as the manager's
	// flags --bundle-cpu and --bundle-memory say. If absent, an earlier release
	// placed the Bottle, and the limits are 250m and 128Mi.
	// +optional
	Bundle *BundleResources `json:"bundle,omitempty"`

	// overhead is what is booked for the machine's VMM on top of its size, as the
	// manager's flags --overhead-cpu and --overhead-memory say. If absent, an earlier
	// release placed the Bottle.
	// +optional
	Overhead *OverheadResources `json:"overhead,omitempty"`
}

// OverheadResources are what a machine's VMM uses on top of the machine's size.
type OverheadResources struct {
	// cpu is the CPU time; absent for none.
	// +optional
	CPU *resource.Quantity `json:"cpu,omitempty"`

	// memory is the memory; absent for none.
	// +optional
	Memory *resource.Quantity `json:"memory,omitempty"`
}

// BundleResources are the limits of the bundle's container.
type BundleResources struct {
	// cpu is the CPU time that the container may use.
	// +required
	CPU resource.Quantity `json:"cpu,omitempty,omitzero"` //nolint:kubeapilinter // every bundle has a limit

	// memory is the memory that the container may use. If it needs more, it is
	// killed and starts again.
	// +required
	Memory resource.Quantity `json:"memory,omitempty,omitzero"` //nolint:kubeapilinter // every bundle has a limit
}

// ImageStatus is the image or artifact that the machine was created from.
type ImageStatus struct {
	// reference is the reference, as the spec or the node's default gives it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Reference string `json:"reference,omitempty"` //nolint:kubeapilinter // the word of the OCI specification

	// digest is the digest of the archive, as sha256:HEX.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Digest *string `json:"digest,omitempty"`
}

// MachineStatus is the microVM on the node.
type MachineStatus struct {
	// name is the machine's name in smolvm.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name,omitempty"`

	// pid is the process ID, on the node, of the machine's VMM (virtual machine
	// monitor).
	// +optional
	// +kubebuilder:validation:Minimum=0
	PID *int64 `json:"pid,omitempty"`

	// startTime is the time at which the VMM started.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`

	// restarts counts the starts, apart from the first, that no user requested.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Restarts *int32 `json:"restarts,omitempty"`

	// smolvmVersion is the version of smolvm on the node.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	SmolvmVersion *string `json:"smolvmVersion,omitempty"`

	// lastLoss describes the last time that the machine ended without a request
	// to stop it.
	// +optional
	LastLoss *MachineLoss `json:"lastLoss,omitempty"`
}

// WorkloadStatus is the command that runs in the guest. The guest itself reports
// it, and root in the guest can report anything.
type WorkloadStatus struct {
	// startTime is the time at which the command last started.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`

	// finishTime is the time at which the command last ended; absent while it runs.
	// +optional
	FinishTime *metav1.Time `json:"finishTime,omitempty"`

	// exitCode is the exit code of the command that last ended.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=255
	ExitCode *int32 `json:"exitCode,omitempty"`

	// signal is the name of the signal that ended the command, such as SIGKILL. exitCode
	// is absent then.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16
	Signal *string `json:"signal,omitempty"`

	// restarts counts the starts of the command, apart from the first, in all machine
	// starts since the Bottle last began to run.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Restarts *int32 `json:"restarts,omitempty"`

	// nextStartTime is the time at which the command is started again; present only
	// during a pause between two starts.
	// +optional
	NextStartTime *metav1.Time `json:"nextStartTime,omitempty"`
}

// MachineLoss describes how a machine ended without a request to stop it.
type MachineLoss struct {
	// time is the time at which the agent noticed the loss.
	// +required
	Time metav1.Time `json:"time,omitempty,omitzero"` //nolint:kubeapilinter // every loss has a time

	// cause is the cause, as far as it is known, such as "killed by signal 9".
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Cause string `json:"cause,omitempty"`
}
