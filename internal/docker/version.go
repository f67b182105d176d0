// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/moby/moby/client"
)

// clients are clients of one Docker Engine that use one API version.
type clients struct {
	calls *client.Client
	// streams is a separate client so that a long stream does not hold a
	// connection that calls wait for.
	streams    *client.Client
	negotiated atomic.Bool
}

// newClients returns clients that have not negotiated a version yet.
func newClients(host string) (*clients, error) {
	calls, err := client.New(client.WithHost(host))
	if err != nil {
		return nil, fmt.Errorf("docker host %q: %w", host, err)
	}
	streams, err := client.New(client.WithHost(host))
	if err != nil {
		return nil, fmt.Errorf("docker host %q: %w", host, err)
	}
	return &clients{calls: calls, streams: streams}, nil
}

// versions negotiates the API version with the Docker Engine, and again when the
// Engine was replaced by a release that does not know that version any more.
type versions struct {
	host string
	// current is replaced as a whole, because a client cannot change its version
	// while calls use it, and never raises it.
	current atomic.Pointer[clients]
	// negotiating is held while the API version is negotiated. It is a channel so
	// that the callers that wait for it keep their own deadlines.
	negotiating chan struct{}
}

// negotiate negotiates the API version once. The client would do so by itself,
// but under a lock for which callers wait beyond their own deadlines.
func (v *versions) negotiate(ctx context.Context) error {
	if v.current.Load().negotiated.Load() {
		return nil
	}
	return v.exclusively(ctx, func(ctx context.Context) error {
		if c := v.current.Load(); !c.negotiated.Load() {
			return c.negotiate(ctx)
		}
		return nil
	})
}

// retry runs call. If docker refuses the API version, retry negotiates anew and
// runs call once more.
func (v *versions) retry(ctx context.Context, call func(context.Context) error) error {
	used := v.current.Load()
	err := call(ctx)
	if !versionRefused(err) {
		return err
	}
	if err := v.renew(ctx, used); err != nil {
		return err
	}
	return call(ctx)
}

// renew replaces the clients, unless somebody else has replaced the refused ones.
// Streams that are open keep theirs.
func (v *versions) renew(ctx context.Context, refused *clients) error {
	return v.exclusively(ctx, func(ctx context.Context) error {
		if v.current.Load() != refused {
			return nil
		}
		fresh, err := newClients(v.host)
		if err != nil {
			return err
		}
		if err := fresh.negotiate(ctx); err != nil {
			return err
		}
		v.current.Store(fresh)
		_, _ = refused.calls.Close(), refused.streams.Close() // closes only idle connections
		return nil
	})
}

func (v *versions) exclusively(ctx context.Context, do func(context.Context) error) error {
	select {
	case v.negotiating <- struct{}{}:
		defer func() { <-v.negotiating }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return do(ctx)
}

func (c *clients) negotiate(ctx context.Context) error {
	for _, c := range []*client.Client{c.calls, c.streams} {
		if _, err := c.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
			return err
		}
	}
	c.negotiated.Store(true)
	return nil
}

// versionRefused reports whether docker does not know the API version that the
// client uses (any more). Docker answers 400, as to any request that it refuses:
// only the words tell this case.
func versionRefused(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	return strings.Contains(text, "client version") && (strings.Contains(text, "is too new") || strings.Contains(text, "is too old"))
}

// versionUnknown reports whether the client does not know the Engine's API
// version.
func versionUnknown(err error) bool {
	return strings.Contains(err.Error(), "is not supported by this client")
}
