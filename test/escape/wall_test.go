// SPDX-License-Identifier: Apache-2.0

package escape

import (
	"testing"
	"time"

	"botbottle.dev/bottle-operator/test/story"
)

// backends returns the network backends of smolvm to test.
func (s *site) backends() []string {
	if s.real {
		return []string{"virtio-net", "tsi"}
	}
	return []string{""}
}

func testWall(t *testing.T, s *site) {
	r := &attackSet{site: s, attacks: append([]attack{s.allowedPath()}, s.attacks(t)...), listener: s.listen(t, "a listener on the node")}
	insideWall := []string{"nsenter", "--net=" + wallNS(s.walled)}
	// Where the guest would be without its wall: on the node's network or, if the bundle is in
	// a Pod, on that Pod's.
	outside := s.BesideWall(t, s.walled)
	for _, backend := range s.backends() {
		m := s.makeMachine(t, backend, "")
		t.Run("control, outside of the wall, "+m.String(), func(t *testing.T) {
			m.start(t, outside...)
			r.wantSuccess(t, m, r.runFrom(t, m.String()+" outside of the wall", m.sh))
		})
		t.Run("behind the wall, "+m.String(), func(t *testing.T) {
			m.start(t, insideWall...)
			r.wantStopped(t, hostWall, m.String()+" inside the wall", m.sh)
		})
	}
	t.Run("behind the wall, a Bottle", func(t *testing.T) {
		r.wantStopped(t, hostWall, "the guest of Bottle "+story.ID(s.walled), func(t *testing.T, script string) string {
			return s.Guest(t, s.walled, "sh", "-c", script)
		})
	})
	if !s.real {
		return // a stand-in enforces no policy
	}
	m := s.makeMachine(t, "virtio-net", bundleIP(s.walled)+"/32")
	t.Run("behind only smolvm's policy", func(t *testing.T) {
		m.start(t, outside...)
		r.wantStopped(t, policy, m.String()+" outside of the wall", m.sh)
	})
}

// attackSet is all attacks of a guest. They run from several places.
type attackSet struct {
	site     *site
	attacks  []attack // the first is no attack, and must succeed everywhere
	listener *listener
}

// runFrom runs the attacks from one place and returns how they ended.
func (r *attackSet) runFrom(t *testing.T, where string, sh func(t *testing.T, script string) string) []outcome {
	t.Helper()
	batch, start := attempts(r.attacks), time.Now()
	outputs := parse(t, sh(t, script(batch, r.site.attackTimeout, bundleIP(r.site.walled))), len(batch))
	t.Logf("%d attacks from %s took %s", len(batch)-1, where, time.Since(start).Round(time.Millisecond))
	out := judge(batch, outputs, append(r.site.world(t), r.listener.observations(t)...))
	if !out[0].reached {
		t.Fatalf("%s does not reach %s, so the failure of its attacks means nothing: the guest printed %q", where, r.attacks[0].name, out[0].output)
	}
	return out
}

// wantStopped checks that every attack that w should stop failed.
func (r *attackSet) wantStopped(t *testing.T, w wall, where string, sh func(t *testing.T, script string) string) {
	t.Helper()
	for i, o := range r.runFrom(t, where, sh) {
		a := r.attacks[i]
		switch {
		case !o.reached || i == 0:
		case a.walls&w != 0:
			t.Errorf("ESCAPE: %s, from %s: reached: %s; want it stopped by %s", a.name, where, o.evidence, w)
		default:
			t.Logf("%s, from %s: reached, because %s does not stop it: it is stopped by %s", a.name, where, w, a.walls)
		}
	}
}

// wantSuccess checks that the attacks succeed without the walls. A microVM's network
// does not carry all of them, depending on the backend. wantSuccess logs those; they
// prove nothing for that backend.
func (r *attackSet) wantSuccess(t *testing.T, m *machine, got []outcome) {
	t.Helper()
	succeeded := 0
	for i, a := range r.attacks {
		switch {
		case i == 0:
		case got[i].reached:
			succeeded++
		case a.vmm && !r.site.real:
			t.Logf("%s: not carried by a stand-in, which has no gateway of its own", a.name)
		case r.site.real:
			t.Logf("%s: not carried by backend %s even without a wall; the guest printed %q", a.name, m.backend, got[i].output)
		default:
			t.Errorf("control: %s, from %s outside of the wall: not reached, so it does not test the wall; the guest printed %q", a.name, m, got[i].output)
		}
	}
	if succeeded < len(r.attacks)/4 {
		t.Errorf("control: %s outside of the wall: %d of %d attacks succeeded, want more", m, succeeded, len(r.attacks)-1)
	}
}
