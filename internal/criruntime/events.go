// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"fmt"
	"slices"
	"sync"
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
	// pollInterval is how often lists are compared while there are no events.
	pollInterval = 2 * time.Second
	// refusalTime is how long a runtime that has no events may take to say so.
	refusalTime = 50 * time.Millisecond
)

// Run follows the runtime's events until ctx ends, and returns nil. It must be called once.
// When a Pod changes, it drops what is known about the Pod, tells WatchBundles, and ends the
// bundles of lost sandboxes. While there are no events (CRI-O has none by default), it
// compares lists. It tells nobody that the runtime is silent: that changes nothing about the
// Pods.
func (r *Runtime) Run(ctx context.Context) error {
	var ending sync.WaitGroup
	defer ending.Wait()
	ending.Go(func() { r.endLeftovers(ctx) })
	last := map[string]string(nil)
	for failures := 1; ; failures++ {
		// followEvents returns no error: every other call to the runtime reports the same.
		if established := r.followEvents(ctx); established {
			failures, last = 1, nil
			r.cache.drop("")
		}
		r.cache.setWatched(false)
		if ctx.Err() != nil {
			return nil
		}
		if last = r.poll(ctx, last, backoff.After(failures, reconnectFirst, reconnectMax)); ctx.Err() != nil {
			return nil
		}
	}
}

// followEvents reads one stream of events until it is lost, or until the runtime no longer
// answers: one that hangs does not close its streams. It reports whether the stream was ever
// established.
func (r *Runtime) followEvents(ctx context.Context) (established bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := r.client.GetContainerEvents(ctx, &cri.GetEventsRequest{})
	if err != nil {
		return false
	}
	lost := make(chan struct{})
	go func() {
		defer close(lost)
		r.readEvents(stream)
	}()
	// The stream has no answer before the first event. A runtime that has answered a later
	// call has most likely opened it; watchedAge bounds the effect of a missed event.
	if err := r.Ping(ctx); err != nil {
		return false
	}
	select {
	case <-lost:
		return false // refused
	case <-time.After(refusalTime):
	}
	r.cache.setWatched(true)
	r.changed("") // what changed until now
	check := time.NewTicker(streamCheck)
	defer check.Stop()
	for {
		select {
		case <-lost:
			return true
		case <-check.C:
			if err := r.Ping(ctx); err != nil {
				return true
			}
		}
	}
}

// poll compares lists of Pods and containers for a time, with the last one first, and returns
// the newest. It reports the owners of what differs; all if there was no list before.
func (r *Runtime) poll(ctx context.Context, last map[string]string, limit time.Duration) map[string]string {
	end, tick := time.NewTimer(limit), time.NewTicker(pollInterval)
	defer end.Stop()
	defer tick.Stop()
	for {
		if now, err := r.snapshot(ctx); err == nil {
			r.compare(last, now)
			last = now
		}
		select {
		case <-ctx.Done():
			return last
		case <-end.C:
			return last
		case <-tick.C:
		}
	}
}

func (r *Runtime) compare(last, now map[string]string) {
	if last == nil {
		r.changed("")
		return
	}
	for uid := range now {
		if last[uid] != now[uid] {
			r.changed(uid)
		}
	}
	for uid := range last {
		if _, ok := now[uid]; !ok {
			r.changed(uid)
		}
	}
}

// snapshot returns the state of each Bottle's sandboxes and containers, by the owner's UID.
func (r *Runtime) snapshot(ctx context.Context) (map[string]string, error) {
	pods, err := r.Pods(ctx)
	if err != nil {
		return nil, err
	}
	containers, err := r.containers(ctx, "")
	if err != nil {
		return nil, err
	}
	bySandbox := map[string][]string{}
	for _, c := range containers {
		bySandbox[c.PodSandboxId] = append(bySandbox[c.PodSandboxId], c.Id+" "+c.State.String())
	}
	out := map[string]string{}
	for _, p := range pods {
		slices.Sort(bySandbox[p.SandboxID])
		out[p.Owner.UID] += fmt.Sprintln(p.SandboxID, p.Ready, bySandbox[p.SandboxID])
	}
	return out, nil
}

func (r *Runtime) readEvents(stream grpc.ServerStreamingClient[cri.ContainerEventResponse]) {
	for {
		event, err := stream.Recv()
		if err != nil {
			return
		}
		if uid := event.GetPodSandboxStatus().GetLabels()[v1alpha1.LabelUID]; uid != "" {
			r.changed(uid)
		}
	}
}

// changed reports a change of an owner's Pod to all who must know; "" means of any Pod.
func (r *Runtime) changed(uid string) {
	r.cache.drop(uid)
	r.left.add(uid)
	r.watchers.Notify(uid)
}
