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
	// name of the variable.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z_][A-Za-z0-9_]*$')",message="name must be letters, digits and '_', not starting with a digit"
	Name string `json:"name,omitempty"`

	// value is given to the guest byte for byte.
	// +optional
	// +kubebuilder:validation:MaxLength=32768
	// +kubebuilder:validation:XValidation:rule="!self.contains('\\u0000')",message="value must not contain a NUL character: no process can be given one"
	// +kubebuilder:validation:XValidation:rule=`self.size() == 0 || !(self.charAt(self.size() - 1) in ['\u0009','\u000a','\u000b','\u000c','\u000d','\u0020','\u0085','\u00a0','\u1680','\u2000','\u2001','\u2002','\u2003','\u2004','\u2005','\u2006','\u2007','\u2008','\u2009','\u200a','\u2028','\u2029','\u202f','\u205f','\u3000'])`,message="value must not end in white space: smolvm would drop it"
	Value *string `json:"value,omitempty"`

	// valueFrom takes the value from a Secret or ConfigMap of the Bottle's
	// namespace.
	// +optional
	ValueFrom *EnvVarSource `json:"valueFrom,omitempty"`
}

// EnvVarSource is where a value comes from.
//
// +kubebuilder:validation:XValidation:rule="has(self.secretKeyRef) != has(self.configMapKeyRef)",message="exactly one of secretKeyRef and configMapKeyRef must be set"
type EnvVarSource struct {
	// secretKeyRef selects a key of a Secret.
	// +optional
	SecretKeyRef *KeySelector `json:"secretKeyRef,omitempty"`

	// configMapKeyRef selects a key of a ConfigMap.
	// +optional
	ConfigMapKeyRef *KeySelector `json:"configMapKeyRef,omitempty"`
}

// KeySelector selects one key of a named object.
type KeySelector struct {
	// name of the object.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// key in the object's data.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`

	// optional says that the variable is left out when the object or the key
	// is not there.
	// +optional
	Optional *bool `json:"optional,omitempty"` //nolint:kubeapilinter // as in a Pod
}

// LocalObjectReference names an object of the Bottle's namespace.
type LocalObjectReference struct {
	// name of the object.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
}

// Artifact is a packed machine.
//
// +kubebuilder:validation:XValidation:rule="has(self.path) != has(self.reference)",message="exactly one of path and reference must be set"
type Artifact struct {
	// path is file:NAME, an artifact in the node's folder of local images.
	// +optional
	// +kubebuilder:validation:MinLength=6
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:XValidation:rule="self.matches('^file:[A-Za-z0-9_][A-Za-z0-9._-]*$') && !self.contains('..')",message="path must be file:NAME, NAME of letters, digits, '.', '_' and '-', without '/' and '..'"
	Path *string `json:"path,omitempty"`

	// reference is the artifact's reference in an OCI registry, where it is the
	// one layer of its manifest, as ORAS pushes a file.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9][A-Za-z0-9._:/@-]*$')",message="reference must be an OCI reference such as ghcr.io/org/agent:1.2"
	Reference *string `json:"reference,omitempty"` //nolint:kubeapilinter // the word of the OCI specification

	// sha256 of the artifact's file in hexadecimal, checked before use: smolvm
	// itself checks nothing.
	// +optional
	// +kubebuilder:validation:MinLength=64
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9a-f]{64}$')",message="sha256 must be 64 lower-case hexadecimal digits"
	SHA256 *string `json:"sha256,omitempty"`
}

// Machine is the size of a microVM. What is absent is left to smolvm.
type Machine struct {
	// cpus is the number of virtual CPUs, 1 to 16.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16
	CPUs *int32 `json:"cpus,omitempty"`

	// memory of the guest, at least 64Mi, rounded up to whole MiB.
	// +optional
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('64Mi')) >= 0",message="memory must be at least 64Mi"
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('1Ti')) <= 0",message="memory must be at most 1Ti"
	Memory *resource.Quantity `json:"memory,omitempty"`

	// storage is the size of the data disk, rounded up to whole GiB.
	// +optional
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('1')) >= 0",message="storage must be greater than 0"
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('64Ti')) <= 0",message="storage must be at most 64Ti"
	Storage *resource.Quantity `json:"storage,omitempty"`

	// overlay is the size of the root filesystem's writable disk, rounded up
	// to whole GiB.
	// +optional
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('1')) >= 0",message="overlay must be greater than 0"
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('64Ti')) <= 0",message="overlay must be at most 64Ti"
	Overlay *resource.Quantity `json:"overlay,omitempty"`
}

