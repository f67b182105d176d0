// SPDX-License-Identifier: Apache-2.0

package wall

import "testing"

// newWorld checks that nothing of it is left.
func TestTryKernel(t *testing.T) {
	newWorld(t)
	if err := TryKernel(); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	if err := TryPodKernel(); err != nil {
		t.Errorf("in a Pod: got %v, want nil", err)
	}
}
