// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// pusher pushes as a user, or as nobody.
type pusher struct {
	ca, user, passwordFile string
	// artifact is the title of a file that is no image; "" for an image.
	artifact string
}

// push reads a file, from stdin for "-", and returns the digest that the
// registry has it by.
func (p pusher) push(file, reference string, stdin io.Reader) (string, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return "", err
	}
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	content, err := io.ReadAll(in)
	if err != nil {
		return "", err
	}
	img, err := p.image(content)
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	transport, err := p.transport()
	if err != nil {
		return "", err
	}
	if err := remote.Write(ref, img, remote.WithTransport(transport)); err != nil {
		return "", err
	}
	digest, err := img.Digest()
	return digest.String(), err
}

// image is an archive as docker save writes it, or any file in an image's place.
func (p pusher) image(content []byte) (v1.Image, error) {
	if p.artifact == "" {
		return tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }, nil)
	}
	const octets = "application/octet-stream"
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.oci.empty.v1+json")
	return mutate.Append(base, mutate.Addendum{
		Layer: static.NewLayer(content, octets), MediaType: octets,
		Annotations: map[string]string{"org.opencontainers.image.title": p.artifact},
	})
}

func (p pusher) transport() (http.RoundTripper, error) {
	trusted, err := os.ReadFile(p.ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(trusted) {
		return nil, errors.New("no certificate in " + p.ca)
	}
	rt := http.DefaultTransport.(*http.Transport).Clone()
	rt.TLSClientConfig, rt.Proxy = &tls.Config{RootCAs: pool}, nil
	if p.user == "" {
		return rt, nil
	}
	secret, err := os.ReadFile(p.passwordFile)
	return basic{rt, p.user, strings.TrimSpace(string(secret))}, err
}

// basic names the user in each request: the registry does not ask for one
// before it is asked for something private.
type basic struct {
	inner          http.RoundTripper
	user, password string
}

func (b basic) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.SetBasicAuth(b.user, b.password)
	return b.inner.RoundTrip(r)
}
