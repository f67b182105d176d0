// SPDX-License-Identifier: Apache-2.0

// Package freshness notices when a cache does not have the process's own last write to a
// Bottle yet.
package freshness

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// Writes remembers the last write to each Bottle, so that nothing is written that is based
// on an older view. Such a write would only be refused: Writes is an optimization, not a
// safeguard, because every write names the version that it is based on. The zero value is
// ready for use.
type Writes struct {
	mu   sync.Mutex
	last map[types.NamespacedName]write
}

type write struct {
	uid     types.UID
	version string
	looks   int // how often the Bottle as read was older
}

// mostLooks is how often Stale reports true for one write. After etcd was restored from a
// backup, versions begin again at earlier ones, and the cache never gets to this one.
const mostLooks = 100

// Record records the version that a write to the Bottle produced.
func (w *Writes) Record(b *v1alpha1.Bottle, version string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last == nil {
		w.last = map[types.NamespacedName]write{}
	}
	w.last[client.ObjectKeyFromObject(b)] = write{uid: b.UID, version: version}
}

// Stale reports whether the Bottle as read is older than the last write to it. If it is
// not, or if Stale was called too often meanwhile, it forgets the write.
func (w *Writes) Stale(b *v1alpha1.Bottle) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := client.ObjectKeyFromObject(b)
	last, waiting := w.last[key]
	if !waiting {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(b.ResourceVersion, last.version)
	if err == nil && order < 0 && b.UID == last.uid && last.looks < mostLooks {
		last.looks++
		w.last[key] = last
		return true
	}
	delete(w.last, key)
	return false
}

// Forget drops the record of a Bottle that is gone.
func (w *Writes) Forget(key types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.last, key)
}
