// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// freshness remembers our last write to each Bottle, so that a pass does not act
// on an older view. Acting on one would only cost a refused write: freshness is
// an optimization, not a safeguard, because every write names the version that
// it is based on.
type freshness struct {
	mu      sync.Mutex
	written map[types.NamespacedName]string
}

func newFreshness() *freshness { return &freshness{written: map[types.NamespacedName]string{}} }

// recordWrite records the version that our write produced.
func (f *freshness) recordWrite(key types.NamespacedName, version string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written[key] = version
}

// stale reports whether the Bottle as read is older than our last write to it.
// If it is not, stale forgets the write.
func (f *freshness) stale(b *v1alpha1.Bottle) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := types.NamespacedName{Namespace: b.Namespace, Name: b.Name}
	version, waiting := f.written[key]
	if !waiting {
		return false
	}
	if order, err := resourceversion.CompareResourceVersion(b.ResourceVersion, version); err == nil && order < 0 {
		return true
	}
	delete(f.written, key)
	return false
}

// forget drops the record of a Bottle that is gone.
func (f *freshness) forget(key types.NamespacedName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.written, key)
}
