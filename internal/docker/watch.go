// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/backoff"
	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// reconnectFirst and reconnectMax bound the wait before a lost stream is
	// opened again.
	reconnectFirst = 200 * time.Millisecond
	reconnectMax   = 10 * time.Second
	// streamCheck is the interval at which docker is pinged while a stream is
	// open: a hanging dockerd does not close its streams.
	streamCheck = 30 * time.Second
)

// watchedActions are the actions that can change whether a bundle runs and is
// reachable. Docker filters out the others, such as those of each exec.
var watchedActions = []events.Action{
	events.ActionCreate, events.ActionStart, events.ActionRestart, events.ActionStop, events.ActionDie,
	events.ActionKill, events.ActionOOM, events.ActionPause, events.ActionUnPause, events.ActionRename,
	events.ActionDestroy, events.ActionRemove, events.ActionConnect, events.ActionDisconnect, events.ActionUpdate,
}

// watch is one WatchBundles call.
type watch struct {
	engine  *Engine
	changed func(uid string)
	// networks maps docker's ID of each of our networks to the owner's UID,
	// because events of networks have no labels.
	networks map[string]string
	// lost is set after a stream was lost or could not be opened.
	lost bool
}

// WatchBundles implements host.Bundles. It also calls changed with "" when the
// stream is open again.
func (e *Engine) WatchBundles(ctx context.Context, changed func(uid string)) error {
	w := &watch{engine: e, changed: changed, networks: map[string]string{}}
	since, failures := time.Now(), 0
	for {
		// The error is not reported: every other call to docker reports the same.
		established, err := w.stream(ctx, since)
		if versionRefused(err) {
			_ = e.version.renew(ctx, e.version.current.Load())
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if established || !w.lost {
			changed("")
		}
		if established {
			failures = 0
		}
		// The call with "" covers missed events, so the next stream can start at
		// the time that it is opened.
		w.lost, since = true, time.Time{}
		failures++
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(backoff.After(failures, reconnectFirst, reconnectMax)):
		}
	}
}

// stream reads one stream of events until it is lost, and reports whether it was
// ever established. The error is nil if dockerd ended the stream properly.
func (w *watch) stream(ctx context.Context, since time.Time) (established bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := w.engine.Ping(ctx); err != nil {
		return false, err
	}
	// Events returns when docker has answered; the timer bounds this wait.
	opening := time.AfterFunc(readTimeout, cancel)
	result := w.engine.streams().Events(ctx, eventOptions(since))
	opening.Stop()
	select {
	case err := <-result.Err:
		return false, err
	default:
	}
	if err := w.loadNetworks(ctx); err != nil {
		return false, err
	}
	if w.lost {
		w.changed("")
	}
	check := time.NewTicker(w.engine.streamCheck)
	defer check.Stop()
	for {
		select {
		case m := <-result.Messages:
			w.observe(ctx, m)
		case err := <-result.Err:
			return true, err
		case <-check.C:
			if err := w.engine.Ping(ctx); err != nil {
				return true, err
			}
		}
	}
}

func eventOptions(since time.Time) client.EventsListOptions {
	filters := make(client.Filters).Add("type", string(events.ContainerEventType), string(events.NetworkEventType))
	for _, a := range watchedActions {
		filters.Add("event", string(a))
	}
	options := client.EventsListOptions{Filters: filters}
	if !since.IsZero() {
		options.Since = strconv.FormatInt(since.Unix(), 10) + "." + nanos(since)
	}
	return options
}

func nanos(t time.Time) string {
	s := strconv.Itoa(t.Nanosecond())
	for len(s) < 9 {
		s = "0" + s
	}
	return s
}

func (w *watch) loadNetworks(ctx context.Context) error {
	all, err := w.engine.listNetworks(ctx, labelFilter())
	if err != nil {
		return err
	}
	clear(w.networks)
	for _, n := range all {
		w.networks[n.ID] = ownerOf(n.Labels).UID
	}
	return nil
}

// observe reports an event about one of our objects. A network event has only the
// ID of the network, a container event has the container's labels.
func (w *watch) observe(ctx context.Context, m events.Message) {
	uid := ownerOf(m.Actor.Attributes).UID
	if m.Type == events.NetworkEventType {
		uid = w.networkUID(ctx, m)
	}
	if uid != "" {
		w.changed(uid)
	}
}

func (w *watch) networkUID(ctx context.Context, m events.Message) string {
	if m.Action == events.ActionCreate {
		w.loadNetwork(ctx, m.Actor.ID)
	}
	uid := w.networks[m.Actor.ID]
	if m.Action == events.ActionDestroy || m.Action == events.ActionRemove {
		delete(w.networks, m.Actor.ID)
	}
	return uid
}

// loadNetwork finds the owner of a new network. If the network is gone already,
// its owner is not waiting for it any more.
func (w *watch) loadNetwork(ctx context.Context, id string) {
	var n network.Inspect
	err := w.engine.read(ctx, "inspect docker network "+id, func(ctx context.Context) error {
		out, err := w.engine.calls().NetworkInspect(ctx, id, client.NetworkInspectOptions{})
		n = out.Network
		return err
	})
	switch {
	case err == nil:
		if uid := ownerOf(n.Labels).UID; uid != "" {
			w.networks[id] = uid
		}
	case !errors.Is(err, host.ErrNotFound):
		// The owner is not known, so every owner must check.
		w.changed("")
	}
}
