// SPDX-License-Identifier: Apache-2.0

// Package passes knows the Bottles of this node by UID, name and machine, and
// requests passes over them. It does not make passes itself.
package passes

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"botbottle.dev/bottle-operator/internal/host"
)

// Registry finds the Bottles of this node by UID or machine, because events on
// the node are reported by UID or by machine. The zero value is empty. A
// Registry is safe for concurrent use.
type Registry struct {
	mu    sync.Mutex
	byUID map[string]entry
	// uids maps the name of a machine to the Bottle's UID.
	uids map[string]string
}

type entry struct {
	key     types.NamespacedName
	machine string
}

// Remember adds a Bottle.
func (r *Registry) Remember(o host.Owner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byUID == nil {
		r.byUID, r.uids = map[string]entry{}, map[string]string{}
	}
	r.byUID[o.UID] = entry{key: types.NamespacedName{Namespace: o.Namespace, Name: o.Name}, machine: o.ID()}
	r.uids[o.ID()] = o.UID
}

// Forget removes all Bottles that were ever remembered under this key, and
// returns their UIDs.
func (r *Registry) Forget(k types.NamespacedName) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var removed []string
	for uid, e := range r.byUID {
		if e.key == k {
			removed = append(removed, uid)
			delete(r.byUID, uid)
			delete(r.uids, e.machine)
		}
	}
	return removed
}

// Key returns the key of the Bottle with this UID.
func (r *Registry) Key(uid string) (types.NamespacedName, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.byUID[uid]
	return e.key, ok
}

// KeyOfMachine returns the key of the Bottle whose machine has this name.
func (r *Registry) KeyOfMachine(name string) (types.NamespacedName, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.byUID[r.uids[name]]
	return e.key, ok
}

// All returns the keys of all Bottles, in no particular order.
func (r *Registry) All() []types.NamespacedName {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := make([]types.NamespacedName, 0, len(r.byUID))
	for _, e := range r.byUID {
		keys = append(keys, e.key)
	}
	return keys
}
