// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// EnvVar is one environment variable.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.value) && has(self.valueFrom))",message="value and valueFrom cannot both be set"
type EnvVar struct {
	// name is the name of the variable.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z_][A-Za-z0-9_]*$')",message="name must be letters, digits and '_', not starting with a digit"
	Name string `json:"name,omitempty"`

	// value is the literal value. It reaches the guest, or the bundle, byte for
	// byte: $(VAR) references are not expanded.
	// +optional
	// +kubebuilder:validation:MaxLength=32768
	// +kubebuilder:validation:XValidation:rule="!self.contains('\\u0000')",message="value must not contain a NUL character: an environment variable cannot hold one"
	// +kubebuilder:validation:XValidation:rule=`self.size() == 0 || !(self.charAt(self.size() - 1) in ['\u0009','\u000a','\u000b','\u000c','\u000d','\u0020','\u0085','\u00a0','\u1680','\u2000','\u2001','\u2002','\u2003','\u2004','\u2005','\u2006','\u2007','\u2008','\u2009','\u200a','\u2028','\u2029','\u202f','\u205f','\u3000'])`,message="value must not end in white space: smolvm would drop it"
	Value *string `json:"value,omitempty"`

	// valueFrom takes the value from a Secret or ConfigMap in the Bottle's
	// namespace.
	// +optional
	ValueFrom *EnvVarSource `json:"valueFrom,omitempty"`
}

// EnvVarSource selects the source of a variable's value.
//
// +kubebuilder:validation:XValidation:rule="has(self.secretKeyRef) != has(self.configMapKeyRef)",message="exactly one of secretKeyRef and configMapKeyRef must be set"
type EnvVarSource struct {
	// secretKeyRef selects a key of a Secret in the Bottle's namespace.
	// +optional
	SecretKeyRef *KeySelector `json:"secretKeyRef,omitempty"`

	// configMapKeyRef selects a key of a ConfigMap in the Bottle's namespace.
	// +optional
	ConfigMapKeyRef *KeySelector `json:"configMapKeyRef,omitempty"`
}

// KeySelector selects one key of a Secret or ConfigMap.
type KeySelector struct {
	// name is the name of the Secret or ConfigMap.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// key is the key in the object's data.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`

	// optional says whether to omit the variable if the object or the key does
	// not exist. If it is false or absent, the Bottle does not become Ready until
	// both exist.
	// +optional
	Optional *bool `json:"optional,omitempty"` //nolint:kubeapilinter // as in a Pod
}

// LocalObjectReference names an object in the Bottle's namespace.
type LocalObjectReference struct {
	// name is the name of the object.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
}

// Artifact identifies a packed machine (a .smolmachine file).
//
// +kubebuilder:validation:XValidation:rule="has(self.path) != has(self.reference)",message="exactly one of path and reference must be set"
type Artifact struct {
	// path has the form file:NAME, where NAME is a file in the node's local image
	// directory (the agent's flag --local-image-dir).
	// +optional
	// +kubebuilder:validation:MinLength=6
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:XValidation:rule="self.matches('^file:[A-Za-z0-9_][A-Za-z0-9._-]*$') && !self.contains('..')",message="path must be file:NAME; NAME may contain letters, digits, '.', '_' and '-', must not start with '.' or '-', and must not contain '..'"
	Path *string `json:"path,omitempty"`

	// reference is the artifact's reference in an OCI registry. The manifest must
	// have exactly one layer, the artifact's file, as "oras push" creates it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9][A-Za-z0-9._:/@-]*$')",message="reference must be an OCI reference such as ghcr.io/org/agent:1.2"
	Reference *string `json:"reference,omitempty"` //nolint:kubeapilinter // the word of the OCI specification

	// sha256 is the expected SHA-256 digest of the artifact's file, as 64
	// lower-case hexadecimal digits. The agent checks it before it uses the file,
	// because smolvm does not.
	// +optional
	// +kubebuilder:validation:MinLength=64
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9a-f]{64}$')",message="sha256 must be 64 lower-case hexadecimal digits"
	SHA256 *string `json:"sha256,omitempty"`
}

// Machine is the size of a microVM.
type Machine struct {
	// cpus is the number of virtual CPUs, 1 to 16. If absent, it is the value of
	// the manager's flag --default-cpus.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16
	CPUs *int32 `json:"cpus,omitempty"`

	// memory is the memory of the guest, 64Mi to 1Ti. It is rounded up to whole
	// MiB. If absent, it is the value of the manager's flag --default-memory.
	// +optional
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('64Mi')) >= 0",message="memory must be at least 64Mi"
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('1Ti')) <= 0",message="memory must be at most 1Ti"
	Memory *resource.Quantity `json:"memory,omitempty"`

	// storage is the size of the machine's data disk, up to 64Ti. It is rounded
	// up to whole GiB. If absent, smolvm chooses the size. A Bottle that has a node
	// gets no larger disks than were booked there: status.resources.disk.
	// +optional
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('1')) >= 0",message="storage must be greater than 0"
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('64Ti')) <= 0",message="storage must be at most 64Ti"
	Storage *resource.Quantity `json:"storage,omitempty"`

	// overlay is the size of the disk that holds changes to the root filesystem,
	// up to 64Ti. It is rounded up to whole GiB. If absent, smolvm chooses the
	// size.
	// +optional
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('1')) >= 0",message="overlay must be greater than 0"
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('64Ti')) <= 0",message="overlay must be at most 64Ti"
	Overlay *resource.Quantity `json:"overlay,omitempty"`
}

