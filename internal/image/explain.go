// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// ownError is an error in the store's own words. All other errors of a pull may
// quote a registry or a host that it names, or reveal what answers at an
// address, so they are never shown: explain finds words for them.
type ownError struct{ error }

// Unwrap returns what the error wraps.
func (e ownError) Unwrap() error { return errors.Unwrap(e.error) }

// ownErrorf is like fmt.Errorf. Nothing that a registry sent may be among the
// arguments, except numbers and verified digests.
func ownErrorf(format string, args ...any) error {
	return ownError{fmt.Errorf(format, args...)}
}

// otherSources is what helps against a limit on requests.
const otherSources = "pull with credentials (spec.imagePullSecrets), or configure a mirror with the agent's --image-mirror"

// errTooLong means that a pull did not end in time.
var errTooLong = errors.New("the pull took too long")

// attempt describes one attempt to pull, for the text of its failure.
type attempt struct {
	registry string
	repo     name.Repository
	// tried are the credentials that were offered.
	tried []credential
	keys  keyring
	dials *dialer
}

// log says more than explain about a connection that failed. It is for
// administrators, and it is still in the store's own words.
func (a attempt) log(l logr.Logger, err error) {
	text, _ := failureText(err, detailAll, registryAdvice)
	if shown, _ := failureText(err, a.detail(), registryAdvice); text != shown {
		l.V(1).Info("A connection for an image failed", "registry", clean(a.registry), "reason", text)
	}
}

// explain returns one line that says what went wrong and what to do, in the
// store's own words. The returned error does not wrap err. A failure of the
// node's disk is returned unchanged.
func (a attempt) explain(err error) error {
	if isDisk(err) {
		return err
	}
	problem, remedy := a.describe(err)
	text := clean(problem)
	if remedy != "" {
		text += ": " + remedy
	}
	var asked *askedToWait
	if errors.As(err, &asked) {
		return &postponed{errors.New(text), asked.until}
	}
	return errors.New(text)
}

func (a attempt) describe(err error) (problem, remedy string) {
	var (
		refused *refusedError
		broken  *brokenError
		own     ownError
		asked   *askedToWait
		answer  *transport.Error
	)
	switch {
	case errors.Is(err, errTooLong):
		return fmt.Sprintf("registry %s: %s", a.registry, errTooLong), "check the connection, or raise --image-pull-timeout"
	case errors.As(err, &refused):
		return a.refusal(refused), "use a registry elsewhere, or have an administrator of the node name the network in the agent's --registry-allow-networks"
	case errors.As(err, &broken):
		problem, remedy = a.describe(broken.cause)
		return fmt.Sprintf("%s (the connection broke %d times, last at byte %d of %d)", problem, broken.tries, broken.offset, broken.size), remedy
	case errors.As(err, &own):
		return fmt.Sprintf("registry %s: %s", a.registry, own), ""
	case errors.As(err, &asked):
		return fmt.Sprintf("%s answered %s, and asks to wait until %s, longer than a pull may take (--image-pull-timeout); the pull is tried again then",
				a.inserted(a.partyOf(err, asked.answer)), answerText(asked.answer), untilText(asked.until)),
			"to need fewer requests, " + otherSources
	case errors.As(err, &answer):
		at := a.partyOf(err, answer)
		return fmt.Sprintf("%s answered %s", a.inserted(at), answerText(answer)), a.remedyFor(at, answer.StatusCode)
	}
	if tokenServer.MatchString(err.Error()) {
		return fmt.Sprintf("registry %s: the token server that it names may not be used", a.registry),
			"let it name an https URL with a public host name, or one on the registry's own host"
	}
	at := a.partyOf(err, nil)
	var upgraded *upgradedError
	var dns *net.DNSError
	if at.redirected && errors.As(err, &upgraded) && !errors.As(err, &dns) {
		return fmt.Sprintf("registry %s redirects the agent to host %s over plain HTTP, which the agent does not use, and over TLS the agent cannot connect to it, or does not trust its certificate", a.registry, hostText(at.host)),
			"let the registry redirect to https, or serve the content itself"
	}
	help := otherAdvice
	if at == (party{}) {
		help = registryAdvice
	}
	problem, remedy = failureText(err, a.detail(), help)
	if at.redirected {
		remedy += ", or let the registry serve the content itself"
	}
	return a.subject(at) + ": " + problem, remedy
}

func (a attempt) refusal(e *refusedError) string {
	if a.isRegistry(e.host) {
		return fmt.Sprintf("registry %s: its %s", a.registry, e)
	}
	if name, _, err := net.SplitHostPort(e.host); err == nil {
		if _, err := netip.ParseAddr(name); err != nil {
			return fmt.Sprintf("registry %s sends the agent to %s, whose %s", a.registry, hostText(name), e)
		}
	}
	return fmt.Sprintf("registry %s sends the agent to a host whose %s", a.registry, e)
}

// isRegistry reports whether HOST[:PORT] is the registry's own.
func (a attempt) isRegistry(host string) bool {
	return host == a.registry || host == a.registry+":443" || host == a.registry+":80"
}

// partyOf returns the host at which a request failed. answer may be nil.
func (a attempt) partyOf(err error, answer *transport.Error) party {
	var failed *partyError
	var out party
	switch {
	case answer != nil && answer.Request != nil:
		out = partyOf(answer.Request)
	case errors.As(err, &failed):
		out = failed.party
	}
	if a.isRegistry(out.host) {
		return party{}
	}
	return out
}

