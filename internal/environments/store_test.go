// SPDX-License-Identifier: Apache-2.0

package environments

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/onsi/gomega"

	bottlev1alpha1 "botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/namedwatch"
)

func never() {}

func TestOnlyNamedKeysOfTheNodesBottles(t *testing.T) {
	s, o := newWorld()
	o.putSecret("mine", map[string]string{"token": "one", "other": "not named"})
	o.putSecret("registry", map[string]string{".dockerconfigjson": "{}", "password": "not named"})
	b := bottle("a", "ua", "node-1", "mine", "gone")
	b.Spec.ImagePullSecrets = []bottlev1alpha1.LocalObjectReference{{Name: "registry"}}
	o.put(secret("gone"), namedwatch.Object{State: namedwatch.NotFound})
	o.put(secret("theirs"), namedwatch.Object{State: namedwatch.Forbidden})
	s.put(b)
	s.put(bottle("b", "ub", "node-2", "theirs", "unread"))
	s.put(bottle("c", "uc", "", "mine"))
	s.put(bottle("d", "ud", "node-1"))
	for node, want := range map[string]map[string]string{
		"node-1": {"a": "ua/1 gone=NotFound mine=Present,token:one registry=Present,.dockerconfigjson:{}"},
		"node-2": {"b": "ub/1 theirs=Forbidden unread=Pending"},
		"node-3": {},
		"":       {},
	} {
		got := map[string]string{}
		for _, env := range s.list(node, everything).Items {
			got[env.Name] = summarize(&env)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q (-want +got):\n%s", node, d)
		}
	}
	if got := len(o.uses); got != 2 {
		t.Errorf("Bottles whose objects are read: got %d, want 2", got)
	}
}

func TestTheDataOfOneBottleIsBounded(t *testing.T) {
	s, o := newWorld()
	names := []string{"s1", "s2", "s3", "s4", "s5", "s6"}
	for _, name := range names {
		o.putSecret(name, map[string]string{"token": strings.Repeat("x", 1<<20)})
	}
	s.put(bottle("a", "ua", "node-1", names...))
	size, states := 0, ""
	for _, o := range s.list("node-1", everything).Items[0].Objects {
		states += string(o.State) + " "
		size += len(o.Data["token"])
	}
	if size > maxBytes || size < maxBytes-1<<20 {
		t.Errorf("data: got %d bytes, want at most %d and not much less", size, maxBytes)
	}
	if want := "Present Present Present TooLarge TooLarge TooLarge "; states != want {
		t.Errorf("states: got %s, want %s", states, want)
	}
}

// What an agent was not told before its Bottle moved, it is never told.
func TestABottleThatMoves(t *testing.T) {
	s, o := newWorld()
	g := gomega.NewWithT(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.putSecret("s", map[string]string{"token": "before"})
	s.put(bottle("a", "ua", "node-1", "s"))
	turn := make(chan struct{})
	slow := observe(ctx, t, s, "node-1", func() { <-turn })
	fast := observe(ctx, t, s, "node-1", never)
	next := observe(ctx, t, s, "node-2", never)
	g.Eventually(fast.summary, patience).Should(gomega.HaveLen(1))
	s.put(bottle("a", "ua", "node-2", "s"))
	o.putSecret("s", map[string]string{"token": "after"})
	g.Eventually(fast.summary, patience).Should(gomega.BeEmpty())
	g.Eventually(next.summary, patience).Should(gomega.HaveKeyWithValue("a", "ua/1 s=Present,token:after"))
	close(turn)
	g.Eventually(slow.isComplete, patience).Should(gomega.BeTrue())
	if got := slow.summary(); len(got) != 0 {
		t.Errorf("the old node's slow agent: got %v, want nothing", got)
	}
	// It is unscheduled, deleted, and made again with the same name.
	s.put(bottle("a", "ua", "", "s"))
	g.Eventually(next.summary, patience).Should(gomega.BeEmpty())
	s.put(bottle("a", "ua", "node-2", "s"))
	g.Eventually(next.summary, patience).Should(gomega.HaveLen(1))
	s.put(bottle("a", "ub", "node-2", "s"))
	g.Eventually(next.summary, patience).Should(gomega.HaveKeyWithValue("a", "ub/1 s=Present,token:after"))
	s.delete(bottle("a", "ub", "node-2"))
	g.Eventually(next.summary, patience).Should(gomega.BeEmpty())
	for _, v := range []*view{slow, fast, next} {
		v.wantNoFaults(t)
	}
	if len(o.uses) != 0 {
		t.Errorf("objects in use: got %v, want none", o.uses)
	}
}

// A client that accepts nothing is dropped, and nobody waits for it.
func TestASlowWatcherIsDropped(t *testing.T) { synctest.Test(t, testASlowWatcherIsDropped) }

func testASlowWatcherIsDropped(t *testing.T) {
	s, o := newWorld()
	s.timing.stall = 100 * time.Millisecond
	g := gomega.NewWithT(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	turn := make(chan struct{})
	s.put(bottle("a", "ua", "node-1", "s"))
	stuck := observe(ctx, t, s, "node-1", func() { <-turn })
	fast := observe(ctx, t, s, "node-1", never)
	g.Eventually(func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.watchers["node-1"])
	}, patience).Should(gomega.Equal(1))
	o.putSecret("s", map[string]string{"token": "new"})
	g.Eventually(fast.summary, patience).Should(gomega.HaveKeyWithValue("a", "ua/1 s=Present,token:new"))
	close(turn)
	g.Eventually(func() bool {
		stuck.mu.Lock()
		defer stuck.mu.Unlock()
		return stuck.ended
	}, patience).Should(gomega.BeTrue())
	// A client with nothing to accept is not slow, however long that takes.
	g.Consistently(func() bool {
		fast.mu.Lock()
		defer fast.mu.Unlock()
		return fast.ended
	}, 5*s.timing.stall).Should(gomega.BeFalse())
}

