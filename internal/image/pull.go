// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// puller brings images and artifacts from registries.
type puller struct {
	o *Options
	*registries
	*builder
	*ledger
	*fetcher
	*resolver
}

// takeFromRegistries tries the mirrors in order, then the registry.
func (s *puller) takeFromRegistries(ctx context.Context, j *job) (result, error) {
	var lastErr error
	var until time.Time // the earliest time that a source asked for; zero if one did not ask
	for i, e := range j.endpoints {
		res, err := s.resolveAndTake(ctx, j, e.repo.RegistryStr(), func(ctx context.Context) (result, error) { return s.takeFrom(ctx, j, e) })
		if err == nil {
			return res, nil
		}
		if isDisk(err) || s.ctx.Err() != nil {
			return result{}, err
		}
		if asked := postponedUntil(err); i == 0 || asked.Before(until) {
			until = asked
		}
		err = withoutTime(err)
		if lastErr != nil {
			err = fmt.Errorf("%w; before that, its mirror: %w", err, lastErr)
		}
		lastErr = err
		if ctx.Err() != nil {
			break
		}
	}
	if !until.IsZero() {
		lastErr = &postponed{lastErr, until}
	}
	return result{}, lastErr
}

// takeFrom offers each credential to the endpoint until one is accepted.
func (s *puller) takeFrom(ctx context.Context, j *job, e endpoint) (result, error) {
	base, err := s.newTransport()
	if err != nil {
		return result{}, err
	}
	defer base.CloseIdleConnections()
	resolving := j.resolving
	rt := newWaitingTransport(schemeTransport{inner: base, plain: s.plain}, s.o.Clock, func(ctx context.Context, until time.Time) (bool, error) {
		return s.waitAsAsked(ctx, j, resolving, until)
	})
	for i, cred := range e.creds {
		try := attempt{registry: e.repo.RegistryStr(), repo: e.repo, tried: e.creds[:i+1], keys: j.keys, dials: base.dialer}
		session, err := s.openSession(ctx, rt, e.repo, cred)
		var found resolved
		if err == nil {
			found, err = s.resolve(ctx, session, j)
		}
		if err != nil {
			if credentialsRefused(err) && i+1 < len(e.creds) {
				continue
			}
			try.log(s.o.Log, err)
			return result{}, try.explain(err)
		}
		res, err := s.obtain(ctx, j, pacedContent{session, s.o.Clock, rt}, found)
		if err != nil {
			try.log(s.o.Log, err)
			return result{}, try.explain(err)
		}
		res.grant = cred.fingerprint(s.fingerprintKey, e.repo.RegistryStr())
		return res, nil
	}
	return result{}, ownErrorf("no credentials to offer") // lookup never returns none
}

// credentialsRefused reports whether other credentials may help.
func credentialsRefused(err error) bool {
	var answer *transport.Error
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return true
	}
	return false
}

// resolved is what a reference resolves to: an image that is in the store, or
// else a manifest.
type resolved struct {
	top    v1.Hash
	stored string // the image's digest; "" for none
	raw    []byte
}

// resolve asks the registry what the reference resolves to now. If the registry
// answers, these credentials may read the image.
func (s *puller) resolve(ctx context.Context, r *session, j *job) (resolved, error) {
	identifier := j.identifier()
	if j.form == formArchive { // an artifact's manifest is small and needed to find its file
		top, err := r.head(ctx, identifier)
		if err == nil && isRequested(identifier, top) {
			if digest := s.storedImage(top.String(), j.repository()); digest != "" {
				return resolved{top: top, stored: digest}, nil
			}
		}
	}
	raw, err := r.get(ctx, identifier)
	if err != nil {
		return resolved{}, err
	}
	top := digestOf(raw)
	if !isRequested(identifier, top) {
		return resolved{}, ownErrorf("the registry sent the manifest %s for %s: it was corrupted in the registry, in a mirror or in transit", top, identifier)
	}
	return resolved{top: top, raw: raw}, nil
}

// isRequested reports whether top may be the answer to identifier. A registry
// may answer a digest with another one, which is not accepted. Any digest is
// accepted for a tag.
func isRequested(identifier string, top v1.Hash) bool {
	requested, err := v1.NewHash(identifier)
	return err != nil || requested == top
}

// obtain ensures that the image is in the store, and that this repository has
// all of it.
func (s *puller) obtain(ctx context.Context, j *job, c source, r resolved) (result, error) {
	if r.stored != "" {
		return result{digest: r.stored, top: r.top.String()}, nil
	}
	digest, doc, err := descend(ctx, c, r.raw, s.o.Architecture)
	if err != nil {
		return result{}, err
	}
	if j.form == formArtifact {
		return s.obtainArtifact(ctx, j, c, doc)
	}
	res := result{digest: digest.String(), top: r.top.String()}
	res.fetched, err = s.fetchOnce(ctx, j, res.digest, func(ctx context.Context, f *fetch) error {
		img, err := inspect(ctx, c, doc, s.o)
		if err != nil {
			return err
		}
		img.digest = digest
		return s.pullImage(ctx, c, img, j.repository(), f)
	})
	return res, err
}

// fetchOnce pulls the content of the digest, unless it is in the store and this
// repository is known to have it. fetched reports whether it was not.
func (s *puller) fetchOnce(ctx context.Context, j *job, digest string, pull func(ctx context.Context, f *fetch) error) (fetched bool, err error) {
	if s.has(digest, j) {
		return false, nil
	}
	_, err = s.share(ctx, j, j.repository()+"@"+digest, func(ctx context.Context, f *fetch) (string, error) {
		// Another job may have fetched it since the check above.
		if s.has(digest, j) {
			return digest, nil
		}
		if err := pull(ctx, f); err != nil {
			return "", err
		}
		s.recordServed(digest, j.repository())
		return digest, nil
	})
	return true, err
}

// pullImage fetches the layers that are not there from an earlier attempt, and then
// writes the image's archive into the store. If it fails, the layers stay for the next
// attempt, unless the disk is full.
func (s *puller) pullImage(ctx context.Context, c source, img *image, repository string, f *fetch) (err error) {
	layers, err := s.partials.open(ctx, repository, img.digest.String())
	if err != nil {
		return err
	}
	defer layers.close()
	defer func() {
		if err == nil || isDisk(s.diskError(err)) {
			layers.remove()
		}
	}()
	total, missing := int64(0), int64(0)
	for _, l := range layersOf(img) {
		total += l.Size
		missing += l.Size - layers.have(l)
	}
	room := &space{dir: s.o.Dir, reserve: s.o.Reserve}
	// The unpacked files and the archive have at least about the size of the layers each.
	if err := room.check(missing + 2*total); err != nil {
		return err
	}
	f.setTotal(total)
	for _, l := range layersOf(img) {
		if err := layers.fetch(ctx, c, l, room, f.add); err != nil {
			return err
		}
	}
	return s.writeArchive(ctx, fetched{c, layers}, img, room, func(int64) {})
}
