// SPDX-License-Identifier: Apache-2.0

// Package accesscert makes and renews the certificates of the access API: the
// operator's own CA, the manager's serving certificate (which kube-apiserver checks
// with the APIService's caBundle), the manager's client certificate, and the
// agents' serving certificates. Authority is the manager's side, Signer signs the
// agents' requests, and Keeper is the agent's side.
//
// It does not listen or connect, and it does not decide what a user may do.
package accesscert

import (
	"crypto/tls"
	"time"

	"k8s.io/utils/clock"
)

const (
	// SecretName is the Secret in the operator's namespace that holds the CA.
	SecretName = "bottle-access-ca"
	// SignerName is that of the agents' CertificateSigningRequests.
	SignerName = "botbottle.dev/agent-serving"
	// APIServiceName is the APIService whose caBundle the manager keeps up to date.
	APIServiceName = "v1alpha1.subresources.botbottle.dev"
	// ManagerName is the common name of the manager's client certificate.
	ManagerName = "bottle-manager"

	// agentDomain is the parent of the agents' DNS names, which exist only in
	// certificates.
	agentDomain = ".agents.botbottle.dev"
	// agentAccount is the name of the agents' ServiceAccount.
	agentAccount = "bottle-agent"
	// nodeNameKey is the extra attribute of a user whose token is bound to a Node.
	nodeNameKey = "authentication.kubernetes.io/node-name"
)

const (
	// caLife is how long a CA is valid. Its successor is made at two thirds.
	caLife = 365 * 24 * time.Hour
	// leafLife is how long every other certificate is valid.
	leafLife = 24 * time.Hour
	// overlap is how long a new CA is in the bundle before it signs. An agent learns
	// of it when it renews its certificate, at the latest when that expires.
	overlap = 2 * leafLife
	// skew is how far the clocks of the manager and the others may differ.
	skew = 5 * time.Minute
)

// AgentDNSName returns the name in the serving certificate of a node's agent.
func AgentDNSName(node string) string { return node + agentDomain }

// baseConfig is what both ends of the hop to an agent require. SPDY needs HTTP/1.1.
func baseConfig(c clock.PassiveClock) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}, SessionTicketsDisabled: true, Time: c.Now}
}