func TestBookmarksWhileNothingChanges(t *testing.T) {
	s, _ := newWorld()
	s.timing.bookmark = 10 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	v := observe(ctx, t, s, "node-1", never)
	gomega.NewWithT(t).Eventually(func() int {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.marks
	}, patience).Should(gomega.BeNumerically(">", 3))
	v.wantNoFaults(t)
}

func TestTheWatchesOfANodeAreBounded(t *testing.T) {
	s, _ := newWorld()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range maxWatches {
		if _, err := s.watch(ctx, "node-1", true, everything); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.watch(ctx, "node-1", true, everything); err == nil {
		t.Errorf("watch number %d: got nil, want an error", maxWatches+1)
	}
	if _, err := s.watch(ctx, "node-2", true, everything); err != nil {
		t.Errorf("another node: got %v, want its watch", err)
	}
	cancel()
	gomega.NewWithT(t).Eventually(func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.watchers)
	}, patience).Should(gomega.Equal(0), "watches that ended")
}

// model is what the store should know after a sequence of changes.
type model struct {
	bottles map[string]*bottlev1alpha1.Bottle
	objects map[string]string // state, or the value of the key "token"
}

func (m *model) node(name string) map[string]string {
	out := map[string]string{}
	for _, b := range m.bottles {
		if b.Status.NodeName == nil || *b.Status.NodeName != name || len(b.Spec.Env) == 0 {
			continue
		}
		text := fmt.Sprintf("%s/%d", b.UID, b.Generation)
		for i := range secretCount {
			s := fmt.Sprintf("s%d", i)
			for _, v := range b.Spec.Env {
				if v.ValueFrom.SecretKeyRef.Name == s {
					text += " " + s + "=" + m.objects[s]
					break
				}
			}
		}
		out[b.Name] = text
	}
	return out
}

const (
	bottleCount, secretCount, nodeCount = 5, 4, 3
	changes                             = 400
)

// step makes one random change to the store, its objects and the model.
func (m *model) step(rng *rand.Rand, s *Store, o *objects) {
	name := fmt.Sprintf("b%d", rng.IntN(bottleCount))
	b := m.bottles[name]
	sec := fmt.Sprintf("s%d", rng.IntN(secretCount))
	node := []string{"", "node-0", "node-1", "node-2"}[rng.IntN(nodeCount+1)]
	switch action := rng.IntN(8); {
	case action == 0:
		o.put(secret(sec), namedwatch.Object{State: namedwatch.NotFound})
		m.objects[sec] = "NotFound"
	case action == 1:
		o.put(secret(sec), namedwatch.Object{State: namedwatch.Forbidden})
		m.objects[sec] = "Forbidden"
	case action <= 3:
		value := fmt.Sprint(rng.IntN(1000))
		o.putSecret(sec, map[string]string{"token": value, "other": "x"})
		m.objects[sec] = "Present,token:" + value
	case b != nil && action == 4:
		s.delete(b)
		delete(m.bottles, name)
	default: // create, recreate, move, change
		var names []string
		for i := range secretCount {
			if rng.IntN(2) == 0 {
				names = append(names, fmt.Sprintf("s%d", i))
			}
		}
		now := bottle(name, fmt.Sprint("u", rng.IntN(1000)), node, names...)
		if b != nil && action < 7 { // the same Bottle
			now.UID, now.Generation = b.UID, b.Generation+1
		}
		m.bottles[name] = now
		s.put(now)
	}
}

// After any sequence of changes, each watch, fast or slow, old or new, has told
// exactly what its node may know.
func TestRandomChanges(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 14))
			s, o := newWorld()
			s.timing.bookmark = 5 * time.Millisecond
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			m := &model{bottles: map[string]*bottlev1alpha1.Bottle{}, objects: map[string]string{}}
			for i := range secretCount {
				m.objects[fmt.Sprintf("s%d", i)] = "Pending"
			}
			views := map[*view]string{}
			for i := range changes {
				m.step(rng, s, o)
				if i%40 == 0 && i < 320 { // fewer watches of a node than maxWatches
					pause := never
					if i%80 == 0 {
						pause = func() { <-time.After(time.Millisecond) }
					}
					node := fmt.Sprint("node-", rng.IntN(nodeCount))
					views[observe(ctx, t, s, node, pause)] = node
				}
			}
			for v, node := range views {
				want := m.node(node)
				gomega.NewWithT(t).Eventually(v.summary, patience).Should(gomega.Equal(want), node)
				gomega.NewWithT(t).Eventually(v.isComplete, patience).Should(gomega.BeTrue(), node)
				v.wantNoFaults(t)
			}
		})
	}
}
