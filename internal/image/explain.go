// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// attempt describes one attempt to pull, for the text of its failure.
type attempt struct {
	registry string
	cred     credential
	// tried counts the credentials that were offered.
	tried int
	keys  keyring
}

// explain returns one line that says what the registry answered and what to do.
// The returned error does not wrap err: it only holds its cleaned text. A
// failure of the node's disk is returned unchanged.
func (a attempt) explain(err error) error {
	if isDisk(err) {
		return err
	}
	var secrets []string
	for _, c := range a.keys.configs {
		for _, auth := range c {
			secrets = append(secrets, credential{auth: auth}.secrets()...)
		}
	}
	problem, remedy := a.describe(err)
	text := clean(problem, secrets...)
	if remedy != "" {
		text += ": " + remedy
	}
	return errors.New(text)
}

func (a attempt) describe(err error) (problem, remedy string) {
	var answer *transport.Error
	if errors.As(err, &answer) {
		return fmt.Sprintf("registry %s answered %s", a.registry, answerText(answer)), a.remedyFor(answer.StatusCode)
	}
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		network   net.Error
	)
	problem = fmt.Sprintf("registry %s: %s", a.registry, err)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("registry %s: the pull took too long", a.registry), "check the connection, or raise --image-pull-timeout"
	case errors.As(err, &dns):
		return problem, "check the name of the registry, and the node's resolver"
	case errors.As(err, &authority):
		return problem, "pass the registry's CA certificate to the agent with --image-ca"
	case errors.As(err, &hostname), errors.As(err, &invalid):
		return problem, "repair the registry's certificate"
	case errors.As(err, &record), strings.Contains(problem, "server gave HTTP response"):
		return problem, "the registry does not use TLS: give it a certificate, or allow it with --image-plain-http"
	case errors.As(err, &network):
		return problem, "check that the registry is running and that the node can reach it, or configure a mirror with --image-mirror"
	}
	return problem, ""
}

// answerText returns the registry's own words without the request.
func answerText(e *transport.Error) string {
	text := fmt.Sprintf("%d %s", e.StatusCode, http.StatusText(e.StatusCode))
	for _, d := range e.Errors {
		if d.Code != "" || d.Message != "" {
			text += fmt.Sprintf(", %s: %s", d.Code, d.Message)
		}
	}
	return text
}

func (a attempt) remedyFor(status int) string {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return a.credentialsText()
	case http.StatusNotFound:
		return "check the image's name and tag; a private image may appear not to exist: " + a.credentialsText()
	case http.StatusTooManyRequests:
		return "wait, pull with credentials (spec.imagePullSecrets), or configure a mirror with the agent's --image-mirror"
	}
	if status >= http.StatusInternalServerError {
		return "the registry has a problem; the pull is retried"
	}
	return ""
}

func (a attempt) credentialsText() string {
	var text string
	switch {
	case a.cred.anonymous():
		text = "no credentials were given for it: add a Secret for " + a.registry + " to spec.imagePullSecrets"
	case a.tried == 1:
		text = "the credentials for it were refused: check the Secret in spec.imagePullSecrets"
	default:
		text = fmt.Sprintf("all %d credentials for it were refused: check the Secrets in spec.imagePullSecrets", a.tried)
	}
	if a.keys.unreadable > 0 {
		text += fmt.Sprintf(" (%d of them do not hold a docker config)", a.keys.unreadable)
	}
	if a.keys.broken {
		text += "; the node's own docker config (--image-docker-config) cannot be read"
	}
	return text
}

// errDisk is a failure of the node's own disk, not of a registry.
type errDisk struct {
	text string
	need need // zero if not known
	// broken means that the problem is not a full disk.
	broken bool
}

func (e errDisk) Error() string { return e.text }

func isDisk(err error) bool {
	var disk errDisk
	return errors.As(err, &disk)
}

// addNeed adds bytes to the need of a full disk.
func addNeed(more need, err error) error {
	var full errDisk
	if !errors.As(err, &full) {
		return err
	}
	full.text, full.need = err.Error(), need{full.need.least + more.least, full.need.likely + more.likely}
	return full
}