// Bundle is the sidecar container.
type Bundle struct {
	// image of the container; it must match the agent's allowed bundle images
	// and be in the node's Docker Engine. Absent means the built-in proxy.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9][A-Za-z0-9._:/@-]*$')",message="image must be an OCI reference such as ghcr.io/org/bundle:1.2"
	Image *string `json:"image,omitempty"`

	// env is the environment of the container.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Env []EnvVar `json:"env,omitempty"`

	// ports are the TCP ports of the bundle that the guest may reach, 8888 when
	// absent. BundleReady waits until they answer; the wall keeps the guest from
	// all others. Port 53 cannot be proven to be reached: smolvm answers it.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:Minimum=1
	// +kubebuilder:validation:items:Maximum=65535
	Ports []int32 `json:"ports,omitempty"`

	// caPath is the absolute path, in the bundle's container, of a PEM file
	// that the guest is to trust. It is mounted into the guest when its machine
	// is made, and follows the bundle's from then on.
	// +optional
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:XValidation:rule="self.startsWith('/') && !self.contains('..')",message="caPath must be absolute and without '..'"
	CAPath *string `json:"caPath,omitempty"`
}

// Egress is what the default bundle lets through.
type Egress struct {
	// allow lists rules: HOST[:PORT], with a leading '*.' for all subdomains,
	// or an IP address or CIDR; an IPv6 one with a port in brackets. The port
	// is 443 when absent. Nothing else is let through. Loopback, link-local and
	// metadata addresses and the Bottle's own subnet can never be opened; other
	// private addresses by a rule that names them.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	Allow []EgressRule `json:"allow,omitempty"`
}

// EgressRule is HOST[:PORT].
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=280
// +kubebuilder:validation:XValidation:rule=`self.matches(r'^((\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?|[0-9.]+/[0-9]+|\[[0-9A-Fa-f:.]+(/[0-9]+)?\])(:[0-9]{1,5})?$|^[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(/[0-9]+)?$')`,message="a rule must be HOST[:PORT], *.HOST[:PORT], an IP address or a CIDR, such as api.example.com, *.example.com:8443, 203.0.113.7 or [2001:db8::/32]:443"
// +kubebuilder:validation:XValidation:rule=`!self.matches(r'^([^:]*|\[.*\]):[0-9]{1,5}$') || (self.matches(r':[1-9][0-9]*$') && int(self.substring(self.lastIndexOf(':') + 1)) <= 65535)`,message="the port must be 1 to 65535"
// +kubebuilder:validation:XValidation:rule=`!self.matches(r'^([^:]*\.)?([0-9]+|0[xX][0-9A-Fa-f]*)\.?(:[0-9]+)?$') || isIP(self.split(':')[0])`,message="a rule that ends in a number must be an IPv4 address, such as 203.0.113.7"
// +kubebuilder:validation:XValidation:rule=`!self.matches(r'^[0-9.]+/') || (isCIDR(self.split(':')[0]) && cidr(self.split(':')[0]).masked() == cidr(self.split(':')[0]))`,message="a rule with '/' must be a CIDR without host bits, such as 203.0.113.0/24"
// +kubebuilder:validation:XValidation:rule=`!self.matches(r'^(\[|[^:]*:[^:]*:)') || (self.contains('/') ? isCIDR((self.startsWith('[') ? self.substring(1, self.indexOf(']')) : self)) && cidr((self.startsWith('[') ? self.substring(1, self.indexOf(']')) : self)).ip().family() == 6 && cidr((self.startsWith('[') ? self.substring(1, self.indexOf(']')) : self)).masked() == cidr((self.startsWith('[') ? self.substring(1, self.indexOf(']')) : self)) : isIP((self.startsWith('[') ? self.substring(1, self.indexOf(']')) : self)) && ip((self.startsWith('[') ? self.substring(1, self.indexOf(']')) : self)).family() == 6)`,message="a rule in brackets or with two colons must be an IPv6 address or a CIDR without host bits, such as 2001:db8::/32, in brackets when a port follows"
// +kubebuilder:validation:XValidation:rule=`!self.matches(r'(?i)^(.*\.)?localhost\.?(:[0-9]+)?$')`,message="localhost can never be allowed: it is the bundle itself"
type EgressRule string

// Lifetime bounds a Bottle in time.
type Lifetime struct {
	// activeDeadlineSeconds is the time, counted from status.startTime, after
	// which the machine is stopped for good.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483647
	ActiveDeadlineSeconds *int64 `json:"activeDeadlineSeconds,omitempty"`

	// ttlSecondsAfterFinished is the time, counted from when the deadline
	// passed, after which the Bottle is deleted.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2147483647
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`
}

// Scheduling is copied to the placeholder Pod.
type Scheduling struct {
	// nodeSelector as in a Pod.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// tolerations as in a Pod.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`

	// affinity as in a Pod.
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`

	// topologySpreadConstraints as in a Pod.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	TopologySpreadConstraints []corev1.TopologySpreadConstraint `json:"topologySpreadConstraints,omitempty"`

	// priorityClassName as in a Pod.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	PriorityClassName *string `json:"priorityClassName,omitempty"`
}
