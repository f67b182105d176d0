// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"time"
)

// PullPolicy says when the registry is asked for an image, as in a Pod.
type PullPolicy string

// Pull policies. The zero value is Kubernetes' default: PullAlways for a
// reference without a tag or with the tag latest, else PullIfNotPresent.
const (
	PullAlways       PullPolicy = "Always"
	PullIfNotPresent PullPolicy = "IfNotPresent"
	PullNever        PullPolicy = "Never"
)

// Prefixes of references that no registry is asked for.
const (
	// LocalPrefix marks an archive or an OCI layout in the node's folder of
	// local images.
	LocalPrefix = "file:"
	// DaemonPrefix marks an image of the node's own Docker Engine.
	DaemonPrefix = "docker-daemon:"
)

// ImageRequest is what a Bottle asks for.
type ImageRequest struct {
	// Reference is an OCI reference, file:NAME or docker-daemon:NAME.
	Reference string
	// Policy is for OCI references. The others are on the node already: a
	// changed file or a rebuilt image is noticed whatever it says.
	Policy PullPolicy
	// PullSecrets are the contents of .dockerconfigjson or .dockercfg, in the
	// order in which they are tried, before the node's own. They never appear
	// in an error, an Event or a file.
	PullSecrets [][]byte
	// For is the UID of the Bottle that asks: it is told of changes
	// (WatchImages) and Events. It must not be empty. A Bottle wants one thing
	// at a time: what it asked for before, or by other secrets, is no longer
	// brought for it.
	For string
	// Artifact asks for a .smolmachine: at a registry the one layer of an OCI
	// artifact, in the node's folder of local images a file.
	Artifact bool
	// SHA256 is what the artifact's file must have, in hexadecimal; "" for
	// whatever it has. Another one is a *PullFailed, and is never handed over.
	SHA256 string
}

// Image is a file in the store that a machine can be made from: an archive, or
// an artifact.
type Image struct {
	// Reference is what was asked for.
	Reference string
	// Digest is sha256:HEX of the image's own manifest, that of the node's
	// platform where the reference names an index; of the archive where it has
	// no manifest (file:, docker-daemon:), and of an artifact's file.
	Digest string
	// Path is absolute. The file is 0644, has its last content from the
	// beginning, and stays at least as long as Collect's minimum age.
	Path string
	Size int64 // of the file, in bytes
}

// Images are the image archives of this node. Nothing in it waits for a
// registry or a disk for longer than a moment: what takes its time goes on
// behind, once for all who ask for the same, and ends when nobody wants it any
// more.
type Images interface {
	// Get returns the image if it is in the store and may be handed to
	// whoever holds these secrets. A private image is handed out again only
	// for credentials that the registry has accepted for that very reference;
	// others have to ask the registry, whatever the policy.
	//
	// Else a *Pulling: a pull was begun or joined, and WatchImages tells when
	// to ask again. With PullAlways the answer of the registry that this
	// Bottle has waited for counts for one machine: until Forget, and at most
	// for two minutes from when it is first handed over. A Bottle that waits
	// longer before it makes the machine has the registry asked again, and
	// gets Events of that only when there is something to fetch, or when it
	// fails.
	//
	// *PullFailed when the last pull failed; the next call after its Until
	// begins another. ErrInvalid when the reference is none, or of a kind that
	// this node does not allow, or that artifacts do not have, or when nobody
	// asks. ErrNeverPull with PullNever when the image is not in the store or
	// not for these secrets. ErrNotFound when there is no such local archive.
	Get(ctx context.Context, req ImageRequest) (Image, error)
	// Forget says that the Bottle with the UID wants nothing of what it asked
	// for: it has made its machine, or is to have none. What goes on for it
	// alone ends, it is told of nothing more, and what it asks for next is
	// asked for anew. It may be called at any time, and for anybody.
	Forget(uid string)
	// WatchImages calls changed with the For of a request when it would be
	// answered otherwise now, and once with "" as soon as it watches: anything
	// may have changed before. It returns when ctx ends, with its error.
	WatchImages(ctx context.Context, changed func(uid string)) error
}

// Pulling says that the image is on its way.
type Pulling struct {
	// Done and Total are bytes, in steps of a tenth; Total is 0 as long as
	// nobody knows it.
	Done, Total int64
	// Message is for a condition: it names the image and changes at most
	// about a dozen times in a pull.
	Message string
}

func (p *Pulling) Error() string { return p.Message }

// PullFailed says why there is no image, for a condition: in the registry's
// words, with the way out, and without anything secret.
type PullFailed struct {
	Err error
	// Until is when the next attempt may begin.
	Until time.Time
	// BackOff is false the first time that the asking Bottle is told of this
	// failure (ErrImagePull), and true from then on (ImagePullBackOff).
	BackOff bool
}

func (p *PullFailed) Error() string { return p.Err.Error() }

func (p *PullFailed) Unwrap() error { return p.Err }