// subject says who failed. The names of the hosts come from the registry, so hostText
// cleans them.
func (a attempt) subject(p party) string {
	switch {
	case p.host == "":
		return "registry " + a.registry
	case p.redirected:
		return fmt.Sprintf("host %s, to which registry %s redirects the agent", hostText(p.host), a.registry)
	}
	return fmt.Sprintf("host %s, the token server of registry %s", hostText(p.host), a.registry)
}

// inserted is the subject as the start of a sentence.
func (a attempt) inserted(p party) string {
	if p.host == "" {
		return a.subject(p)
	}
	return a.subject(p) + ","
}

// detail returns how much a failure may reveal.
func (a attempt) detail() detail {
	switch {
	case a.dials.private.Load():
		return detailNone
	case a.dials.public.Load():
		return detailTLS
	}
	return detailAll
}

// codes are the error codes of the distribution specification, with its descriptions of
// them.
var codes = map[transport.ErrorCode]string{
	transport.BlobUnknownErrorCode:         "blob unknown to registry",
	transport.DigestInvalidErrorCode:       "provided digest did not match uploaded content",
	transport.ManifestBlobUnknownErrorCode: "blob unknown to registry",
	transport.ManifestInvalidErrorCode:     "manifest invalid",
	transport.ManifestUnknownErrorCode:     "manifest unknown",
	transport.NameInvalidErrorCode:         "invalid repository name",
	transport.NameUnknownErrorCode:         "repository name not known to registry",
	transport.SizeInvalidErrorCode:         "provided length did not match content length",
	transport.TagInvalidErrorCode:          "manifest tag did not match URI",
	transport.UnauthorizedErrorCode:        "authentication required",
	transport.DeniedErrorCode:              "requested access to the resource is denied",
	transport.UnsupportedErrorCode:         "the operation is unsupported",
	transport.TooManyRequestsErrorCode:     "too many requests",
	transport.UnavailableErrorCode:         "service unavailable",
}

// answerText returns the status of an answer, and the meaning of its first error
// code that the specification knows. Everything else in an answer is the
// registry's words.
func answerText(e *transport.Error) string {
	text := fmt.Sprintf("%d %s", e.StatusCode, http.StatusText(e.StatusCode))
	for _, d := range e.Errors {
		if meaning, ok := codes[d.Code]; ok {
			return fmt.Sprintf("%s, %s: %s", text, d.Code, meaning)
		}
	}
	return text
}

func (a attempt) remedyFor(at party, status int) string {
	if at.redirected {
		return "check the storage of the registry, its clock and the node's clock, or let the registry serve the content itself"
	}
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return a.credentialsText()
	case http.StatusNotFound:
		return "check the image's name and tag; a private image may appear not to exist: " + a.credentialsText()
	case http.StatusTooManyRequests:
		return "wait, or " + otherSources + a.problemsText()
	}
	if status >= http.StatusInternalServerError {
		return "the registry has a problem; the pull is retried"
	}
	return ""
}

func (a attempt) credentialsText() string {
	var text string
	switch {
	case len(a.tried) == 0 || a.tried[0].anonymous():
		text = "no credentials were given for it: add a Secret for " + a.registry + " to spec.imagePullSecrets"
	case len(a.tried) == 1:
		text = "the credentials for it were refused: check the " + originOf(a.tried[0])
	default:
		text = fmt.Sprintf("all %d credentials for it were refused: check the %s", len(a.tried), originsOf(a.tried))
	}
	for _, c := range a.tried {
		if strings.TrimSpace(c.auth.Password) != c.auth.Password {
			text += "; the password in the " + originOf(c) + " begins or ends with white space"
			break
		}
	}
	text += a.problemsText()
	if p := a.keys.node.unusable; p != "" && p != noEntries {
		text += "; the node's own docker config (--image-docker-config): " + p
	}
	return text
}

// originOf says where credentials come from.
func originOf(c credential) string {
	if c.from == "" {
		return "node's own docker config (--image-docker-config)"
	}
	return "Secret " + c.from + " in spec.imagePullSecrets"
}

func originsOf(creds []credential) string {
	var secrets, out []string
	for _, c := range creds {
		if c.from != "" && !slices.Contains(secrets, c.from) {
			secrets = append(secrets, c.from)
		}
	}
	if more := len(secrets) - maxProblems; more > 0 {
		secrets = append(secrets[:maxProblems], fmt.Sprintf("%d more", more))
	}
	switch len(secrets) {
	case 0:
	case 1:
		out = append(out, "Secret "+secrets[0]+" in spec.imagePullSecrets")
	default:
		out = append(out, "Secrets in spec.imagePullSecrets ("+strings.Join(secrets, ", ")+")")
	}
	if slices.ContainsFunc(creds, func(c credential) bool { return c.from == "" }) {
		out = append(out, originOf(credential{}))
	}
	return strings.Join(out, " and the ")
}

// problemsText says which pull secrets hold no credentials for the registry, why, and
// how to make one that does.
func (a attempt) problemsText() string {
	problems := a.keys.problems(a.repo)
	if problems == "" {
		return ""
	}
	return "; " + problems + ": create such a Secret with kubectl create secret docker-registry --docker-server=" + a.registry
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
