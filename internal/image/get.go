// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"botbottle.dev/bottle-operator/internal/host"
)

// request is a parsed host.ImageRequest.
type request struct {
	reference
	policy         host.PullPolicy
	requiredDigest string // the digest that an artifact must have; "" allows any
	uid, namespace string
	keys           keyring
	endpoints      []endpoint
	// fingerprints are those of all credentials that may be offered.
	fingerprints []string
	// file identifies the local archive as it is now.
	file fileID
	// key is the same for all requests of the same thing with the same
	// credentials.
	key string
}

// endpoint is a source of a reference: a mirror or the registry itself.
type endpoint struct {
	repo   name.Repository
	mirror bool
	creds  []credential
}

// Get implements host.Images.
func (s *Store) Get(ctx context.Context, req host.ImageRequest) (host.Image, error) {
	if err := ctx.Err(); err != nil {
		return host.Image{}, err
	}
	if req.For == "" {
		return host.Image{}, fmt.Errorf("image: %w: the request names no Bottle: want its UID", host.ErrInvalid)
	}
	parsed, err := s.parseRequest(req)
	if err != nil {
		if errors.Is(err, host.ErrInvalid) || errors.Is(err, host.ErrNotFound) {
			s.Forget(req.For) // this request replaces the Bottle's earlier one
		}
		return host.Image{}, err
	}
	img, j, err := s.answer(parsed)
	if j == nil {
		return img, err
	}
	if s.o.Patience > 0 {
		timer := s.o.Clock.NewTimer(s.o.Patience)
		defer timer.Stop()
		select {
		case <-j.done:
			if img, j, err = s.answer(parsed); j == nil {
				return img, err
			}
		case <-timer.C():
		case <-ctx.Done():
			return host.Image{}, ctx.Err()
		}
	}
	return host.Image{}, s.pullingError(j)
}

func (s *Store) parseRequest(req host.ImageRequest) (request, error) {
	ref, err := referenceOf(req)
	if err != nil {
		return request{}, err
	}
	out := request{reference: ref, uid: req.For, namespace: req.Namespace}
	if req.SHA256 != "" {
		out.requiredDigest = "sha256:" + req.SHA256
	}
	if out.policy, err = ref.policy(req.Policy); err != nil {
		return request{}, err
	}
	switch ref.kind {
	case fromFolder:
		if out.file, err = s.identifyLocal(ref.name); err != nil {
			return request{}, err
		}
		// The key does not identify the content: a file that is still being
		// written would start a copy at every request.
		out.key = ref.canonical + " " + out.requiredDigest
		return out, nil
	case fromDaemon:
		if s.o.Daemon == nil {
			return request{}, fmt.Errorf("image %s: %w: images of the node's Docker Engine are not allowed here: use an image from a registry, or allow them with --allow-docker-daemon-images", ref.given, host.ErrInvalid)
		}
		out.key = ref.canonical
		return out, nil
	}
	out.keys = newKeyring(req.PullSecrets, s.o.DockerConfig)
	out.endpoints, err = s.endpointsOf(ref.ref.Context(), out.keys)
	if err != nil {
		return request{}, err
	}
	sum := sha256.New()
	for _, e := range out.endpoints {
		for _, c := range e.creds {
			print := c.fingerprint(s.fingerprintKey, e.repo.RegistryStr())
			out.fingerprints = append(out.fingerprints, print)
			_, _ = io.WriteString(sum, e.repo.Name()+" "+print+"\n") // never fails
		}
	}
	// The message about a failure names the pull secrets, so it is only for those who
	// use the same ones.
	for _, c := range out.keys.secrets {
		_, _ = fmt.Fprintf(sum, "%s/%s %s\n", req.Namespace, c.from, c.problem(ref.ref.Context()))
	}
	out.key = ref.canonical + " " + hex.EncodeToString(sum.Sum(nil)) + out.requiredDigest
	return out, nil
}

// endpointsOf returns the mirrors in order, then the registry itself.
func (s *registries) endpointsOf(repo name.Repository, keys keyring) ([]endpoint, error) {
	var out []endpoint
	for _, mirror := range s.mirrors[repo.RegistryStr()] {
		m, err := name.NewRepository(mirror + "/" + repo.RepositoryStr())
		if err != nil {
			return nil, fmt.Errorf("mirror %s: %w", mirror, err)
		}
		out = append(out, endpoint{repo: m, mirror: true, creds: keys.lookup(m)})
	}
	return append(out, endpoint{repo: repo, creds: keys.lookup(repo)}), nil
}

// answer returns the image, or an error that says why there is none, or the job
// that brings it.
func (s *Store) answer(req request) (host.Image, *job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return host.Image{}, nil, errClosed
	}
	now := s.o.Clock.Now()
	s.recordRequest(req, now)
	if digest := s.find(req, now); digest != "" && req.checkDigest(digest) == nil {
		if size, ok := s.use(digest, req.form, now); ok {
			return host.Image{Reference: req.given, Digest: digest, Path: s.path(digest, req.form), Size: size}, nil, nil
		}
	}
	if req.kind == fromRegistry && req.policy == host.PullNever {
		return host.Image{}, nil, fmt.Errorf("%s %s: %w: it is not on the node, or these pull secrets do not give access to it, and the pull policy is Never: change spec.imagePullPolicy, or pull it beforehand (--prewarm-image)", req.form.noun(), req.given, host.ErrNeverPull)
	}
	if j := s.jobs[req.key]; j != nil {
		s.join(j, req.uid)
		return host.Image{}, j, nil
	}
	if f := s.failures[req.key]; f != nil && now.Before(f.untilFor(req)) {
		return host.Image{}, nil, s.backoffError(f, req)
	}
	return host.Image{}, s.startJob(req, now), nil
}

// find returns the digest of what may be handed over without querying any
// source, or "".
func (s *Store) find(req request, now time.Time) string {
	if req.kind == fromFolder {
		return s.copied(req)
	}
	if asked := s.requesters[req.uid]; asked != nil && asked.mayReuse(now) {
		return asked.digest
	}
	if req.kind != fromRegistry || req.policy == host.PullAlways {
		return ""
	}
	return s.resolved(req)
}

// granted reports whether the registry gave the image to one of these
// credentials, or to anybody.
func granted(r *resolution, fingerprints []string) bool {
	return slices.ContainsFunc(r.Grants, func(grant string) bool {
		return grant == anonymousFingerprint || slices.Contains(fingerprints, grant)
	})
}
