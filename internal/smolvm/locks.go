// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"math/rand/v2"
	"time"
)

// maxExecs is how many execs and copies may run in one guest at a time where
// the guest's agent serves only eight connections: the rest stay free for the
// liveness check.
const maxExecs = 6

// maxSessions bounds the commands of users in one guest where smolvm itself has no
// known limit. Each takes a process of smolvm on the node.
const maxSessions = 32

const (
	// maxSlowCreates is how many slow creates run at a time. With two, one large
	// artifact does not delay all others, and the disk still serves the machines.
	maxSlowCreates = 2
	// largeImage is the size of an archive from which a create is slow: smolvm
	// hashes it, at about a gigabyte a second.
	largeImage = 1 << 30
)

// slowCreate waits until another slow create may run, and returns what ends that
// turn. Unpacking an artifact or hashing a large archive does not keep other writes
// out. smolvm writes the record before and after it unpacks: where a release's
// database is locked just then, run tries again.
func (d *Driver) slowCreate(ctx context.Context) (release func(), err error) {
	if err := d.slowCreates.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	return func() { d.slowCreates.Release(1) }, nil
}

// exclusive waits until no other writing call runs, and keeps others out until
// release is called.
func (d *Driver) exclusive(ctx context.Context) (release func(), err error) {
	if err := d.writes.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	return func() { d.writes.Release(1) }, nil
}

// slowWrite is like exclusive, for calls that may take long (start and stop):
// they keep others out only where the release's database requires it.
func (d *Driver) slowWrite(ctx context.Context, c capabilities) (release func(), err error) {
	if c.lockedDB {
		return d.exclusive(ctx)
	}
	return func() {}, nil
}

// jitter returns d plus or minus a quarter, so that two callers that retry do
// not collide again.
func jitter(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2) }

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
