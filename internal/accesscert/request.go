// SPDX-License-Identifier: Apache-2.0

package accesscert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

const (
	requestBlock = "CERTIFICATE REQUEST"
	// maxRequest bounds spec.request. A request with one name and a P-256 key has
	// about 500 bytes.
	maxRequest = 4096
	// minLife is the shortest life that a request may ask for, as Kubernetes does.
	minLife = 10 * time.Minute
)

// agentUsages are the only ones that a request may have.
var agentUsages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}

// newRequest returns the PEM form of the request of a node's agent.
func newRequest(node string, key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{AgentDNSName(node)}}, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: requestBlock, Bytes: der}), nil
}

// grant is what a valid request asks for.
type grant struct {
	node string
	key  crypto.PublicKey
	life time.Duration
}

// checkRequest returns what to sign. The error says why the request is denied; it
// quotes nothing of the request.
func checkRequest(namespace string, spec certificatesv1.CertificateSigningRequestSpec) (grant, error) {
	node, err := nodeOf(namespace, spec)
	if err != nil {
		return grant{}, err
	}
	request, err := parseRequest(spec.Request)
	if err != nil {
		return grant{}, err
	}
	switch key := request.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return grant{}, errors.New("the key must be ECDSA P-256 or Ed25519")
		}
	case ed25519.PublicKey:
	default:
		return grant{}, errors.New("the key must be ECDSA P-256 or Ed25519")
	}
	if len(request.RawSubject) > len(emptyName) {
		return grant{}, errors.New("the subject must be empty")
	}
	if len(request.IPAddresses)+len(request.EmailAddresses)+len(request.URIs) > 0 || len(request.DNSNames) != 1 || len(request.Extensions) != 1 {
		return grant{}, errors.New("the request must have one DNS name and no other names or extensions")
	}
	if request.DNSNames[0] != AgentDNSName(node) {
		return grant{}, errors.New("the DNS name is not that of the node to which the requester's token is bound")
	}
	usages := slices.Clone(spec.Usages)
	slices.Sort(usages)
	if !slices.Equal(usages, agentUsages) {
		return grant{}, errors.New("the usages must be digital signature and server auth")
	}
	life := leafLife
	if spec.ExpirationSeconds != nil {
		life = min(life, max(minLife, time.Duration(*spec.ExpirationSeconds)*time.Second))
	}
	return grant{node: node, key: request.PublicKey, life: life}, nil
}

// emptyName is the DER form of a subject without attributes.
var emptyName = []byte{0x30, 0}

// AgentUser returns the user name of the agents of the operator in a namespace.
func AgentUser(namespace string) string {
	return "system:serviceaccount:" + namespace + ":" + agentAccount
}

// nodeOf returns the node of the requester, who must be an agent. The API server
// fills in these fields.
func nodeOf(namespace string, spec certificatesv1.CertificateSigningRequestSpec) (string, error) {
	if spec.Username != AgentUser(namespace) {
		return "", errors.New("the requester is not the ServiceAccount " + agentAccount + " of the operator's namespace")
	}
	nodes := spec.Extra[nodeNameKey]
	if len(nodes) != 1 || nodes[0] == "" {
		return "", errors.New("the requester's token is not bound to a Node")
	}
	return nodes[0], nil
}

func parseRequest(data []byte) (*x509.CertificateRequest, error) {
	if len(data) > maxRequest {
		return nil, fmt.Errorf("the request has more than %d bytes", maxRequest)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != requestBlock || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("the request is not one certificate request in PEM form")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, errors.New("the request cannot be parsed")
	}
	if err := request.CheckSignature(); err != nil {
		return nil, errors.New("the request is not signed with its key")
	}
	return request, nil
}

// requestPrefix is the beginning of the names of a node's requests. The policy
// bottle-agent-certificates requires it.
func requestPrefix(node string) string {
	return strings.Join([]string{agentAccount, node, ""}, "-")
}
