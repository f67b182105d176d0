// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"time"
)

// PullPolicy says when an image is requested from the registry, as in a Pod.
type PullPolicy string

// Pull policies. The zero value is Kubernetes' default: PullAlways for a
// reference without a tag or with the tag latest, else PullIfNotPresent.
const (
	PullAlways       PullPolicy = "Always"
	PullIfNotPresent PullPolicy = "IfNotPresent"
	PullNever        PullPolicy = "Never"
)

// Prefixes of references that need no registry.
const (
	// LocalPrefix marks an archive or an OCI layout in the node's folder of
	// local images.
	LocalPrefix = "file:"
	// DaemonPrefix marks an image of the node's own Docker Engine.
	DaemonPrefix = "docker-daemon:"
)

// ImageRequest is a Bottle's request for an image.
type ImageRequest struct {
	// Reference is an OCI reference, file:NAME or docker-daemon:NAME.
	Reference string
	// Policy applies to OCI references. Images of the other kinds are on the
	// node already: a changed file or a rebuilt image is noticed under every
	// policy.
	Policy PullPolicy
	// PullSecrets are tried in this order, before the node's own credentials.
	// Only their names appear in errors and Events.
	PullSecrets []PullSecret
	// For is the UID of the Bottle that requests the image: it is notified of
	// changes (WatchImages) and gets the Events. It must not be empty. A Bottle
	// has one request at a time: a new request, also one with other secrets,
	// cancels the Bottle's earlier one.
	For string
	// Namespace is the Bottle's. Pulls that wait for a slot are served by turns
	// between namespaces.
	Namespace string
	// Artifact requests a .smolmachine: from a registry, the one layer of an OCI
	// artifact; from the node's folder of local images, a file.
	Artifact bool
	// SHA256 is the checksum that the artifact's file must have, in hexadecimal;
	// "" accepts any. A file with another checksum is a *PullFailed, and is never
	// returned.
	SHA256 string
}

// PullSecret is a Secret with credentials for registries.
type PullSecret struct {
	Name string
	// Content is that of .dockerconfigjson or .dockercfg. It never appears in an
	// error, an Event or a file.
	Content []byte
}

// Image is a file in the store that a machine can be made from: an archive or
// an artifact.
type Image struct {
	// Reference is the requested reference.
	Reference string
	// Digest is sha256:HEX. It is the digest of the image's own manifest: if the
	// reference names an index, of the manifest for the node's platform. For an
	// archive without a manifest (file:, docker-daemon:) it is the digest of the
	// archive, and for an artifact the digest of its file.
	Digest string
	// Path is absolute. The file has mode 0644 and complete content that never
	// changes, and stays at least as long as Collect's minimum age.
	Path string
	Size int64 // of the file, in bytes
}

// Images provides the image archives of this node. No method waits for a
// registry or a disk for longer than a moment: slow work runs in the
// background, once for all requests of the same image, and ends when no request
// needs it any more.
type Images interface {
	// Get returns the image if it is in the store and if a holder of these
	// secrets may have it. A private image is returned without asking the
	// registry only for credentials that the registry has accepted for this very
	// reference; with others, Get asks the registry, whatever the policy.
	//
	// Otherwise Get returns a *Pulling: it started or joined a pull, and
	// WatchImages reports when to call Get again. With PullAlways, the registry's
	// answer that this Bottle has waited for is good for one machine: until
	// Forget, and for at most two minutes after Get first returned the image. If
	// the Bottle waits longer before it makes the machine, Get asks the registry
	// again. The Bottle gets Events of this only when there is something to
	// fetch, or when it fails.
	//
	// Get returns a *PullFailed when the last pull failed; the first call after
	// its Until starts another pull. It returns ErrInvalid when the reference is
	// malformed, is of a kind that this node does not allow or that artifacts
	// cannot have, or when For is empty. It returns ErrNeverPull with PullNever
	// when the image is not in the store or not available with these secrets. It
	// returns ErrNotFound when there is no such local archive.
	Get(ctx context.Context, req ImageRequest) (Image, error)
	// Command returns the command of the image in the archive at this path of the
	// store: its entrypoint, followed by its cmd; nil if it has neither. The error is
	// ErrInvalid if the archive cannot be read, or if CheckCommand refuses the command.
	Command(ctx context.Context, path string) ([]string, error)
	// Forget drops the request of the Bottle with this UID, because the Bottle
	// has made its machine or will have none. Work that only this Bottle needs
	// ends, the Bottle is not notified any more, and its next Get is a new
	// request. Forget may be called at any time and with any UID.
	Forget(uid string)
	// WatchImages calls changed with the For of a request when Get would now
	// answer that request differently. It also calls changed once with "" as soon
	// as it watches, because anything may have changed before. It returns when
	// ctx ends, with its error.
	WatchImages(ctx context.Context, changed func(uid string)) error
}

// Pulling means that the image is being pulled.
type Pulling struct {
	// Done and Total are in bytes. Done advances in steps of a tenth. Total is 0
	// as long as it is not known.
	Done, Total int64
	// Message is for a condition: it names the image and changes at most
	// about a dozen times during a pull.
	Message string
}

func (p *Pulling) Error() string { return p.Message }

// PullFailed says why there is no image. Its text is for a condition: it says
// what to do, quotes nothing that a registry sent, and contains no secret.
type PullFailed struct {
	Err error
	// Until is when the next attempt may start.
	Until time.Time
	// BackOff is false the first time that Get returns this failure to the
	// Bottle (ErrImagePull), and true from then on (ImagePullBackOff).
	BackOff bool
}

func (p *PullFailed) Error() string { return p.Err.Error() }

func (p *PullFailed) Unwrap() error { return p.Err }
