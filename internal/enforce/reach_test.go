// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

func rules(t *testing.T, texts ...string) egress.Set {
	t.Helper()
	s, err := egress.ParseSet(texts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (p *post) narrow(generation int64, ports []int32, allow ...string) error {
	return p.enforcer.Narrow(p.t.Context(), owner(), enforce.Reach{Generation: generation, Ports: ports, Rules: rules(p.t, allow...)})
}

func (p *post) open(generation int64, allow ...string) error {
	return p.enforcer.OpenRules(owner(), generation, rules(p.t, allow...))
}

// rulesInForce are those of the file that the bundle reads.
func (p *post) rulesInForce() []string {
	p.t.Helper()
	folder, err := p.dir.Folder(uid)
	if err != nil {
		p.t.Fatal(err)
	}
	data, err := folder.Rules()
	if err != nil {
		p.t.Fatal(err)
	}
	s, err := egress.DecodeFile(bytes.NewReader(data))
	if err != nil {
		p.t.Fatal(err)
	}
	var out []string
	for _, r := range s.Rules() {
		out = append(out, r.String())
	}
	return out
}

func (p *post) portsInForce() []int32 {
	p.t.Helper()
	spec, _, ok := p.walls.Get(owner())
	if !ok {
		p.t.Fatal("there is no wall")
	}
	return spec.Ports
}

func TestNarrowNeverWidens(t *testing.T) {
	tests := map[string]struct {
		before, after []string
		want          []string
		portsBefore   []int32
		portsAfter    []int32
		wantPorts     []int32
	}{
		"a rule is removed":                {[]string{"a.example.com", "b.example.com"}, []string{"a.example.com"}, []string{"a.example.com:443"}, []int32{8888}, []int32{8888}, []int32{8888}},
		"all rules are removed":            {[]string{"a.example.com"}, nil, nil, []int32{8888}, []int32{8888}, []int32{8888}},
		"a rule is added":                  {[]string{"a.example.com"}, []string{"a.example.com", "b.example.com"}, []string{"a.example.com:443"}, []int32{8888}, []int32{8888}, []int32{8888}},
		"a wildcard becomes a name":        {[]string{"*.example.com"}, []string{"a.example.com"}, []string{"a.example.com:443"}, []int32{8888}, []int32{8888}, []int32{8888}},
		"a name becomes a wildcard":        {[]string{"a.example.com"}, []string{"*.example.com"}, []string{"a.example.com:443"}, []int32{8888}, []int32{8888}, []int32{8888}},
		"one rule for another":             {[]string{"a.example.com"}, []string{"b.example.com"}, nil, []int32{8888}, []int32{8888}, []int32{8888}},
		"a port is removed":                {nil, nil, nil, []int32{8888, 9100}, []int32{8888}, []int32{8888}},
		"a port is added":                  {nil, nil, nil, []int32{8888}, []int32{8888, 9100}, []int32{8888}},
		"one port for another":             {nil, nil, nil, []int32{8888}, []int32{9100}, []int32{}},
		"a port for another, two in all":   {nil, nil, nil, []int32{8888, 9100}, []int32{9100, 9418}, []int32{9100}},
		"rules and ports at the same time": {[]string{"a.example.com", "b.example.com"}, []string{"b.example.com"}, []string{"b.example.com:443"}, []int32{8888, 9100}, []int32{9100}, []int32{9100}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPost(t)
			spec := spec()
			spec.Ports = tt.portsBefore
			if _, err := p.enforcer.EnsureWall(t.Context(), spec, ask("1")); err != nil {
				t.Fatal(err)
			}
			if err := p.open(1, tt.before...); err != nil {
				t.Fatal(err)
			}
			if err := p.narrow(2, tt.portsAfter, tt.after...); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, p.rulesInForce()); d != "" {
				t.Errorf("rules (-want +got):\n%s", d)
			}
			if got := p.portsInForce(); !slices.Equal(got, tt.wantPorts) {
				t.Errorf("ports: got %v, want %v", got, tt.wantPorts)
			}
			p.wantRuns(true)
			p.wantFaultsOf(spec, tt.wantPorts)
		})
	}
}

// wantFaultsOf wants the wall without faults where these ports are open.
func (p *post) wantFaultsOf(spec host.WallSpec, ports []int32) {
	p.t.Helper()
	spec.Ports = ports
	walls, err := p.walls.InspectWalls(p.t.Context(), []host.WallSpec{spec})
	if err != nil || len(walls[0].Faults) != 0 {
		p.t.Errorf("wall with the ports %v: got %+v, %v, want no faults", ports, walls, err)
	}
}

