// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Egress lists the destinations that the default bundle lets the guest reach.
type Egress struct {
	// allow lists the destinations that the guest may reach through the default
	// bundle, which refuses everything else. A rule is HOST[:PORT], where HOST is
	// a host name, "*." followed by a domain for all of its subdomains, an IP
	// address or a CIDR. An IPv6 address or CIDR that is followed by a port must
	// be in brackets. The default port is 443. Loopback, link-local and metadata
	// addresses and the Bottle's own subnet can never be allowed. Other private
	// addresses are allowed only by a rule that names the address or a CIDR that
	// contains it, not by a rule for a host name. A node closes more for every
	// Bottle: its subnet pool, its own addresses, and what its agent's flags
	// --egress-closed and --egress-ceiling say. Rules that lie wholly in it are refused.
	// Connections to these hosts are tunnelled unopened, unless an entry of rules names
	// the host too.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	Allow []EgressRule `json:"allow,omitempty"`

	// rules name hosts whose requests the default bundle opens and checks. The guest
	// reaches these hosts like those in allow, but only with requests that a rule of the
	// host matches; of several rules that match, the first one decides. A rule for the
	// host itself takes precedence over one for *. and a domain. Rules need the built-in
	// bundle. Changes take effect at once, without a restart. For the first rule of a
	// Bottle that is running already, the machine must start again before its tools trust
	// the Bottle's certificate authority.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(a, !has(a.credential) || !has(a.credential.env) || self.all(b, !has(b.credential) || !has(b.credential.env) || a.credential.env != b.credential.env || (a.credential.secretKeyRef.name == b.credential.secretKeyRef.name && a.credential.secretKeyRef.key == b.credential.secretKeyRef.key)))",message="two credentials with different Secrets or keys have the same env: give each a variable of its own"
	Rules []HTTPRule `json:"rules,omitempty"`
}

// HTTPRule lets requests to one host through, and can add a credential to them.
//
// +kubebuilder:validation:XValidation:rule=`!self.host.contains('/') || self.host.matches(r'^[0-9.]+/32(:[0-9]+)?$|^[^.]*/128(\]:[0-9]+|\])?$')`,fieldPath=".host",message="host must be a host name or a single address: requests to a whole network cannot be checked. Name each address, or add the CIDR to spec.egress.allow, which tunnels connections unopened"
type HTTPRule struct {
	// host is the host that the rule is for, as in allow, but not a CIDR with more than
	// one address.
	// +required
	Host EgressRule `json:"host,omitempty"`

	// http lists the requests that the rule lets through. If absent, it lets through
	// every request to the host.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	HTTP []HTTPMatch `json:"http,omitempty"` //nolint:kubeapilinter // a rule requires methods or paths

	// credential is added to the requests that the rule lets through. The guest never
	// has it.
	// +optional
	Credential *Credential `json:"credential,omitempty"`

	// passSecrets name Secrets of spec.env and of credentials whose values requests that
	// the rule lets through may contain. The bundle refuses other requests that contain
	// one.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	PassSecrets []LocalObjectReference `json:"passSecrets,omitempty"`
}

// HTTPMatch describes requests by method and path. A request must match both.
//
// +kubebuilder:validation:XValidation:rule="has(self.methods) || has(self.paths)",message="an entry of http must have methods or paths: to let every request through, leave http out"
type HTTPMatch struct {
	// methods are the methods that match, in upper case. If absent, every method does.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Methods []HTTPMethod `json:"methods,omitempty"`

	// paths are patterns for the path of the URL, of which one must match. In a pattern,
	// * stands for any characters within a segment, and ** also across segments. If
	// absent, every path matches.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Paths []HTTPPath `json:"paths,omitempty"`
}

// HTTPMethod is a method of HTTP.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=32
// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Z][A-Z_-]*$')",message="a method must be in upper case, such as GET or POST; leave methods out to match every method"
type HTTPMethod string

// HTTPPath is a pattern for the path of a URL.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=256
// +kubebuilder:validation:XValidation:rule="self.startsWith('/')",message="a path must begin with '/', such as /v1/messages or /v1/**"
// +kubebuilder:validation:XValidation:rule="!self.matches('[^!-~]')",message="a path must be printable ASCII without spaces: write other characters as in a URL, such as %20 for a space"
// +kubebuilder:validation:XValidation:rule="!self.contains('?') && !self.contains('#')",message="a path must not contain '?' or '#': patterns are compared with the path alone, without the query"
// +kubebuilder:validation:XValidation:rule="!self.contains('//') && !self.contains('***')",message="a path must not contain '//' or '***': * stands for characters within a segment, and ** also across segments"
type HTTPPath string

// Credential is a secret that the bundle adds to requests.
//
// +kubebuilder:validation:XValidation:rule="!has(self.basicUser) || !(has(self.header) || has(self.prefix))",message="basicUser excludes header and prefix, because HTTP basic authentication has its own: remove them, or remove basicUser"
type Credential struct {
	// secretKeyRef selects the key of a Secret, in the Bottle's namespace, that holds the
	// secret. A change takes effect within seconds. White space at the end of the value is
	// dropped. While the Secret or the key does not exist, the bundle refuses the requests
	// that would get the credential.
	// +required
	SecretKeyRef SecretKeySelector `json:"secretKeyRef,omitempty,omitzero"`

	// header is the header that carries the secret. The bundle removes this header from
	// what the guest sends. The default is Authorization.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`self.matches(r"^[A-Za-z0-9!#$%&'*+.^_|~\x60-]+$")`,message="header must be the name of one header, such as Authorization or x-api-key, without ':' and without its value"
	// +kubebuilder:validation:XValidation:rule="!(self.lowerAscii() in ['accept-encoding','connection','content-encoding','content-length','content-type','expect','forwarded','host','if-range','keep-alive','proxy-authenticate','proxy-authorization','proxy-connection','range','te','trailer','transfer-encoding','upgrade','via']) && !self.lowerAscii().startsWith('sec-websocket-')",message="header must be one that carries a credential, such as Authorization, x-api-key or Cookie: clients, servers and proxies need this one for something else"
	Header *string `json:"header,omitempty"`

	// prefix stands before the secret in the header. The default is "Bearer " for
	// the header Authorization, and nothing for any other.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[ -~]*$')",message="prefix must be printable ASCII, such as \"Bearer \" or \"token \""
	Prefix *string `json:"prefix,omitempty"`

	// basicUser is the user's name for HTTP basic authentication, in which the secret is
	// the password. It excludes header and prefix.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:XValidation:rule="self.matches('^[ -9;-~]+$')",message="basicUser must be printable ASCII without ':', such as x-access-token"
	BasicUser *string `json:"basicUser,omitempty"`

	// env is the name of a variable that the guest gets with a placeholder as its value,
	// for programs that do not start without one. A variable of the same name in spec.env
	// takes precedence.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z_][A-Za-z0-9_]*$')",message="env must be letters, digits and '_', not starting with a digit, such as ANTHROPIC_API_KEY"
	Env *string `json:"env,omitempty"`
}

// SecretKeySelector selects one key of a Secret.
type SecretKeySelector struct {
	// name is the name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// key is the key in the Secret's data.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// EgressRule is one destination, HOST[:PORT].
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
