// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/inventory"
)

// Mode is what a Sweeper does about orphans.
type Mode string

// Modes of a Sweeper.
const (
	Remove Mode = "remove"
	Report Mode = "report" // dry run
)

// clusterNamespace is the namespace whose UID is the cluster's identity.
const clusterNamespace = "kube-system"

// Teardown removes orphans.
type Teardown interface {
	// TeardownOrphan requests one attempt to remove everything of the owner
	// from the node. The attempt is made later, and never during a pass over a
	// Bottle with the same name. stillOrphan is called right before, and
	// nothing is removed unless it returns true.
	TeardownOrphan(o host.Owner, stillOrphan func(context.Context) (bool, error))
}

// Options of a Sweeper. All except Metrics are required.
type Options struct {
	// Node is the name of this node, Cluster the UID of kube-system.
	Node, Cluster string
	Inventory     inventory.Sources
	Teardown      Teardown
	// Informers report Bottles that are removed from this node.
	Informers cache.Informers
	// Live reads directly from the API server, never from a cache.
	Live     client.Reader
	Recorder events.EventRecorder
	Clock    clock.WithTicker
	// Grace is how long something must have been an orphan before it is
	// removed.
	Grace   time.Duration
	Mode    Mode
	Metrics *Metrics
}

// Sweeper requests the removal of orphans once their grace period is over.
type Sweeper struct {
	Options
	seen      map[string]time.Time  // when each orphan, by UID, was first seen
	requested map[string]host.Owner // orphans whose teardown was requested since the last sweep, by UID
	removals  *removals
}

// New returns a Sweeper that is not yet part of a manager.
func New(o Options) *Sweeper {
	return &Sweeper{Options: o, seen: map[string]time.Time{}, requested: map[string]host.Owner{}, removals: newRemovals()}
}

// Start sweeps four times per grace period, and tears down removed Bottles at once,
// until ctx ends.
func (w *Sweeper) Start(ctx context.Context) error {
	log := logf.FromContext(ctx).WithName("sweep")
	ctx = logf.IntoContext(ctx, log)
	ticker := w.Clock.NewTicker(max(time.Second, w.Grace/4))
	defer ticker.Stop()
	if err := w.watchRemovals(ctx); err != nil && ctx.Err() == nil {
		log.Error(err, "What is left of a removed Bottle is removed only after the grace period")
	}
	pause := firstRetry
	var retry <-chan time.Time
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			err = w.Sweep(ctx)
		case <-w.removals.added:
			pause = firstRetry
			retry, err = w.teardownRemoved(ctx, pause)
		case <-retry:
			pause = min(2*pause, lastRetry)
			retry, err = w.teardownRemoved(ctx, pause)
		}
		if err != nil && ctx.Err() == nil {
			log.Error(err, "Cannot look for orphans")
		}
	}
}

// Sweep looks for orphans once. It requests the teardown of those that were
// first seen at least a grace period ago, and checks the result of the requests
// since the previous sweep. It must not be called concurrently.
func (w *Sweeper) Sweep(ctx context.Context) error {
	// List the node first, then the API server: everything found on the node
	// has its Bottle in the second list, unless the Bottle no longer exists.
	found, err := w.Inventory.Owners(ctx, host.Owner{Cluster: w.Cluster, Node: w.Node})
	if err != nil {
		return fmt.Errorf("look for orphans: %w", err)
	}
	placed, err := w.bottles(ctx)
	if err != nil {
		return err
	}
	for uid := range w.seen {
		if _, still := found[uid]; !still || placed[uid] {
			delete(w.seen, uid)
		}
	}
	w.reviewRequests(ctx, found, placed)
	now := w.Clock.Now()
	for _, uid := range slices.Sorted(maps.Keys(found)) {
		first, seen := w.seen[uid]
		switch {
		case placed[uid]:
		case !seen:
			w.seen[uid] = now
			logf.FromContext(ctx).Info("Something on the node belongs to no Bottle", "name", found[uid].ID(), "grace", w.Grace)
		case now.Sub(first) >= w.Grace:
			w.remove(ctx, found[uid])
		}
	}
	w.Metrics.set(len(w.seen))
	return nil
}

// reviewRequests counts the results of the requests since the previous sweep.
func (w *Sweeper) reviewRequests(ctx context.Context, found map[string]host.Owner, placed map[string]bool) {
	for uid, o := range w.requested {
		log := logf.FromContext(ctx).WithValues("name", o.ID(), "namespace", o.Namespace, "bottle", o.Name)
		_, still := found[uid]
		switch {
		case placed[uid]: // its Bottle came back
		case still:
			w.Metrics.count("failed")
			log.Info("An orphan is still on the node")
		default:
			w.Metrics.count("succeeded")
			log.Info("An orphan was removed")
			node := &corev1.Node{}
			node.Name = w.Node
			w.Recorder.Eventf(node, nil, corev1.EventTypeNormal, v1alpha1.ReasonOrphanRemoved, "Sweep",
				"removed %s of Bottle %s/%s, which is not on this node", o.ID(), o.Namespace, o.Name)
		}
	}
	clear(w.requested)
}

// remove requests the teardown of an orphan.
func (w *Sweeper) remove(ctx context.Context, o host.Owner) {
	if w.Mode == Report {
		logf.FromContext(ctx).Info("An orphan would be removed", "name", o.ID(), "namespace", o.Namespace, "bottle", o.Name)
		return
	}
	w.requested[o.UID] = o
	w.Teardown.TeardownOrphan(o, func(ctx context.Context) (bool, error) { return w.stillOrphan(ctx, o) })
}

// stillOrphan reports whether the owner's Bottle is still not on this node.
func (w *Sweeper) stillOrphan(ctx context.Context, o host.Owner) (bool, error) {
	if o.Name == "" { // only a wall is left
		placed, err := w.bottles(ctx)
		return err == nil && !placed[o.UID], err
	}
	b := &v1alpha1.Bottle{}
	err := w.Live.Get(ctx, types.NamespacedName{Namespace: o.Namespace, Name: o.Name}, b)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("remove orphan %s: %w", o.ID(), err)
	}
	back := err == nil && string(b.UID) == o.UID && ptr.Deref(b.Status.NodeName, "") == w.Node
	return !back, nil
}

// bottles returns the UIDs of all Bottles on this node, from one complete list
// read directly from the API server. It fails if the API server belongs to
// another cluster than the node's objects.
func (w *Sweeper) bottles(ctx context.Context) (map[string]bool, error) {
	if err := w.sameCluster(ctx); err != nil {
		return nil, err
	}
	out := map[string]bool{}
	list := &v1alpha1.BottleList{}
	for {
		err := w.Live.List(ctx, list, client.MatchingFields{"status.nodeName": w.Node},
			client.Limit(250), client.Continue(list.Continue))
		if err != nil {
			return nil, fmt.Errorf("look for orphans: %w", err)
		}
		for _, b := range list.Items {
			out[string(b.UID)] = true
		}
		if list.Continue == "" {
			return out, nil
		}
	}
}

// sameCluster returns an error if the API server and the node's objects belong to
// different clusters.
func (w *Sweeper) sameCluster(ctx context.Context) error {
	ns := &corev1.Namespace{}
	if err := w.Live.Get(ctx, types.NamespacedName{Name: clusterNamespace}, ns); err != nil {
		return fmt.Errorf("look for orphans: %w", err)
	}
	if string(ns.UID) != w.Cluster {
		return errors.New("look for orphans: the API server belongs to another cluster now; nothing is removed")
	}
	return nil
}
