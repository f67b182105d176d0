// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"maps"
	"slices"
)

// Data returns the names of the machines whose data are on the node, sorted:
// from the creation of a machine until its deletion is complete.
func (f *Machines) Data() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.data))
}

// FailDeleteHalfway makes the next DeleteMachine fail with err when the machine
// is no longer listed and its data are still there.
func (f *Machines) FailDeleteHalfway(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.halfway = err
}