// A pass over an old generation must not open again what was closed since.
func TestAnOldPassDoesNotWiden(t *testing.T) {
	p := newPost(t)
	if err := p.open(1, "a.example.com", "b.example.com"); err != nil {
		t.Fatal(err)
	}
	if err := p.narrow(3, []int32{}, "a.example.com"); err != nil {
		t.Fatal(err)
	}
	if err := p.open(2, "b.example.com"); !errors.Is(err, enforce.ErrSuperseded) {
		t.Errorf("rules of an old generation: got %v, want ErrSuperseded", err)
	}
	if _, err := p.enforcer.EnsureWall(t.Context(), spec(), enforce.Request{Generation: 2}); !errors.Is(err, enforce.ErrSuperseded) {
		t.Errorf("wall of an old generation: got %v, want ErrSuperseded", err)
	}
	if err := p.narrow(2, []int32{8888}, "b.example.com"); err != nil {
		t.Fatal(err)
	}
	if got := p.rulesInForce(); !slices.Equal(got, []string{"a.example.com:443"}) || len(p.portsInForce()) != 0 {
		t.Errorf("in force: got %q and %v, want what the newest generation allows", got, p.portsInForce())
	}
	if err := p.open(3, "a.example.com", "c.example.com"); err != nil {
		t.Errorf("rules of the newest generation: got %v, want nil", err)
	}
	if _, err := p.enforcer.EnsureWall(t.Context(), spec(), enforce.Request{Generation: 3}); err != nil {
		t.Errorf("wall of the newest generation: got %v, want nil", err)
	}
}

// Narrowing asks neither dockerd nor smolvm.
func TestNarrowNeedsTheKernelAlone(t *testing.T) {
	p := newPost(t)
	if err := p.open(1, "a.example.com"); err != nil {
		t.Fatal(err)
	}
	p.faults.ResetCalls()
	if err := p.narrow(2, nil); err != nil {
		t.Fatal(err)
	}
	if got, want := p.faults.Calls(), []string{"EnsureWall " + owner().ID()}; !slices.Equal(got, want) {
		t.Errorf("calls: got %q, want %q", got, want)
	}
	if err := p.narrow(2, nil); err != nil {
		t.Fatal(err)
	}
	if got := p.faults.Calls(); len(got) != 1 {
		t.Errorf("calls when there is nothing to narrow: got %q, want none", got[1:])
	}
}

// Each half is narrowed whatever becomes of the other.
func TestNarrowingOneHalfDoesNotNeedTheOther(t *testing.T) {
	p := newPost(t)
	if err := p.open(1, "a.example.com"); err != nil {
		t.Fatal(err)
	}
	p.faults.Fail("EnsureWall", hosttest.Before, 1, errors.New("no memory"))
	if err := p.narrow(2, nil); err == nil {
		t.Error("got nil, want the error of the wall")
	}
	if got := p.rulesInForce(); len(got) != 0 {
		t.Errorf("rules: got %q, want none", got)
	}
	p.enforcer.Look(t.Context()) // the guard makes the wall as it is recorded
	if got := p.portsInForce(); len(got) != 0 {
		t.Errorf("ports after a look: got %v, want none", got)
	}
}

// What a wall was made for counts like what it was narrowed to.
func TestAnotherAgentKnowsWhatTheWallWasMadeFor(t *testing.T) {
	p := newPost(t)
	if _, err := p.enforcer.EnsureWall(t.Context(), spec(), enforce.Request{Generation: 3}); err != nil {
		t.Fatal(err)
	}
	for _, agent := range []string{"same", "another"} {
		if agent == "another" {
			p.restart()
		}
		if _, err := p.enforcer.EnsureWall(t.Context(), spec(), enforce.Request{Generation: 2}); !errors.Is(err, enforce.ErrSuperseded) {
			t.Errorf("%s agent, wall of an old generation: got %v, want ErrSuperseded", agent, err)
		}
	}
}

// Another agent knows the newest generation, too: its cache may be older.
func TestAnotherAgentDoesNotWiden(t *testing.T) {
	p := newPost(t)
	if err := p.open(1, "a.example.com", "b.example.com"); err != nil {
		t.Fatal(err)
	}
	if err := p.narrow(3, nil, "a.example.com"); err != nil {
		t.Fatal(err)
	}
	p.restart()
	if err := p.open(2, "b.example.com"); !errors.Is(err, enforce.ErrSuperseded) {
		t.Errorf("rules of an old generation: got %v, want ErrSuperseded", err)
	}
	if _, err := p.enforcer.EnsureWall(t.Context(), spec(), enforce.Request{Generation: 2}); !errors.Is(err, enforce.ErrSuperseded) {
		t.Errorf("wall of an old generation: got %v, want ErrSuperseded", err)
	}
	p.enforcer.Look(t.Context())
	if got := p.portsInForce(); len(got) != 0 {
		t.Errorf("ports: got %v, want none", got)
	}
}
