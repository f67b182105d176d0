// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// EgressStatus reports refused connections and leaks.
type EgressStatus struct {
	// recentDenials are the destinations that were refused last, as HOST:PORT. For
	// refused requests to hosts of spec.egress.rules, each is "HOST:PORT: REASON", which
	// says what would allow the request. Special characters are escaped and long values
	// are truncated.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=450
	RecentDenials []string `json:"recentDenials,omitempty"`

	// closedByPlatform are those of recentDenials that a rule of the Bottle names but
	// the platform keeps closed, each as "HOST:PORT: REASON".
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=200
	ClosedByPlatform []string `json:"closedByPlatform,omitempty"`

	// credentials are the credentials of the Bottle's rules that its bundle has, and since
	// when it has this version of them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Credentials []CredentialStatus `json:"credentials,omitempty"`

	// leak is set after the guest reached something other than its bundle. While
	// it is set, the machine does not start on any node. To let it start again,
	// change the spec or the annotation botbottle.dev/prove.
	// +optional
	Leak *EgressLeak `json:"leak,omitempty"`
}

// CredentialStatus says which version of a credential is in force.
type CredentialStatus struct {
	// secretName is the name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	SecretName string `json:"secretName,omitempty"`

	// key is the key in the Secret's data.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`

	// resourceVersion is the version of the Secret that the bundle has.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	ResourceVersion string `json:"resourceVersion,omitempty"`

	// since is the time at which the bundle got this version of the credential.
	// +required
	Since metav1.Time `json:"since,omitempty,omitzero"` //nolint:kubeapilinter // every version has a time
}

// EgressLeak describes how the guest reached something other than its bundle.
type EgressLeak struct {
	// time is the time at which the agent noticed the leak.
	// +required
	Time metav1.Time `json:"time,omitempty,omitzero"` //nolint:kubeapilinter // every leak has a time

	// path describes what the guest reached.
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

	// asked identifies the state for which the leak was reported: the generation
	// of the spec, the annotation botbottle.dev/prove and the bundle's image. The
	// machine may start again once any of them changes.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Asked string `json:"asked,omitempty"`
}
