// SPDX-License-Identifier: Apache-2.0

// Package docker implements host.Networks and host.Bundles with a Docker Engine,
// API 1.41 or newer. Each method first observes the state in docker and then acts
// on it, so that it can be called again after a crash at any line. The package
// keeps no state but the reference of the built-in bundle image and the number of
// the node's CPUs, and pulls no image. It does not decide which bundle a Bottle gets, or when: the caller does.
package docker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/time/rate"

	"botbottle.dev/bottle-operator/internal/bundleimage"
	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// readTimeout bounds a call that only reads. A dockerd that does not answer
	// in this time counts as unavailable.
	readTimeout = 8 * time.Second
	// writeTimeout bounds a call that changes something. A call that only reads
	// precedes it and has shown that dockerd answers.
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
	// Folders returns the folders that are mounted into the built-in bundle of a
	// Bottle. They exist. It may be nil for an Engine that runs no bundles.
	Folders func(ctx context.Context, owner host.Owner) (rules, secrets string, err error)
}

// Engine drives one Docker Engine. It may be used from many goroutines.
type Engine struct {
	host            string
	version         versions
	streamCheck     time.Duration
	removalPatience time.Duration
	logBytes        rate.Limit // per second and container
	folders         func(ctx context.Context, owner host.Owner) (rules, secrets string, err error)

	mu          sync.Mutex
	bundleImage string
	executable  string
	cpus        int // of the node; 0 until docker has reported that it can limit containers
}

var (
	_ host.Networks = (*Engine)(nil)
	_ host.Bundles  = (*Engine)(nil)
)

// New returns an Engine. It does not connect; an error means that o.Host is not
// an address.
func New(o Options) (*Engine, error) {
	first, err := newClients(o.Host)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		host:            o.Host,
		version:         versions{host: o.Host, negotiating: make(chan struct{}, 1)},
		streamCheck:     streamCheck,
		removalPatience: removalPatience,
		logBytes:        logBytes,
		folders:         o.Folders,
		bundleImage:     o.BundleImage,
	}
	e.version.current.Store(first)
	return e, nil
}

// Ping checks that the Docker Engine answers. It returns ErrUnavailable when
// there is no answer within a few seconds.
func (e *Engine) Ping(ctx context.Context) error {
	return e.read(ctx, "ping docker", func(ctx context.Context) error {
		_, err := e.calls().Ping(ctx, client.PingOptions{})
		return err
	})
}

// UseBundleImage makes EnsureBundle use the built-in bundle image that contains
// the static executable, and load it when it is missing. It does not contact
// dockerd. It returns ErrInvalid when the executable is not static.
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

// LoadBundleImage does what UseBundleImage does, and also loads the image unless
// the Docker Engine has it. It returns the image's reference.
func (e *Engine) LoadBundleImage(ctx context.Context, executable string) (string, error) {
	image, err := e.useBundleImage(executable)
	if err != nil {
		return "", err
	}
	if err := e.Ping(ctx); err != nil {
		return "", err
	}
	err = e.bounded(ctx, loadTimeout, "load image "+image.Reference(), func(ctx context.Context) error {
		return image.Ensure(ctx, e.streams())
	})
	if err != nil {
		return "", err
	}
	return image.Reference(), nil
}

// builtIn returns the built-in image's reference and the executable that it is
// made from. Either may be empty.
func (e *Engine) builtIn() (reference, executable string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.bundleImage, e.executable
}

// read runs a call that only reads. what describes the action and its object, for
// errors.
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
	if err := e.version.negotiate(inner); err != nil {
		return withKind(what, err)
	}
	return withKind(what, e.version.retry(inner, call))
}

// calls returns the client for calls that have a deadline.
func (e *Engine) calls() *client.Client { return e.version.current.Load().calls }

// streams returns the client for streams, which have no deadline.
func (e *Engine) streams() *client.Client { return e.version.current.Load().streams }
