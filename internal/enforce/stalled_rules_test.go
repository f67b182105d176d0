// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/stalled"
)

// volume is where the bundle of a Pod reads its rules.
type volume struct {
	mu     sync.Mutex
	data   []byte
	writes [][]byte
}

func (v *volume) publish(_ string, data []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.data = data
	v.writes = append(v.writes, data)
	return nil
}

func (v *volume) published(string) ([]byte, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.data, true
}

// takeWrites returns what was written since the last call.
func (v *volume) takeWrites() [][]byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := v.writes
	v.writes = nil
	return out
}

func (v *volume) rules(t *testing.T) []string {
	t.Helper()
	data, _ := v.published("")
	return rulesIn(t, data)
}

// await waits until the bundle reads exactly these rules.
func (v *volume) await(t *testing.T, want ...string) {
	t.Helper()
	soon(t, "the narrowing", func() {
		for !slices.Equal(v.rules(t), want) {
			time.Sleep(time.Millisecond)
		}
	})
}

// newPodFixture returns a machine whose bundle is in a Pod and allows two hosts.
func newPodFixture(t *testing.T) (*fixture, *volume) {
	t.Helper()
	f, v := newFixture(t), &volume{}
	f.publish = v.publish
	f.change = func(o *enforce.Options) { o.Published = v.published }
	f.restart()
	if err := f.open(1, "a.example.com", "b.example.com"); err != nil {
		t.Fatal(err)
	}
	return f, v
}

func rulesIn(t *testing.T, data []byte) []string {
	t.Helper()
	set, err := egress.DecodeFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range set.Rules() {
		out = append(out, r.String())
	}
	return out
}

// TestTheRulesInAPodDoNotWaitForTheDisk checks that the copy of the rules in a Pod is narrowed
// while a pass that opens rules waits for the disk, and that this pass then opens nothing.
func TestTheRulesInAPodDoNotWaitForTheDisk(t *testing.T) {
	for what, tt := range map[string]struct {
		narrow func(f *fixture) error
		opened error // of the pass
	}{
		"the spec": {func(f *fixture) error { return f.narrow(2, []int32{8888}, "a.example.com") }, enforce.ErrSuperseded},
		"the limits": {func(f *fixture) error {
			ceiling := rules(f.t, "a.example.com")
			f.mu.Lock()
			f.limits = egress.Limits{Ceiling: &ceiling}
			f.mu.Unlock()
			return f.enforcer.ApplyLimits()
		}, nil},
	} {
		t.Run(what, func(t *testing.T) {
			f, v := newPodFixture(t)
			disk := stalled.Make(t, f.fileOf("bundle/egress.json"))
			opened := make(chan error, 1)
			go func() { opened <- f.open(1, "a.example.com", "b.example.com", "c.example.com") }()
			disk.Await()
			narrowed := make(chan error, 1)
			go func() { narrowed <- tt.narrow(f) }()
			want := []string{"a.example.com:443"}
			v.await(t, want...)
			v.takeWrites()
			disk.End()
			if err := <-opened; !errors.Is(err, tt.opened) {
				t.Errorf("the pass: got %v, want %v", err, tt.opened)
			}
			if err := <-narrowed; err != nil {
				t.Errorf("the narrowing: got %v, want nil", err)
			}
			for _, data := range v.takeWrites() {
				if got := rulesIn(t, data); !slices.Equal(got, want) {
					t.Errorf("in the Pod: got %q, want %q", got, want)
				}
			}
			if got := f.rulesInForce(); !slices.Equal(got, want) {
				t.Errorf("in the file: got %q, want %q", got, want)
			}
		})
	}
}

// TestTheRulesInAPodDoNotWaitForAKill checks that the copy of the rules in a Pod is narrowed
// while the guard waits for the machine to end.
func TestTheRulesInAPodDoNotWaitForAKill(t *testing.T) {
	f, v := newFixture(t), &volume{}
	machines := stuckMachines{f.machines, owner().ID(), make(chan struct{}), make(chan struct{})}
	f.publish = v.publish
	f.change = func(o *enforce.Options) { o.Published, o.Machines = v.published, machines }
	f.restart()
	if err := f.open(1, "a.example.com", "b.example.com"); err != nil {
		t.Fatal(err)
	}
	f.walls.Break(owner(), host.WallFault{What: "open", Open: true})
	scanned := make(chan struct{})
	go func() { defer close(scanned); f.enforcer.Scan(t.Context()) }()
	soon(t, "the kill", func() { <-machines.killing })
	narrowed := make(chan error, 1)
	go func() { narrowed <- f.narrow(2, []int32{8888}, "a.example.com") }()
	v.await(t, "a.example.com:443")
	close(machines.release)
	<-scanned
	if err := <-narrowed; err != nil {
		t.Errorf("the narrowing: got %v, want nil", err)
	}
}

// TestLaterLimitsDoNotWaitForTheDisk checks that ApplyLimits comes back while the disk does not
// answer, and that limits that change meanwhile come into force in a Pod.
func TestLaterLimitsDoNotWaitForTheDisk(t *testing.T) {
	f, v := newPodFixture(t)
	limit := func(allow ...string) {
		ceiling := rules(t, allow...)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.limits = egress.Limits{Ceiling: &ceiling}
	}
	disk := stalled.Make(t, f.fileOf("bundle/egress.json"))
	limit("a.example.com")
	applied := make(chan error, 1)
	go func() { applied <- f.enforcer.ApplyLimits() }()
	disk.Await()
	soon(t, "the first call", func() {
		for len(applied) == 0 {
			f.clock.Step(time.Second)
			time.Sleep(time.Millisecond)
		}
	})
	if err := <-applied; !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("the first call: got %v, want ErrUnavailable", err)
	}
	limit()
	soon(t, "the second call", func() {
		if err := f.enforcer.ApplyLimits(); !errors.Is(err, host.ErrUnavailable) {
			t.Errorf("the second call: got %v, want ErrUnavailable", err)
		}
	})
	if got := v.rules(t); len(got) > 0 {
		t.Errorf("in the Pod: got %q, want nothing", got)
	}
	disk.End()
	soon(t, "the last call", func() {
		for f.enforcer.ApplyLimits() != nil {
			time.Sleep(time.Millisecond)
		}
	})
	if got := f.rulesInForce(); len(got) > 0 {
		t.Errorf("in the file: got %q, want nothing", got)
	}
}
