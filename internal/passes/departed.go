// SPDX-License-Identifier: Apache-2.0

package passes

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// Departed holds the Bottles that are being deleted and whose teardown is done.
// The cache may still contain them for a short time.
type Departed struct {
	mu    sync.Mutex
	byKey map[types.NamespacedName]types.UID
}

// Has reports whether the teardown of the Bottle is done.
func (d *Departed) Has(b *v1alpha1.Bottle) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.byKey[keyOf(b)] == b.UID
}

// Add adds a Bottle.
func (d *Departed) Add(b *v1alpha1.Bottle) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byKey == nil {
		d.byKey = map[types.NamespacedName]types.UID{}
	}
	d.byKey[keyOf(b)] = b.UID
}

// Forget removes the Bottle with this key.
func (d *Departed) Forget(k types.NamespacedName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.byKey, k)
}

// Len returns the number of Bottles.
func (d *Departed) Len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.byKey)
}

func keyOf(b *v1alpha1.Bottle) types.NamespacedName {
	return types.NamespacedName{Namespace: b.Namespace, Name: b.Name}
}
