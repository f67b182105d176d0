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

// reference is what a request names.
type reference struct {
	kind kind
	form form
	// given is as the user wrote it; only a valid one ever appears in a text.
	given string
	// canonical is one text for all spellings of a registry's reference.
	canonical string
	// name is NAME of file:NAME and docker-daemon:NAME.
	name string
	ref  name.Reference // ofRegistry
}

// daemonName is what may be given to the Docker Engine: a reference or an ID.
var daemonName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}$`)

// isDaemonName is false also for what would lead elsewhere: the name becomes a
// part of the path that the Engine is asked for.
func isDaemonName(n string) bool { return daemonName.MatchString(n) && path.Clean(n) == n }

// referenceOf fails with host.ErrInvalid.
func referenceOf(req host.ImageRequest) (reference, error) {
	r, err := parseReference(req.Reference)
	if err != nil || !req.Artifact {
		return r, err
	}
	if r.kind == fromDaemon {
		return reference{}, fmt.Errorf("artifact %s: %w: Docker Engine has none: want file:NAME or a registry's reference", r.given, host.ErrInvalid)
	}
	// No image's reference has a space.
	r.form, r.canonical = formArtifact, "artifact "+r.canonical
	return r, nil
}

// parseReference is for images. It fails with host.ErrInvalid.
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

// policy is the one asked for, or Kubernetes' default for the reference.
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

// what is the reference in a text.
func (r reference) text() string { return r.form.noun() + " " + r.given }

// identifier is the tag or the digest.
func (r reference) identifier() string { return r.ref.Identifier() }

// repository is what a digest is looked up under. What has an artifact of the
// digest has no image of it: that of an artifact is of a file that anybody may
// make, such as the manifest of an image of others.
func (r reference) repository() string {
	switch {
	case r.kind != fromRegistry:
		return r.canonical
	case r.form == formArtifact:
		return "artifact " + r.ref.Context().Name()
	}
	return r.ref.Context().Name()
}
