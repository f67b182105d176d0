// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
)

// detail is how much the text about a failed connection may reveal. Whoever
// names an image chooses where the agent connects to, so the text must not tell
// them which ports are open where only the agent gets.
type detail int

const (
	// detailAll is for networks that the administrator named.
	detailAll detail = iota
	// detailTLS is for public addresses. It hides whether a port is open: some
	// public addresses lead back to the node.
	detailTLS
	// detailNone is for private networks, and for hosts that a proxy connects
	// to.
	detailNone
)

const (
	failed        = "the connection failed"
	notUnderstood = "its answer could not be understood"
)

// advice says what to do about a host. What helps with a registry, such as a mirror or
// --image-plain-http, does not help with the hosts that a registry names.
type advice struct{ name, reach, certificate, tls string }

var (
	registryAdvice = advice{
		name:        "check the name of the registry, and the node's resolver",
		reach:       "check that the registry is running and that the node can reach it, or configure a mirror with --image-mirror",
		certificate: "check its certificate (--image-ca, --image-plain-http)",
		tls:         "the registry does not use TLS: give it a certificate, or allow it with --image-plain-http",
	}
	otherAdvice = advice{
		name:        "check the address that the registry gives for it, and the node's resolver",
		reach:       "check that it is running and that the node can reach it",
		certificate: "check its certificate (--image-ca)",
		tls:         "give it a certificate",
	}
)

// failureText returns what is wrong with a connection, and what to do.
func failureText(err error, most detail, help advice) (problem, remedy string) {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return "the name cannot be resolved", help.name
	}
	if most == detailNone {
		return "the agent cannot connect to it, does not trust its certificate or does not understand its answer",
			help.reach + "; " + help.certificate + "; for an address of a private network, only the agent's log (--log-level=debug) says which of these it is"
	}
	if problem, remedy = certificateText(err, help); problem != "" {
		return problem, remedy
	}
	problem = connectionText(err)
	if most == detailTLS && problem != notUnderstood {
		problem = failed
	}
	return problem, help.reach
}

// tokenServer matches the library's refusals of a token server, which have no
// type.
var tokenServer = regexp.MustCompile(`invalid realm in www-authenticate|refusing token-server redirect`)

// certificateText returns "" if the failure is not one of TLS.
func certificateText(err error, help advice) (problem, remedy string) {
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		alert     *net.OpError
	)
	switch {
	case errors.As(err, &authority):
		return "its certificate is signed by an unknown authority", "pass the certificate of its CA to the agent with --image-ca"
	case errors.As(err, &hostname):
		return "its certificate is for another name", "repair its certificate"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired or is not yet valid", "repair its certificate"
	case errors.As(err, &invalid):
		return "its certificate is not valid", "repair its certificate"
	case isNotTLS(err):
		return "its answer is not TLS", help.tls
	case errors.As(err, &alert) && alert.Op == "remote error":
		return "it refuses the agent's version of TLS", "repair its TLS settings"
	}
	return "", ""
}

// isNotTLS reports whether a server answered with something other than TLS.
func isNotTLS(err error) bool {
	var record tls.RecordHeaderError
	return errors.As(err, &record) || strings.Contains(err.Error(), "server gave HTTP response") // net/http has no type for this
}

// connectionText says how a connection failed.
func connectionText(err error) string {
	var (
		network net.Error
		socket  *net.OpError
	)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "the node has no route to it"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it closed the connection"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "it did not answer in time"
	case errors.As(err, &socket):
		return failed
	}
	return notUnderstood
}
