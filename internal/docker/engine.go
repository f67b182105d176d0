// SPDX-License-Identifier: Apache-2.0

// Package docker is the adapter of host.Networks and host.Bundles to a Docker
// Engine, API 1.41 and newer. Each method looks at docker first and acts on
// what it finds, so that it can be called again after dying on any line. It
// keeps no state of its own but the reference of the built-in bundle image,
// pulls no image, and decides nothing: which bundle a Bottle gets, and when, is
// the caller's.
package docker

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/bundleimage"
	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// readTimeout bounds a call that only looks. A dockerd that does not
	// answer within it counts as unavailable.
	readTimeout = 8 * time.Second
	// writeTimeout bounds a call that changes something; each follows a call
	// that only looks, which has shown that dockerd answers.
	writeTimeout = 45 * time.Second
	// loadTimeout bounds the loading of the bundle image.
	loadTimeout = 2 * time.Minute
)

// Options configure an Engine.
type Options struct {
	// Host is the address of the Docker Engine, such as
	// unix:///run/docker.sock.
	Host string
	// BundleImage is the reference of the built-in bundle image. It may be
	// empty until LoadBundleImage has run.
	BundleImage string
}

// Engine drives one Docker Engine. It may be used from many goroutines.
type Engine struct {
	host string
	// calls is used with a deadline on every call.
	calls *client.Client
	// streams is used without one, so that a long stream does not hold a
	// connection that calls wait for.
	streams *client.Client
	// negotiating is held while the API version is found out, so that callers
	// who wait for it keep their own deadlines.
	negotiating chan struct{}
	negotiated  atomic.Bool
	streamCheck time.Duration

	mu          sync.Mutex
	bundleImage string
	executable  string
}

var (
	_ host.Networks = (*Engine)(nil)
	_ host.Bundles  = (*Engine)(nil)
)

// New returns an Engine. It does not connect; an error means that the host is
// no address.
func New(o Options) (*Engine, error) {
	calls, err := client.New(client.WithHost(o.Host))
	if err != nil {
		return nil, fmt.Errorf("docker host %q: %w", o.Host, err)
	}
	streams, err := client.New(client.WithHost(o.Host))
	if err != nil {
		return nil, fmt.Errorf("docker host %q: %w", o.Host, err)
	}
	return &Engine{
		host:        o.Host,
		calls:       calls,
		streams:     streams,
		negotiating: make(chan struct{}, 1),
		streamCheck: streamCheck,
		bundleImage: o.BundleImage,
	}, nil
}

// Ping asks the Docker Engine for a sign of life. ErrUnavailable when there is
// none within a few seconds.
func (e *Engine) Ping(ctx context.Context) error {
	return e.read(ctx, "ping docker", func(ctx context.Context) error {
		_, err := e.calls.Ping(ctx, client.PingOptions{})
		return err
	})
}

// UseBundleImage makes the built-in bundle image of the static executable the
// one that EnsureBundle uses, and loads when it is missing. It does not speak
// to dockerd. ErrInvalid when the executable is not static.
func (e *Engine) UseBundleImage(executable string) error {
	_, err := e.useBundleImage(executable)
	return err
}

func (e *Engine) useBundleImage(executable string) (*bundleimage.Image, error) {
	image, err := bundleimage.New(executable)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", host.ErrInvalid, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.bundleImage, e.executable = image.Reference(), executable
	return image, nil
}

// LoadBundleImage is UseBundleImage, and loads the image unless the Docker
// Engine has it. It returns the image's reference.
func (e *Engine) LoadBundleImage(ctx context.Context, executable string) (string, error) {
	image, err := e.useBundleImage(executable)
	if err != nil {
		return "", err
	}
	if err := e.Ping(ctx); err != nil {
		return "", err
	}
	err = e.bounded(ctx, loadTimeout, "load image "+image.Reference(), func(ctx context.Context) error {
		return image.Ensure(ctx, e.streams)
	})
	if err != nil {
		return "", err
	}
	return image.Reference(), nil
}

// builtIn returns the built-in image's reference and the executable that it is
// made from, either of which may be empty.
func (e *Engine) builtIn() (reference, executable string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.bundleImage, e.executable
}

// read runs a call that only looks; what says what it does, to what.
func (e *Engine) read(ctx context.Context, what string, call func(context.Context) error) error {
	return e.bounded(ctx, readTimeout, what, call)
}

// write runs a call that changes something.
func (e *Engine) write(ctx context.Context, what string, call func(context.Context) error) error {
	return e.bounded(ctx, writeTimeout, what, call)
}

func (e *Engine) bounded(ctx context.Context, limit time.Duration, what string, call func(context.Context) error) error {
	inner, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := e.negotiate(inner); err != nil {
		return kinds(what, err)
	}
	return kinds(what, call(inner))
}

// negotiate agrees on an API version once. The client would do it by itself,
// but under a lock on which callers wait beyond their own deadlines.
func (e *Engine) negotiate(ctx context.Context) error {
	if e.negotiated.Load() {
		return nil
	}
	select {
	case e.negotiating <- struct{}{}:
		defer func() { <-e.negotiating }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if e.negotiated.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	for _, c := range []*client.Client{e.calls, e.streams} {
		if _, err := c.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
			return err
		}
	}
	e.negotiated.Store(true)
	return nil
}
