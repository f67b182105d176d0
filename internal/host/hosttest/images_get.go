// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// WatchImages implements host.Images.
func (f *Images) WatchImages(ctx context.Context, changed func(uid string)) error {
	remove := f.watchers.Add(changed)
	defer remove()
	changed("")
	<-ctx.Done()
	return ctx.Err()
}

// Get implements host.Images.
func (f *Images) Get(ctx context.Context, req host.ImageRequest) (out host.Image, err error) {
	get := func() error {
		if req.For == "" {
			return fmt.Errorf("image: %w: the request has no UID", host.ErrInvalid)
		}
		digest, err := f.get(req, f.request(req))
		if err != nil {
			return err
		}
		out, err = f.image(req, digest)
		return err
	}
	// Half way, a part of the file is in the store under another name, and the
	// request is recorded.
	s := steps{whole: get, half: func() error {
		f.request(req)
		return os.WriteFile(filepath.Join(f.dir, "part"), []byte("half"), 0o600)
	}}
	err = f.aroundSteps("Get "+req.Reference, s.under(ctx, &f.mu))
	return zeroOnError(out, err)
}

var referencePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._:/@-]*$`)

func (f *Images) get(req host.ImageRequest, a *imageRequest) (string, error) {
	ref := req.Reference
	local := strings.HasPrefix(ref, host.LocalPrefix)
	daemon := strings.HasPrefix(ref, host.DaemonPrefix) && f.local[ref] != ""
	switch {
	case strings.Contains(ref, ".."), strings.Contains(ref, "://"):
		return "", fmt.Errorf("image: %w", host.ErrInvalid)
	case strings.HasPrefix(ref, host.DaemonPrefix) && req.Artifact:
		return "", fmt.Errorf("artifact: %w", host.ErrInvalid)
	case (local || daemon) && f.local[ref] != "":
		return f.checked(req, f.local[ref])
	case local:
		return "", fmt.Errorf("image archive %s: %w", ref, host.ErrNotFound)
	case strings.HasPrefix(ref, host.DaemonPrefix), !referencePattern.MatchString(ref):
		return "", fmt.Errorf("image: %w", host.ErrInvalid)
	}
	policy := req.Policy
	if policy == "" {
		policy = host.PullIfNotPresent
		if _, tag, ok := strings.Cut(filepath.Base(ref), ":"); !ok || tag == "latest" {
			policy = host.PullAlways
		}
	}
	if digest := f.find(req, policy, a); digest != "" && f.stored(req, digest) {
		return f.checked(req, digest)
	}
	if policy == host.PullNever {
		return "", fmt.Errorf("image %s: %w", ref, host.ErrNeverPull)
	}
	if fail := f.failures[a.key]; fail != nil && f.clock.Now().Before(fail.until) {
		return "", fail.report(req.For)
	}
	return f.pull(req, a)
}

// checked returns digest, or a failure if the content is not what req requests.
func (f *Images) checked(req host.ImageRequest, digest string) (string, error) {
	err := f.checkContent(req, digest)
	if err == nil {
		return digest, nil
	}
	key := req.Reference + "\n" + req.SHA256
	if fail := f.failures[key]; fail != nil && f.clock.Now().Before(fail.until) {
		return "", fail.report(req.For)
	}
	return "", f.fail(key, err).report(req.For)
}

// checkContent refuses content of the other kind or with another checksum.
func (f *Images) checkContent(req host.ImageRequest, digest string) error {
	switch {
	case f.packed[req.Reference] != req.Artifact:
		return fmt.Errorf("%s: it is the other kind", req.Reference)
	case req.SHA256 != "" && digest != "sha256:"+req.SHA256:
		return fmt.Errorf("artifact %s: it has %s, but %s is asked for", req.Reference, digest, req.SHA256)
	}
	return nil
}

// find returns the digest of the image that may be returned without asking the
// registry, or "".
func (f *Images) find(req host.ImageRequest, policy host.PullPolicy, a *imageRequest) string {
	if a.digest != "" && f.clock.Now().Sub(a.returned) < answerLifetime {
		return a.digest
	}
	r := f.resolved[req.Reference]
	if policy == host.PullAlways || r == nil {
		return ""
	}
	granted := func(s host.PullSecret) bool { return r.grants[string(s.Content)] }
	if !r.grants[""] && !slices.ContainsFunc(req.PullSecrets, granted) {
		return ""
	}
	return r.digest
}

func (f *Images) pull(req host.ImageRequest, a *imageRequest) (string, error) {
	ref := req.Reference
	remote := f.remote[ref]
	if remote != nil && remote.held {
		a.waiting = ref
		return "", &host.Pulling{Done: remote.done, Total: remote.total, Message: "pulling image " + ref}
	}
	grant := ""
	var err error
	switch {
	case f.down != nil:
		err = f.down
	case remote == nil || remote.digest == "":
		err = errors.New("the registry answered 404 Not Found")
	case remote.secret != nil:
		grant = string(remote.secret)
		if !slices.ContainsFunc(req.PullSecrets, func(s host.PullSecret) bool { return bytes.Equal(s.Content, remote.secret) }) {
			err = errors.New("the registry answered 401 Unauthorized")
		}
	}
	if err == nil {
		err = f.checkContent(req, remote.digest)
	}
	if err != nil {
		return "", f.fail(a.key, fmt.Errorf("image %s: %w", ref, err)).report(req.For)
	}
	delete(f.failures, a.key)
	if r := f.resolved[ref]; r == nil || r.digest != remote.digest {
		f.resolved[ref] = &resolvedImage{digest: remote.digest, grants: map[string]bool{}}
	}
	f.resolved[ref].grants[grant] = true
	a.digest, a.returned = remote.digest, f.clock.Now()
	if !f.stored(req, remote.digest) {
		f.pulls++
	}
	return remote.digest, nil
}

func (f *Images) fail(key string, err error) *imageFailure {
	fail := f.failures[key]
	if fail == nil {
		fail = &imageFailure{}
		f.failures[key] = fail
	}
	fail.err, fail.reported = err, map[string]bool{}
	fail.until = f.clock.Now().Add(min(10*time.Second<<min(fail.count, 5), 5*time.Minute))
	fail.count++
	return fail
}

func (i *imageFailure) report(uid string) error {
	before := i.reported[uid]
	i.reported[uid] = true
	return &host.PullFailed{Err: i.err, Until: i.until, BackOff: before}
}

func (f *Images) path(req host.ImageRequest, digest string) string {
	ext := ".tar"
	if req.Artifact {
		ext = ".smolmachine"
	}
	return filepath.Join(f.dir, strings.TrimPrefix(digest, "sha256:")+ext)
}

func (f *Images) stored(req host.ImageRequest, digest string) bool {
	_, err := os.Stat(f.path(req, digest))
	return err == nil
}

// image returns the image, and makes its file if there is none.
func (f *Images) image(req host.ImageRequest, digest string) (host.Image, error) {
	path := f.path(req, digest)
	if !f.stored(req, digest) {
		if err := os.WriteFile(path, []byte(digest), 0o644); err != nil {
			return host.Image{}, err
		}
		// Set the mode whatever the umask.
		if err := os.Chmod(path, 0o644); err != nil {
			return host.Image{}, err
		}
	}
	return host.Image{Reference: req.Reference, Digest: digest, Path: path, Size: int64(len(digest))}, nil
}
