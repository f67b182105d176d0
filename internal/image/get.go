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

// ask is one request, understood.
type ask struct {
	reference
	policy    host.PullPolicy
	want      string // the digest that an artifact must have; "" for any
	uid       string
	keys      keyring
	endpoints []endpoint
	// prints are the fingerprints of all that may be offered.
	prints []string
	// file is the local archive as it is now.
	file fileID
	// key is one for all who ask the same with the same credentials.
	key string
}

// endpoint is where a reference is asked for: a mirror or its own registry.
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
		return host.Image{}, fmt.Errorf("image: %w: nobody asks for it: want the UID of a Bottle", host.ErrInvalid)
	}
	a, err := s.understand(req)
	if err != nil {
		if errors.Is(err, host.ErrInvalid) || errors.Is(err, host.ErrNotFound) {
			s.Forget(req.For) // it wants this now, not what it wanted before
		}
		return host.Image{}, err
	}
	img, j, err := s.answer(a)
	if j == nil {
		return img, err
	}
	if s.o.Patience > 0 {
		timer := s.o.Clock.NewTimer(s.o.Patience)
		defer timer.Stop()
		select {
		case <-j.done:
			if img, j, err = s.answer(a); j == nil {
				return img, err
			}
		case <-timer.C():
		case <-ctx.Done():
			return host.Image{}, ctx.Err()
		}
	}
	return host.Image{}, s.pulling(j)
}

func (s *Store) understand(req host.ImageRequest) (ask, error) {
	ref, err := referenceOf(req)
	if err != nil {
		return ask{}, err
	}
	a := ask{reference: ref, uid: req.For}
	if req.SHA256 != "" {
		a.want = "sha256:" + req.SHA256
	}
	if a.policy, err = ref.policy(req.Policy); err != nil {
		return ask{}, err
	}
	switch ref.kind {
	case ofFolder:
		if a.file, err = s.lookLocal(ref.name); err != nil {
			return ask{}, err
		}
		// Not by the file as it is: one that is being written would begin a
		// copy with every ask.
		a.key = ref.canonical + " " + a.want
		return a, nil
	case ofDaemon:
		if s.o.Daemon == nil {
			return ask{}, fmt.Errorf("image %s: %w: images of the node's Docker Engine are not allowed here: name a registry's image, or allow them with --allow-docker-daemon-images", ref.given, host.ErrInvalid)
		}
		a.key = ref.canonical
		return a, nil
	}
	a.keys = newKeyring(req.PullSecrets, s.o.DockerConfig)
	a.endpoints, err = s.endpointsOf(ref.ref.Context(), a.keys)
	if err != nil {
		return ask{}, err
	}
	sum := sha256.New()
	for _, e := range a.endpoints {
		for _, c := range e.creds {
			print := c.fingerprint(s.index.Key, e.repo.RegistryStr())
			a.prints = append(a.prints, print)
			_, _ = io.WriteString(sum, e.repo.Name()+" "+print+"\n") // never fails
		}
	}
	a.key = ref.canonical + " " + hex.EncodeToString(sum.Sum(nil)) + a.want
	return a, nil
}

// endpointsOf are the mirrors in order, then the registry itself.
func (s *Store) endpointsOf(repo name.Repository, keys keyring) ([]endpoint, error) {
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

// answer returns the image, or why there is none, or the job that is to bring
// it.
func (s *Store) answer(a ask) (host.Image, *job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return host.Image{}, nil, errClosed
	}
	now := s.o.Clock.Now()
	s.asked(a, now)
	if digest := s.find(a, now); digest != "" && a.check(digest) == nil {
		if size, ok := s.present(digest, a.form); ok {
			s.index.use(digest, now)
			return host.Image{Reference: a.given, Digest: digest, Path: s.path(digest, a.form), Size: size}, nil, nil
		}
	}
	if a.kind == ofRegistry && a.policy == host.PullNever {
		return host.Image{}, nil, fmt.Errorf("%s %s: %w: it is not on the node, or not for these pull secrets, and the pull policy is Never: change spec.imagePullPolicy, or pull it beforehand (--prewarm-image)", a.form.noun(), a.given, host.ErrNeverPull)
	}
	if j := s.jobs[a.key]; j != nil {
		s.join(j, a.uid)
		return host.Image{}, j, nil
	}
	if f := s.failures[a.key]; f != nil && now.Before(f.untilFor(a)) {
		return host.Image{}, nil, s.failed(f, a)
	}
	return host.Image{}, s.begin(a, now), nil
}

// find returns the digest of what may be handed over without asking anybody.
func (s *Store) find(a ask, now time.Time) string {
	if a.kind == ofFolder {
		if k, ok := s.known[a.canonical]; ok && k.id == a.file {
			return k.digest
		}
		return ""
	}
	if me := s.askers[a.uid]; me != nil && me.counts(now) {
		return me.digest
	}
	if a.kind != ofRegistry || a.policy == host.PullAlways {
		return ""
	}
	r := s.index.References[a.canonical]
	if r == nil || !granted(r, a.prints) {
		return ""
	}
	return r.Digest
}

// granted says whether the registry gave the image to one of these
// credentials, or to anybody.
func granted(r *resolution, prints []string) bool {
	return slices.ContainsFunc(r.Grants, func(g string) bool {
		return g == anonymousPrint || slices.Contains(prints, g)
	})
}
