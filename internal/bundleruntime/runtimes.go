// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"fmt"

	"botbottle.dev/bottle-operator/internal/host"
)

// Runtimes tells the passes over Bottles about the Bottles' runtimes and Pods.
type Runtimes struct {
	*Choices
	Places *Places
}

// Forget drops what is known about a Bottle that has left the node.
func (r *Runtimes) Forget(uid string) {
	r.Choices.Forget(uid)
	r.Places.Forget(uid)
}

// BundleOf is Places.BundleOf.
func (r *Runtimes) BundleOf(uid string) string { return r.Places.BundleOf(uid) }

// PodOf is Places.PodOf. It is "" for a Bottle without a Pod.
func (r *Runtimes) PodOf(uid string) string {
	if kind, err := r.Of(uid); err != nil || kind != Pod {
		return ""
	}
	return r.Places.PodOf(uid)
}

// StartedIn is Places.StartedIn.
func (r *Runtimes) StartedIn(uid string) string { return r.Places.StartedIn(uid) }

// TakeReplaced is Places.TakeReplaced. It is false for a Bottle without a Pod.
func (r *Runtimes) TakeReplaced(uid string) (bool, error) {
	if kind, err := r.Of(uid); err != nil || kind != Pod {
		return false, err
	}
	return r.Places.TakeReplaced(uid)
}

// ReplacedMessage is the message of the Event v1alpha1.ReasonSandboxReplaced.
const ReplacedMessage = "the Bottle's Pod lost its network namespace, and the kubelet made another one; " +
	"the machine has no network until the agent has made a new wall and a new link"

// Logs says how a user reads the log of the bundle's container.
func (k Kind) Logs(owner host.Owner) string {
	if k == Pod {
		return fmt.Sprintf("kubectl logs -l botbottle.dev/uid=%s -n %s", owner.UID, owner.Namespace)
	}
	return fmt.Sprintf("docker logs %s on the node", owner.ID())
}

// Describe says how a user finds out why the bundle's container does not run.
func (k Kind) Describe(owner host.Owner) string {
	if k == Pod {
		return fmt.Sprintf("kubectl describe pod -l botbottle.dev/uid=%s -n %s", owner.UID, owner.Namespace)
	}
	return k.Logs(owner)
}

// OutOfMemory says that the bundle's container was killed for want of memory, and what to do
// about that. limit is the container's own, in bytes.
func (k Kind) OutOfMemory(limit int64) string {
	what := fmt.Sprintf("the bundle's container needed more than its %d MiB of memory and", limit>>20)
	if k == Pod {
		what = "the Bottle's Pod (the machine, its overhead and the bundle together) ran out of memory, so the bundle's container"
	}
	return what + " was killed; it starts again in a few seconds; if this repeats, raise the manager's --bundle-memory, which applies to Bottles that are placed from then on"
}
