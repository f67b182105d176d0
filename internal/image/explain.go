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

// attempt is one try of a pull, for the text of its failure.
type attempt struct {
	registry string
	cred     credential
	// tried counts the credentials that were offered.
	tried int
	keys  keyring
}

// explain says in one line what the registry answered and what to do. What it
// returns holds nothing of err but its text, cleaned.
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
		return problem, "name the registry's authority to the agent with --image-ca"
	case errors.As(err, &hostname), errors.As(err, &invalid):
		return problem, "mend the registry's certificate"
	case errors.As(err, &record), strings.Contains(problem, "server gave HTTP response"):
		return problem, "the registry speaks no TLS: give it a certificate, or allow it with --image-plain-http"
	case errors.As(err, &network):
		return problem, "check that the registry runs and that the node may reach it, or name a mirror with --image-mirror"
	}
	return problem, ""
}

// answerText is the registry's own words, without what it was asked.
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
		return "check the image's name and tag; a private image may look absent: " + a.credentialsText()
	case http.StatusTooManyRequests:
		return "wait, pull with credentials (spec.imagePullSecrets), or name a mirror to the agent with --image-mirror"
	}
	if status >= http.StatusInternalServerError {
		return "it is the registry's trouble; it is asked again"
	}
	return ""
}

func (a attempt) credentialsText() string {
	var text string
	switch {
	case a.cred.anonymous():
		text = "no credentials for it were given: name a Secret for " + a.registry + " in spec.imagePullSecrets"
	case a.tried == 1:
		text = "the credentials for it were refused: check the Secret in spec.imagePullSecrets"
	default:
		text = fmt.Sprintf("all %d credentials for it were refused: check the Secrets in spec.imagePullSecrets", a.tried)
	}
	if a.keys.unreadable > 0 {
		text += fmt.Sprintf(" (%d of them hold no docker config)", a.keys.unreadable)
	}
	if a.keys.broken {
		text += "; the node's own docker config (--image-docker-config) cannot be read"
	}
	return text
}

// errDisk is a failure of the node's own disk, not of a registry.
type errDisk struct {
	text string
	need need // zero where it is not known
	// broken: it is something else than full.
	broken bool
}

func (e errDisk) Error() string { return e.text }

func isDisk(err error) bool {
	var disk errDisk
	return errors.As(err, &disk)
}

// needing adds bytes to the need of a full disk.
func addNeed(more need, err error) error {
	var full errDisk
	if !errors.As(err, &full) {
		return err
	}
	full.text, full.need = err.Error(), need{full.need.least + more.least, full.need.likely + more.likely}
	return full
}
