// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"botbottle.dev/bottle-operator/internal/host"
)

type kind int

const (
	fromRegistry kind = iota
	fromFolder
	fromDaemon
)

// reference is a parsed reference.
type reference struct {
	kind kind
	form form
	// given is the text that the user wrote. Only a valid reference ever
	// appears in a message.
	given string
	// canonical is the same for all spellings of a reference to a registry.
	canonical string
	// name is NAME of file:NAME and docker-daemon:NAME.
	name string
	ref  name.Reference // ofRegistry
}

// daemonName matches what may be passed to the Docker Engine: a reference or an
// ID.
var daemonName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}$`)

// isDaemonName also rejects names that lead to another path: the name becomes
// part of the path of a request to the Engine.
func isDaemonName(n string) bool { return daemonName.MatchString(n) && path.Clean(n) == n }

// referenceOf parses the reference of a request. Its error is host.ErrInvalid.
func referenceOf(req host.ImageRequest) (reference, error) {
	r, err := parseReference(req.Reference)
	if err != nil || !req.Artifact {
		return r, err
	}
	if r.kind == fromDaemon {
		return reference{}, fmt.Errorf("artifact %s: %w: Docker Engine has no artifacts: want file:NAME or a reference to a registry", r.given, host.ErrInvalid)
	}
	// The prefix is unambiguous: no reference of an image contains a space.
	r.form, r.canonical = formArtifact, "artifact "+r.canonical
	return r, nil
}

// parseReference parses the reference of an image. Its error is
// host.ErrInvalid.
func parseReference(given string) (reference, error) {
	if n, ok := strings.CutPrefix(given, host.LocalPrefix); ok {
		// "." would be the folder itself.
		if !fs.ValidPath(n) || n == "." || strings.ContainsRune(n, 0) {
			return reference{}, fmt.Errorf("image %q: %w: want file:NAME, a path below the node's folder of local images without \"..\"", given, host.ErrInvalid)
		}
		return reference{kind: fromFolder, form: formArchive, given: given, canonical: given, name: n}, nil
	}
	if n, ok := strings.CutPrefix(given, host.DaemonPrefix); ok {
		if !isDaemonName(n) {
			return reference{}, fmt.Errorf("image %q: %w: want docker-daemon:NAME[:TAG]", given, host.ErrInvalid)
		}
		return reference{kind: fromDaemon, form: formArchive, given: given, canonical: given, name: n}, nil
	}
	ref, err := name.ParseReference(given)
	if err != nil {
		// The text may hold anything, such as a URL with a password.
		return reference{}, fmt.Errorf("image reference: %w: want [HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST] without a scheme, as in ghcr.io/org/agent:1.2", host.ErrInvalid)
	}
	return reference{kind: fromRegistry, form: formArchive, given: given, canonical: ref.Name(), ref: ref}, nil
}

// policy returns the requested policy, or the default of Kubernetes for the
// reference.
func (r reference) policy(requested host.PullPolicy) (host.PullPolicy, error) {
	switch requested {
	case host.PullAlways, host.PullIfNotPresent, host.PullNever:
		return requested, nil
	case "":
	default:
		return "", fmt.Errorf("image %s: %w: pull policy %q: want Always, IfNotPresent or Never", r.given, host.ErrInvalid, requested)
	}
	if tag, ok := r.ref.(name.Tag); ok && tag.TagStr() == name.DefaultTag {
		return host.PullAlways, nil
	}
	return host.PullIfNotPresent, nil
}

// text names the reference in messages.
func (r reference) text() string { return r.form.noun() + " " + r.given }

// identifier returns the tag or the digest.
func (r reference) identifier() string { return r.ref.Identifier() }

// repository returns the name under which the store records that a digest was
// served. Artifacts and images have different names, because access to the
// artifact with a digest must not give access to the image with that digest. An
// artifact is any file, so it may be a copy of the manifest of somebody else's
// image.
func (r reference) repository() string {
	switch {
	case r.kind != fromRegistry:
		return r.canonical
	case r.form == formArtifact:
		return "artifact " + r.ref.Context().Name()
	}
	return r.ref.Context().Name()
}
