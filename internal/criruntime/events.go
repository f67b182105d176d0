// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/backoff"
)

const (
	// reconnectFirst and reconnectMax bound the wait before a lost stream is opened
	// again.
	reconnectFirst = 200 * time.Millisecond
	reconnectMax   = 10 * time.Second
	// streamCheck is the interval at which the runtime is asked for a sign of life.
	streamCheck = 30 * time.Second
)

// Run follows the runtime's events until ctx ends, and returns nil. It drops what is known
// about a Pod when the Pod changes, and tells WatchBundles. It is needed once.
func (r *Runtime) Run(ctx context.Context) error {
	for failures := 1; ; failures++ {
		began := time.Now()
		// The error is not reported: every other call to the runtime reports the same.
		_ = r.followEvents(ctx)
		r.cache.setWatched(false)
		if ctx.Err() != nil {
			return nil
		}
		r.changed("")
		if time.Since(began) > reconnectMax {
			failures = 1
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff.After(failures, reconnectFirst, reconnectMax)):
		}
	}
}

// followEvents reads one stream of events until it is lost, or until the runtime no longer
// answers: one that hangs does not close its streams.
func (r *Runtime) followEvents(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := r.client.GetContainerEvents(ctx, &cri.GetEventsRequest{})
	if err != nil {
		return err
	}
	lost := make(chan error, 1)
	go func() { lost <- r.readEvents(stream) }()
	// The stream has no answer before the first event. A runtime that has answered a later
	// call has most likely opened it; watchedAge bounds the effect of a missed event.
	if err := r.Ping(ctx); err != nil {
		return err
	}
	r.cache.setWatched(true)
	r.changed("") // what changed until now
	check := time.NewTicker(streamCheck)
	defer check.Stop()
	for {
		select {
		case err := <-lost:
			return err
		case <-check.C:
			if err := r.Ping(ctx); err != nil {
				return err
			}
		}
	}
}

func (r *Runtime) readEvents(stream grpc.ServerStreamingClient[cri.ContainerEventResponse]) error {
	for {
		event, err := stream.Recv()
		if err != nil {
			return err
		}
		if uid := event.GetPodSandboxStatus().GetLabels()[v1alpha1.LabelUID]; uid != "" {
			r.changed(uid)
		}
	}
}

// changed drops what is known about an owner's Pod, and tells the watchers; "" means all.
func (r *Runtime) changed(uid string) {
	r.cache.drop(uid)
	r.watchers.notify(uid)
}
