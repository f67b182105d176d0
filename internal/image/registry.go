// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"k8s.io/utils/clock"
)

var manifestTypes = strings.Join([]string{
	string(types.OCIImageIndex), string(types.DockerManifestList),
	string(types.OCIManifestSchema1), string(types.DockerManifestSchema2),
}, ", ")

// registries connects to registries and mirrors as the node's administrator allows it.
type registries struct {
	o       *Options
	mirrors map[string][]string // by registry
	plain   map[string]bool     // HOST[:PORT] without TLS
	// retryWait is the wait before the first retry of a broken blob.
	retryWait time.Duration
	// proxy returns the proxy for a request to a registry, nil for none.
	proxy func(*http.Request) (*url.URL, error)
}

func newRegistries(o *Options) (*registries, error) {
	mirrors, err := mirrorsOf(o.Mirrors)
	if err != nil {
		return nil, err
	}
	r := &registries{o: o, mirrors: mirrors, plain: map[string]bool{}, retryWait: 500 * time.Millisecond, proxy: http.ProxyFromEnvironment}
	for _, registry := range o.PlainHTTP {
		r.plain[registry] = true
	}
	r.warnOfRefused()
	// Report an invalid CA file now rather than in every pull.
	_, err = r.newTransport()
	return r, err
}

// session accesses one repository at one registry or mirror, with one
// credential.
type session struct {
	repo   name.Repository
	client *http.Client
	clock  clock.Clock
	// retryWait is the wait before the second attempt to read a blob.
	retryWait time.Duration
}

var _ source = (*session)(nil)

// openSession authenticates to the registry.
func (s *registries) openSession(ctx context.Context, base http.RoundTripper, repo name.Repository, c credential) (*session, error) {
	rt, err := transport.NewWithContext(ctx, repo.Registry, c.authenticator(), base, []string{repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, err
	}
	return &session{repo: repo, client: &http.Client{Transport: rt, CheckRedirect: limitRedirects},
		clock: s.o.Clock, retryWait: s.retryWait}, nil
}

const maxRedirects = 4

func limitRedirects(_ *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return ownErrorf("it redirects more than %d times", maxRedirects)
	}
	return nil
}

func (r *session) request(ctx context.Context, method, path string) (*http.Request, error) {
	// schemeTransport changes this to http if the node allows that.
	return http.NewRequestWithContext(ctx, method, "https://"+r.repo.RegistryStr()+"/v2/"+r.repo.RepositoryStr()+"/"+path, nil)
}

// head returns the digest of a tag or digest without fetching its manifest. It
// fails if the registry cannot or will not answer; get then returns the reason.
func (r *session) head(ctx context.Context, identifier string) (v1.Hash, error) {
	req, err := r.request(ctx, http.MethodHead, "manifests/"+identifier)
	if err != nil {
		return v1.Hash{}, err
	}
	req.Header.Set("Accept", manifestTypes)
	resp, err := r.client.Do(req)
	if err != nil {
		return v1.Hash{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return v1.Hash{}, ownErrorf("it answers a HEAD request with status %d", resp.StatusCode)
	}
	h, err := v1.NewHash(resp.Header.Get("Docker-Content-Digest"))
	if err != nil {
		return v1.Hash{}, err
	}
	return h, checkDigest(h)
}

// get returns the manifest of a tag or digest. The content is not verified
// against a digest in identifier.
func (r *session) get(ctx context.Context, identifier string) ([]byte, error) {
	req, err := r.request(ctx, http.MethodGet, "manifests/"+identifier)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", manifestTypes)
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := transport.CheckError(resp, http.StatusOK); err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxManifestBytes+1))
	if err == nil && len(raw) > maxManifestBytes {
		err = ownErrorf("the manifest has more than %s", bytesText(maxManifestBytes))
	}
	if err != nil {
		return nil, err
	}
	if declared, err := v1.NewHash(resp.Header.Get("Docker-Content-Digest")); err == nil && checkDigest(declared) == nil && digestOf(raw) != declared {
		return nil, corrupted("manifest", declared)
	}
	return raw, nil
}

func (r *session) manifest(ctx context.Context, digest v1.Hash) ([]byte, error) {
	return r.get(ctx, digest.String())
}

// blob returns the blob. It resumes after broken connections, within the bounds
// of resumingReader.
func (r *session) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	return r.blobFrom(ctx, d, 0)
}

// blobFrom implements source.
func (r *session) blobFrom(ctx context.Context, d v1.Descriptor, offset int64) (io.ReadCloser, error) {
	b := &blobRequests{session: r, Descriptor: d}
	return &resumingReader{offset: offset, size: d.Size, clock: r.clock, wait: r.retryWait, ctx: ctx,
		open: func(offset int64) (io.ReadCloser, error) { return b.open(ctx, offset) }}, nil
}

// blobRequests requests one blob, from the start or from an offset.
type blobRequests struct {
	*session
	v1.Descriptor
	// whole means that the registry does not serve ranges of this blob.
	whole bool
}

// open requests the blob from the offset on. A registry that ignores or refuses
// ranges sends the blob from the start, and open skips the bytes that were
// already read. That is safe because the reader verifies the whole blob.
func (b *blobRequests) open(ctx context.Context, offset int64) (io.ReadCloser, error) {
	first := offset
	if b.whole {
		first = 0
	}
	resp, err := b.send(ctx, first)
	if err == nil && first > 0 && !answersRange(resp, first) {
		resp.Body.Close()
		b.whole, first = true, 0
		resp, err = b.send(ctx, first)
	}
	if err != nil {
		return nil, err
	}
	skip := int64(0)
	switch {
	case resp.StatusCode == http.StatusOK:
		skip = offset
	case resp.StatusCode == http.StatusPartialContent && first > 0:
	default:
		err := transport.CheckError(resp)
		resp.Body.Close()
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, resp.Body, skip); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp.Body, nil
}

// send sends the request. It names the end of the range, because some
// registries, including go-containerregistry's own, answer 416 to an open
// range.
func (b *blobRequests) send(ctx context.Context, first int64) (*http.Response, error) {
	req, err := b.request(ctx, http.MethodGet, "blobs/"+b.Digest.String())
	if err != nil {
		return nil, err
	}
	if first > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", first, b.Size-1))
	}
	return b.client.Do(req)
}

// answersRange reports whether the response is final. It is false if a request
// without a range may succeed: the range is not satisfiable, or the registry
// sent a different one.
func answersRange(resp *http.Response, offset int64) bool {
	switch resp.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		return false
	case http.StatusPartialContent:
		return rangeStart(resp) == offset
	}
	return true
}

// rangeStart returns the offset at which a partial response starts, or -1 if
// the response does not say.
func rangeStart(resp *http.Response) int64 {
	v, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), "bytes ")
	first, _, dash := strings.Cut(v, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	if !ok || !dash || err != nil {
		return -1
	}
	return n
}
