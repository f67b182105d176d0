// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// freshness remembers what was written last, so that a view from before it
// is not acted upon: that would only cost a refused write. It is a saving,
// not a safeguard; every write names the version that it rests on.
type freshness struct {
	mu      sync.Mutex
	written map[types.NamespacedName]string
}

func newFreshness() *freshness { return &freshness{written: map[types.NamespacedName]string{}} }

// wrote records the version that a write of ours made.
func (f *freshness) wrote(key types.NamespacedName, version string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written[key] = version
}

// stale says whether the Bottle as read is older than our last write to it.
// Once it is not, the write is forgotten.
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

// forget drops what was remembered of a Bottle that is gone.
func (f *freshness) forget(key types.NamespacedName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.written, key)
}
