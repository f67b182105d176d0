// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// Bottle is what the server knows about a Bottle.
type Bottle struct {
	Owner host.Owner
	// Finished: its workload has ended for good.
	Finished bool
	// FilesOpen: the machine of the finished Bottle runs so that files can be copied. It is
	// false while that machine is being stopped.
	FilesOpen bool
	// Supervised: a supervisor runs the workload in the guest.
	Supervised bool
	// Stdin: the workload has an input. Terminal: it has a terminal.
	Stdin, Terminal bool
}

// Bottles finds the Bottles of this node.
type Bottles interface {
	// Find returns the Bottle with this name and UID. It returns host.ErrNotFound if there
	// is none or if it is on another node.
	Find(ctx context.Context, namespace, name, uid string) (Bottle, error)
	// IDs returns the names of the machines of this node's Bottles.
	IDs(ctx context.Context) ([]string, error)
}

// NodeBottles finds the Bottles of a node in the agent's cache.
type NodeBottles struct {
	Client        client.Reader
	State         *state.Dir
	Node, Cluster string
}

var _ Bottles = NodeBottles{}

// Find implements Bottles.
func (n NodeBottles) Find(ctx context.Context, namespace, name, uid string) (Bottle, error) {
	var b v1alpha1.Bottle
	err := n.Client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &b)
	switch {
	case apierrors.IsNotFound(err):
		return Bottle{}, host.ErrNotFound
	case err != nil:
		return Bottle{}, err
	case string(b.UID) != uid || !n.here(&b):
		return Bottle{}, fmt.Errorf("%w on this node", host.ErrNotFound)
	}
	out := Bottle{
		Owner:    n.owner(&b),
		Finished: meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionFinished),
	}
	folder, err := n.State.Folder(uid)
	if err != nil {
		return Bottle{}, err
	}
	record, err := folder.Record()
	if err != nil || record == nil {
		return out, err
	}
	stdin := v1alpha1.Stdin(record.Workload.Stdin)
	out.FilesOpen = !record.Workload.FilesSince.IsZero()
	out.Supervised = record.Workload.Out != ""
	out.Stdin, out.Terminal = stdin == v1alpha1.StdinOpen || stdin == v1alpha1.StdinTerminal, stdin == v1alpha1.StdinTerminal
	return out, nil
}

// IDs implements Bottles.
func (n NodeBottles) IDs(ctx context.Context) ([]string, error) {
	var list v1alpha1.BottleList
	if err := n.Client.List(ctx, &list); err != nil {
		return nil, err
	}
	var ids []string
	for i := range list.Items {
		if b := &list.Items[i]; n.here(b) {
			ids = append(ids, n.owner(b).ID())
		}
	}
	return ids, nil
}

func (n NodeBottles) here(b *v1alpha1.Bottle) bool { return ptr.Deref(b.Status.NodeName, "") == n.Node }

func (n NodeBottles) owner(b *v1alpha1.Bottle) host.Owner {
	return host.Owner{UID: string(b.UID), Namespace: b.Namespace, Name: b.Name, Slug: b.Spec.Slug, Cluster: n.Cluster, Node: n.Node}
}
