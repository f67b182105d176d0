// SPDX-License-Identifier: Apache-2.0

// Package bottleevents records Events about Bottles of a node that no pass over a Bottle
// causes: what its guest tried, how its image arrives, and which smolvm the node has.
package bottleevents

import (
	"cmp"
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/host"
)

// readTimeout bounds the look-up of a Bottle in a cache.
const readTimeout = 2 * time.Second

// Reporter records Events.
type Reporter struct {
	Recorder events.EventRecorder
	// Reader reads this node's Bottles from a cache.
	Reader client.Reader
	// Node is the name of this node.
	Node string
}

// Refused records an Event about destinations that a guest was refused.
func (r Reporter) Refused(ctx context.Context, owner host.Owner, destinations string) {
	logf.FromContext(ctx).Info("A guest tried to reach forbidden destinations", "machine", owner.ID(), "destinations", destinations)
	r.guest(ctx, owner, v1alpha1.ReasonEgressRefused, "Guard", "the guest tried to reach forbidden destinations and was refused: "+destinations)
}

// Denied records an Event about requests that a bundle did not let through.
func (r Reporter) Denied(ctx context.Context, owner host.Owner, verdict, refusals string) {
	reason := map[string]string{host.VerdictFail: v1alpha1.ReasonEgressFailed, host.VerdictAllow: v1alpha1.ReasonSecretSent}[verdict]
	r.guest(ctx, owner, cmp.Or(reason, v1alpha1.ReasonEgressDenied), "Proxy", agentstatus.Bounded(refusals))
}

// guest records a warning about what a guest did.
func (r Reporter) guest(ctx context.Context, owner host.Owner, reason, action, note string) {
	b := &v1alpha1.Bottle{}
	k := types.NamespacedName{Namespace: owner.Namespace, Name: owner.Name}
	if err := r.Reader.Get(ctx, k, b); err != nil || string(b.UID) != owner.UID {
		return
	}
	r.Recorder.Eventf(b, nil, corev1.EventTypeWarning, reason, action, "%s", note)
}

// NewerSmolvm records an Event about a smolvm newer than any tested version.
func (r Reporter) NewerSmolvm(ctx context.Context, v host.SmolvmVersion) {
	logf.FromContext(ctx).Info("This smolvm is newer than any tested version", "version", v.Version)
	node := &corev1.Node{}
	node.Name = r.Node
	r.Recorder.Eventf(node, nil, corev1.EventTypeWarning, v1alpha1.ReasonNewerSmolvm, "Fingerprint",
		"smolvm %s is newer than any tested version: bottles run, but watch them", v.Version)
}

// Image records an Event about a Bottle's image. It does not block.
func (r Reporter) Image(k types.NamespacedName, uid, reason, message string) {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
		defer cancel()
		b := &v1alpha1.Bottle{}
		if err := r.Reader.Get(ctx, k, b); err != nil || string(b.UID) != uid {
			return
		}
		kind := corev1.EventTypeNormal
		if reason == "Failed" || reason == "BackOff" {
			kind = corev1.EventTypeWarning
		}
		if reason == "Failed" { // once for each attempt
			logf.Log.WithName("images").Info("An image could not be pulled", "bottle", k, "message", message)
		}
		r.Recorder.Eventf(b, nil, kind, reason, "Pull", "%s", agentstatus.Bounded(message))
	}()
}
