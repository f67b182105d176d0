// SPDX-License-Identifier: Apache-2.0

package passes

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"botbottle.dev/bottle-operator/internal/host"
)

// Orphan is something on the node that belongs to no Bottle.
type Orphan struct {
	Owner       host.Owner
	StillOrphan func(context.Context) (bool, error)
}

// Orphans holds the orphans that wait for their teardown, by the key of their
// request. The zero value is empty.
type Orphans struct {
	mu    sync.Mutex
	byKey map[types.NamespacedName]map[string]Orphan // the inner key is the UID
}

// Add adds an orphan.
func (w *Orphans) Add(k types.NamespacedName, o Orphan) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byKey == nil {
		w.byKey = map[types.NamespacedName]map[string]Orphan{}
	}
	if w.byKey[k] == nil {
		w.byKey[k] = map[string]Orphan{}
	}
	w.byKey[k][o.Owner.UID] = o
}

// Take removes the orphans with this key and returns them by UID.
func (w *Orphans) Take(k types.NamespacedName) map[string]Orphan {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.byKey[k]
	delete(w.byKey, k)
	return taken
}

// OrphanKey returns the key of the request to tear down an orphan. It is the key
// of the orphan's Bottle, so that the teardown never runs during a pass over a
// Bottle with the same name. If the name is not known, the key has no namespace,
// so it is no Bottle's key.
func OrphanKey(o host.Owner) types.NamespacedName {
	if o.Name == "" {
		return types.NamespacedName{Name: o.UID}
	}
	return types.NamespacedName{Namespace: o.Namespace, Name: o.Name}
}
