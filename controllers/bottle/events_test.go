// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

// A release of smolvm that is newer than any tested version is used, and reported
// on the Node.
func TestANewerSmolvmIsReported(t *testing.T) {
	w := newWorld(t)
	w.r.reportNewerSmolvm(t.Context())
	if got := w.events(); len(got) != 0 {
		t.Errorf("events for the reference version: got %q, want none", got)
	}
	newer := hosttest.ReferenceVersion
	newer.Newer = true
	w.machines.SetVersion(newer)
	w.r.reportNewerSmolvm(t.Context())
	w.wantEvent(v1alpha1.ReasonNewerSmolvm)
}
