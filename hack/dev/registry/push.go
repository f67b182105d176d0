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
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// pusher pushes as a user, or anonymously if user is empty.
type pusher struct {
	ca, user, passwordFile string
}

// push pushes an archive from docker save or an OCI layout, and returns its
// digest in the registry. If archive is "-", it reads stdin.
func (p pusher) push(archive, reference string, stdin io.Reader) (string, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return "", err
	}
	var content []byte
	if archive == "-" {
		content, err = io.ReadAll(stdin)
	} else {
		content, err = os.ReadFile(archive)
	}
	if err != nil {
		return "", err
	}
	transport, err := p.transport()
	if err != nil {
		return "", err
	}
	l, err := readLayout(content)
	if err != nil {
		return "", fmt.Errorf("%s: %w", archive, err)
	}
	if l != nil {
		return l.push(ref, remote.WithTransport(transport))
	}
	img, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }, nil)
	if err != nil {
		return "", fmt.Errorf("%s: %w", archive, err)
	}
	if err := remote.Write(ref, img, remote.WithTransport(transport)); err != nil {
		return "", err
	}
	digest, err := img.Digest()
	return digest.String(), err
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

// basic sends the credentials with each request. The registry challenges only
// requests for private repositories, so a client that waits for a challenge
// would send the others anonymously.
type basic struct {
	inner          http.RoundTripper
	user, password string
}

func (b basic) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.SetBasicAuth(b.user, b.password)
	return b.inner.RoundTrip(r)
}