// Bundle configures the sidecar container that is the guest's only way out.
type Bundle struct {
	// image is the image of the container. It must match one of the patterns in the
	// chart's value bundle.allowedImages (the flag --allowed-bundle-images of the manager
	// and the agent). On a node whose bundles run in Pods, the kubelet pulls it, with
	// spec.imagePullSecrets; otherwise, the node's Docker Engine must already have it. If
	// absent, the built-in egress proxy runs.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9][A-Za-z0-9._:/@-]*$')",message="image must be an OCI reference such as ghcr.io/org/bundle:1.2"
	Image *string `json:"image,omitempty"`

	// env lists the environment variables of the container. Root on the node can read
	// their values, those from Secrets too. So can whoever may use its Docker Engine (the
	// group docker), if that runs the bundle. On a node whose bundles run in Pods, a
	// changed Secret or ConfigMap takes effect when the container starts again, as in any
	// Pod; the agent does not restart it for that.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Env []EnvVar `json:"env,omitempty"`

	// ports are the TCP ports of the bundle that the guest may reach. If absent,
	// it may reach port 8888 only. The condition BundleReady waits until every
	// port answers. The wall (the node's packet filter) blocks all other ports. In a Pod,
	// only the guest and the Pod itself can connect to the bundle, at any port: no other
	// Pod, probe, Service or node can. So a bundle cannot serve its metrics to others and
	// must push them.
	// The guest's access to port 53 cannot be proven, because smolvm itself
	// answers on that port.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:Minimum=1
	// +kubebuilder:validation:items:Maximum=65535
	Ports []int32 `json:"ports,omitempty"`

	// caPath is the absolute path, in the bundle's container, of a PEM file of
	// CA certificates that the guest should trust. The file is mounted into the
	// guest when its machine is created, and later changes to the bundle's file
	// are copied to the guest. Variables such as SSL_CERT_FILE point common tools
	// in the guest to it. The public authorities are added to the file, because most
	// tools trust nothing else then.
	// +optional
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:XValidation:rule="self.startsWith('/') && !self.contains('..')",message="caPath must be an absolute path without '..'"
	CAPath *string `json:"caPath,omitempty"`
}

// RestartPolicy says whether a workload that has ended is started again.
//
// +kubebuilder:validation:Enum=Always;OnFailure;Never
type RestartPolicy string

// Restart policies.
const (
	// RestartAlways starts the workload again whenever it ends, with growing pauses.
	RestartAlways RestartPolicy = "Always"
	// RestartOnFailure starts the workload again, with growing pauses, unless its exit
	// code is 0.
	RestartOnFailure RestartPolicy = "OnFailure"
	// RestartNever lets the Bottle finish when the workload ends.
	RestartNever RestartPolicy = "Never"
)

// Stdin says what a workload reads as its standard input.
//
// +kubebuilder:validation:Enum=Closed;Open;Terminal
type Stdin string

// Kinds of standard input.
const (
	// StdinClosed: the workload reads the end of its input immediately.
	StdinClosed Stdin = "Closed"
	// StdinOpen: the workload reads what is sent with attach.
	StdinOpen Stdin = "Open"
	// StdinTerminal: the workload's input, output and errors are one terminal, which
	// attach connects to.
	StdinTerminal Stdin = "Terminal"
)

// Lifetime limits how long a Bottle runs and how long it is kept.
type Lifetime struct {
	// activeDeadlineSeconds is the number of seconds after status.startTime at which
	// the Bottle finishes, with reason DeadlineExceeded. The workload first gets SIGTERM
	// and some time to end.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483647
	ActiveDeadlineSeconds *int64 `json:"activeDeadlineSeconds,omitempty"`

	// ttlSecondsAfterFinished is the number of seconds after the Bottle has finished at
	// which it is deleted, with its disk, logs and files.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`
}

// Scheduling guides kube-scheduler's choice of a node. The fields are copied to
// the Bottle's placeholder Pod, which reserves the Bottle's resources on a node.
type Scheduling struct {
	// nodeSelector lists labels that the node must have, as in a Pod.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// tolerations let the Bottle run on nodes with matching taints, as in a Pod.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`

	// affinity constrains and ranks nodes, as in a Pod.
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`

	// topologySpreadConstraints spread Bottles across topology domains, as in a
	// Pod. A Bottle's placeholder Pod has only those labels of the Bottle whose keys
	// a selector in these constraints or in affinity names.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	TopologySpreadConstraints []corev1.TopologySpreadConstraint `json:"topologySpreadConstraints,omitempty"`

	// priorityClassName names a PriorityClass, as in a Pod.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	PriorityClassName *string `json:"priorityClassName,omitempty"`
}
