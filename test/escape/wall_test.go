// SPDX-License-Identifier: Apache-2.0

package escape

import (
	"testing"
	"time"

	"botbottle.dev/bottle-operator/test/story"
)

// backends are smolvm's ways of giving a guest a network.
func (s *site) backends() []string {
	if s.real {
		return []string{"virtio-net", "tsi"}
	}
	return []string{""}
}

func testWall(t *testing.T, s *site) {
	r := &raid{site: s, attacks: append([]attack{s.wayOut()}, s.attacks(t)...), listener: s.listen(t, "a listener on the node")}
	insideWall := []string{"nsenter", "--net=" + wallNS(s.walled)}
	for _, backend := range s.backends() {
		m := s.makeMachine(t, backend, "")
		t.Run("control, on the node's network, "+m.String(), func(t *testing.T) {
			m.start(t)
			r.wantCarried(t, m, r.from(t, m.String()+" on the node's network", m.sh))
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
	t.Run("behind smolvm's policy alone, on the node's network", func(t *testing.T) {
		m.start(t)
		r.wantStopped(t, policy, m.String()+" on the node's network", m.sh)
	})
}

// raid is all attacks of a guest, made at several places.
type raid struct {
	site     *site
	attacks  []attack // the first is none, and must succeed everywhere
	listener *listener
}

// from makes them at one place and returns how they ended.
func (r *raid) from(t *testing.T, where string, sh func(t *testing.T, script string) string) []outcome {
	t.Helper()
	batch, begin := attempts(r.attacks), time.Now()
	told := parse(t, sh(t, script(batch, r.site.patience, bundleIP(r.site.walled))), len(batch))
	t.Logf("%d attacks from %s took %s", len(batch)-1, where, time.Since(begin).Round(time.Millisecond))
	out := judge(batch, told, append(r.site.world(t), r.listener.sights(t)...))
	if !out[0].reached {
		t.Fatalf("%s does not reach %s, so that its silence means nothing: it was told %q", where, r.attacks[0].name, out[0].told)
	}
	return out
}

// wantStopped fails where an attack got through that w is to stop.
func (r *raid) wantStopped(t *testing.T, w wall, where string, sh func(t *testing.T, script string) string) {
	t.Helper()
	for i, o := range r.from(t, where, sh) {
		a := r.attacks[i]
		switch {
		case !o.reached || i == 0:
		case a.walls&w != 0:
			t.Errorf("ESCAPE: %s, from %s: reached: %s; want it stopped by %s", a.name, where, o.how, w)
		default:
			t.Logf("%s, from %s: reached, as is known of %s: stopped by %s", a.name, where, w, a.walls)
		}
	}
}

// wantCarried demands that without the walls the attacks succeed. A microVM's
// network carries not all of them, by backend: its own run says which, and
// those prove nothing there.
func (r *raid) wantCarried(t *testing.T, m *machine, got []outcome) {
	t.Helper()
	carried := 0
	for i, a := range r.attacks {
		switch {
		case i == 0:
		case got[i].reached:
			carried++
		case a.vmm && !r.site.real:
			t.Logf("%s: not carried by a stand-in, which has no gateway of its own", a.name)
		case r.site.real:
			t.Logf("%s: not carried by backend %s even without a wall; it was told %q", a.name, m.backend, got[i].told)
		default:
			t.Errorf("control: %s, from %s on the node's network: not reached, so that the wall is not tested by it; it was told %q", a.name, m, got[i].told)
		}
	}
	if carried < len(r.attacks)/4 {
		t.Errorf("control: %s on the node's network: %d of %d attacks succeeded, want more", m, carried, len(r.attacks)-1)
	}
}
