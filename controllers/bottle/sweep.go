// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
)

// SweepMode says what is done about orphans.
type SweepMode string

// Modes of a Sweeper.
const (
	SweepRemove SweepMode = "remove"
	SweepReport SweepMode = "report" // dry run
)

// Sweeper removes from the node what bears the labels of this cluster and node
// and belongs to none of its Bottles: what a teardown could not, because the
// Bottle was taken away without it. What is another cluster's, another node's
// or nobody's is never touched.
type Sweeper struct {
	// Reconciler of the node.
	Reconciler *Reconciler
	// Live reads from the API server itself, never from a cache.
	Live client.Reader
	// Grace is how long something must have been seen as an orphan.
	Grace time.Duration
	Mode  SweepMode

	mu   sync.Mutex
	seen map[string]time.Time // when each orphan, by UID, was first seen
}

// Start sweeps until ctx ends, four times in a grace period.
func (w *Sweeper) Start(ctx context.Context) error {
	log := logf.FromContext(ctx).WithName("sweep")
	ctx = logf.IntoContext(ctx, log)
	ticker := w.Reconciler.Clock.NewTicker(max(time.Second, w.Grace/4))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
		if err := w.Sweep(ctx); err != nil && ctx.Err() == nil {
			log.Error(err, "Orphans could not be looked for")
		}
	}
}

// Sweep looks once, and removes what was an orphan at an earlier look too, at
// least a grace period ago.
func (w *Sweeper) Sweep(ctx context.Context) error {
	// The node first, then the API server: whatever was on the node by then
	// has a Bottle in the list, or none any more.
	found, err := w.found(ctx)
	if err != nil {
		return err
	}
	wanted, err := w.bottles(ctx)
	if err != nil {
		return err
	}
	now := w.Reconciler.Clock.Now()
	w.mu.Lock()
	if w.seen == nil {
		w.seen = map[string]time.Time{}
	}
	for uid := range w.seen {
		if _, still := found[uid]; !still || wanted[uid] {
			delete(w.seen, uid)
		}
	}
	var due []host.Owner
	for _, uid := range slices.Sorted(maps.Keys(found)) {
		first, again := w.seen[uid]
		switch {
		case wanted[uid]:
		case !again:
			w.seen[uid] = now
			logf.FromContext(ctx).Info("Something on the node belongs to no Bottle", "name", found[uid].ID(), "grace", w.Grace)
		case now.Sub(first) >= w.Grace:
			due = append(due, found[uid])
		}
	}
	w.Reconciler.Metrics.orphaned(len(w.seen))
	w.mu.Unlock()

	var errs []error
	for _, o := range due {
		errs = append(errs, w.remove(ctx, o))
	}
	return errors.Join(errs...)
}

// found are the owners of everything of this cluster and node, by UID: of
// docker's objects by their labels, of walls by their marks, of machines by the
// folder that records them.
func (w *Sweeper) found(ctx context.Context) (map[string]host.Owner, error) {
	r := w.Reconciler
	here := host.Owner{Cluster: r.Cluster, Node: r.Node}
	out := map[string]host.Owner{}
	add := func(o host.Owner) {
		if here.Local(o) {
			out[o.UID] = o
		}
	}
	networks, err := r.Networks.ListNetworks(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for orphans: %w", err)
	}
	for _, n := range networks {
		add(n.Owner)
	}
	bundles, err := r.Bundles.ListBundles(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for orphans: %w", err)
	}
	for _, b := range bundles {
		add(b.Owner)
	}
	walls, err := r.Walls.ListWalls(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for orphans: %w", err)
	}
	for _, w := range walls {
		// Their marks have no room for more: whoever else knows the Bottle,
		// knows its names.
		o := host.Owner{UID: w.UID, Cluster: w.Cluster, Node: r.Node}
		if o.Slug = strings.TrimSuffix(strings.TrimPrefix(w.ID, "bottle-"), "-"+o.UID8()); out[o.UID].UID == "" && o.ID() == w.ID {
			add(o)
		}
	}
	folders, err := r.State.Owners()
	if err != nil {
		return nil, fmt.Errorf("look for orphans: %w", err)
	}
	for _, o := range folders {
		add(o)
	}
	return out, nil
}

// bottles are the UIDs of all Bottles of this node, from one complete and
// fresh list of the cluster that the node's objects belong to.
func (w *Sweeper) bottles(ctx context.Context) (map[string]bool, error) {
	ns := &corev1.Namespace{}
	if err := w.Live.Get(ctx, types.NamespacedName{Name: clusterNamespace}, ns); err != nil {
		return nil, fmt.Errorf("look for orphans: %w", err)
	}
	if string(ns.UID) != w.Reconciler.Cluster {
		return nil, errors.New("look for orphans: the API server is another cluster's now; nothing is removed")
	}
	out := map[string]bool{}
	list := &v1alpha1.BottleList{}
	for {
		err := w.Live.List(ctx, list, client.MatchingFields{"status.nodeName": w.Reconciler.Node},
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

// clusterNamespace is the namespace whose UID is the cluster's identity.
const clusterNamespace = "kube-system"

// remove takes everything of the owner off the node.
func (w *Sweeper) remove(ctx context.Context, o host.Owner) error {
	r := w.Reconciler
	log := logf.FromContext(ctx).WithValues("name", o.ID(), "namespace", o.Namespace, "bottle", o.Name)
	if w.Mode == SweepReport {
		log.Info("An orphan would be removed")
		return nil
	}
	if back, err := w.isBack(ctx, o); err != nil || back {
		return err
	}
	gone := &v1alpha1.Bottle{}
	gone.Namespace, gone.Name, gone.UID, gone.Spec.Slug = o.Namespace, o.Name, types.UID(o.UID), o.Slug
	gone.DeletionTimestamp = &metav1.Time{Time: r.Clock.Now()}
	s, err := r.newScope(gone)
	if err == nil {
		err = flow.Run(ctx, s, r.teardown(), s.note)
	}
	r.Metrics.swept(err)
	if err != nil {
		return fmt.Errorf("remove orphan %s: %w", o.ID(), err)
	}
	w.mu.Lock()
	delete(w.seen, o.UID)
	w.mu.Unlock()
	log.Info("An orphan was removed")
	node := &corev1.Node{}
	node.Name = r.Node
	r.Recorder.Eventf(node, nil, corev1.EventTypeNormal, eventOrphanRemoved, "Sweep",
		"removed %s of Bottle %s/%s, which is not on this node", o.ID(), o.Namespace, o.Name)
	return nil
}

// isBack says whether the Bottle was placed here since the list was read.
func (w *Sweeper) isBack(ctx context.Context, o host.Owner) (bool, error) {
	if o.Name == "" { // of a wall alone
		wanted, err := w.bottles(ctx)
		return wanted[o.UID], err
	}
	b := &v1alpha1.Bottle{}
	err := w.Live.Get(ctx, types.NamespacedName{Namespace: o.Namespace, Name: o.Name}, b)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("remove orphan %s: %w", o.ID(), err)
	}
	return err == nil && string(b.UID) == o.UID && ptr.Deref(b.Status.NodeName, "") == w.Reconciler.Node, nil
}
