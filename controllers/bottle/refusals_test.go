// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"strings"
	"testing"
)

func TestRefusedDestinationsAreReported(t *testing.T) {
	w := running(t)
	w.events()
	w.r.events.refused(t.Context(), ownerOfDemo(), "tcp 192.168.44.1:22")
	w.wantEvent(eventEgressRefused + " the guest tried to reach forbidden destinations and was refused: tcp 192.168.44.1:22")
	other := ownerOfDemo()
	other.UID = "99999999-0000-4000-8000-000000000000"
	w.r.events.refused(t.Context(), other, "tcp 192.168.44.1:22")
	if got := w.events(); len(got) != 0 {
		t.Errorf("for an earlier Bottle with the same name: got %q, want no Event", strings.Join(got, "; "))
	}
}
