// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/host"
)

func TestRefusedDestinationsAreReported(t *testing.T) {
	w := running(t)
	w.events()
	w.r.events.Refused(t.Context(), ownerOfDemo(), "tcp 192.168.44.1:22")
	w.wantEvent(v1alpha1.ReasonEgressRefused + " the guest tried to reach forbidden destinations and was refused: tcp 192.168.44.1:22")
	other := ownerOfDemo()
	other.UID = "99999999-0000-4000-8000-000000000000"
	w.r.events.Refused(t.Context(), other, "tcp 192.168.44.1:22")
	if got := w.events(); len(got) != 0 {
		t.Errorf("for an earlier Bottle with the same name: got %q, want no Event", strings.Join(got, "; "))
	}
}

// TestDeniedRequestsAreReported checks that kubectl describe shows what a tool in the guest
// shows.
func TestDeniedRequestsAreReported(t *testing.T) {
	w := running(t)
	w.events()
	w.r.events.Denied(t.Context(), ownerOfDemo(), host.VerdictDeny, "a")
	w.wantEvent(v1alpha1.ReasonEgressDenied)
	w.r.events.Denied(t.Context(), ownerOfDemo(), host.VerdictFail, "b")
	w.wantEvent(v1alpha1.ReasonEgressFailed)
	w.r.events.Denied(t.Context(), ownerOfDemo(), host.VerdictAllow, "c")
	w.wantEvent(v1alpha1.ReasonSecretSent)
	w.bundles.Decide(ownerOfDemo(), host.Decision{Time: w.clock.Now(), Verdict: host.VerdictDeny, Host: "api.example.com", Port: 443, Cause: string(egress.CauseNoRule)})
	w.bundles.Decide(ownerOfDemo(), host.Decision{Time: w.clock.Now(), Verdict: host.VerdictFail, Host: "gone.example.com", Port: 443, Cause: string(egress.CauseUnknownName)})
	var got []string
	w.until("both Events", func() bool { got = append(got, w.events()...); return len(got) >= 2 })
	for _, want := range []string{
		v1alpha1.ReasonEgressDenied + ` api.example.com, port 443: no egress rule allows this host and port; to allow it, add "api.example.com:443" to spec.egress.allow of the Bottle`,
		v1alpha1.ReasonEgressFailed + " gone.example.com, port 443: the name does not resolve: the bundle's resolver knows no address for it; check its spelling",
	} {
		if !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("events: got %q, want %q", got, want)
		}
	}
}
