// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
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

func (f *fixture) narrow(generation int64, ports []int32, allow ...string) error {
	return f.enforcer.Narrow(f.t.Context(), owner(), enforce.Reach{Generation: generation, Ports: ports, Rules: rules(f.t, allow...)})
}

func (f *fixture) open(generation int64, allow ...string) error {
	return f.enforcer.OpenRules(owner(), generation, rules(f.t, allow...))
}

// rulesInForce returns the rules in the file that the bundle reads.
func (f *fixture) rulesInForce() []string {
	f.t.Helper()
	var out []string
	for _, r := range f.file().Rules() {
		out = append(out, r.String())
	}
	return out
}

func (f *fixture) portsInForce() []int32 {
	f.t.Helper()
	spec, _, ok := f.walls.Get(owner())
	if !ok {
		f.t.Fatal("there is no wall")
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
			f := newFixture(t)
			spec := spec()
			spec.Ports = tt.portsBefore
			if _, err := f.enforcer.EnsureWall(t.Context(), spec, requestFor("1")); err != nil {
				t.Fatal(err)
			}
			if err := f.open(1, tt.before...); err != nil {
				t.Fatal(err)
			}
			if err := f.narrow(2, tt.portsAfter, tt.after...); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, f.rulesInForce()); d != "" {
				t.Errorf("rules (-want +got):\n%s", d)
			}
			if got := f.portsInForce(); !slices.Equal(got, tt.wantPorts) {
				t.Errorf("ports: got %v, want %v", got, tt.wantPorts)
			}
			f.wantRuns(true)
			f.wantNoFaults(spec, tt.wantPorts)
		})
	}
}

// wantNoFaults checks that the wall has no faults if these ports are open.
func (f *fixture) wantNoFaults(spec host.WallSpec, ports []int32) {
	f.t.Helper()
	spec.Ports = ports
	walls, err := f.walls.InspectWalls(f.t.Context(), []host.WallSpec{spec})
	if err != nil || len(walls[0].Faults) != 0 {
		f.t.Errorf("wall with the ports %v: got %+v, %v, want no faults", ports, walls, err)
	}
}

// A pass over an old generation must not reopen what was closed since then.
func TestAnOldGenerationDoesNotWiden(t *testing.T) {
	f := newFixture(t)
	if err := f.open(1, "a.example.com", "b.example.com"); err != nil {
		t.Fatal(err)
	}
	if err := f.narrow(3, []int32{}, "a.example.com"); err != nil {
		t.Fatal(err)
	}
	if err := f.open(2, "b.example.com"); !errors.Is(err, enforce.ErrSuperseded) {
		t.Errorf("rules of an old generation: got %v, want ErrSuperseded", err)
	}
	if _, err := f.enforcer.EnsureWall(t.Context(), spec(), enforce.Request{Generation: 2}); !errors.Is(err, enforce.ErrSuperseded) {
		t.Errorf("wall of an old generation: got %v, want ErrSuperseded", err)
	}
	if err := f.narrow(2, []int32{8888}, "b.example.com"); err != nil {
		t.Fatal(err)
	}
	if got := f.rulesInForce(); !slices.Equal(got, []string{"a.example.com:443"}) || len(f.portsInForce()) != 0 {
		t.Errorf("in force: got %q and %v, want what the newest generation allows", got, f.portsInForce())
	}
	if err := f.open(3, "a.example.com", "c.example.com"); err != nil {
		t.Errorf("rules of the newest generation: got %v, want nil", err)
	}
	if _, err := f.enforcer.EnsureWall(t.Context(), spec(), enforce.Request{Generation: 3}); err != nil {
		t.Errorf("wall of the newest generation: got %v, want nil", err)
	}
}

// A rule for requests that a change removes is gone before anything else happens, and the
// host is not tunnelled instead.
func TestNarrowsRulesOfOpenedHosts(t *testing.T) {
	f := newFixture(t)
	host, err := egress.Parse("api.example.com")
	if err != nil {
		t.Fatal(err)
	}
	plain := egress.HTTPRule{Host: host, HTTP: []egress.HTTPMatch{{Methods: []string{"GET"}}}}
	credential := egress.HTTPRule{Host: host, Credential: &egress.Credential{Secret: "api", Key: "token", Header: "Authorization", Prefix: "Bearer "}}
	if err := f.enforcer.OpenRules(owner(), 1, egress.NewSet().WithHTTP(plain, credential)); err != nil {
		t.Fatal(err)
	}
	if got := f.file().HTTPRules("api.example.com", 443); len(got) != 2 {
		t.Fatalf("got %d rules, want both", len(got))
	}
	if err := f.enforcer.Narrow(t.Context(), owner(), enforce.Reach{Generation: 2, Ports: []int32{8888}, Rules: egress.NewSet().WithHTTP(plain)}); err != nil {
		t.Fatal(err)
	}
	if got := f.file().HTTPRules("api.example.com", 443); len(got) != 1 || got[0].Credential != nil {
		t.Errorf("without the credential's rule: got %+v", got)
	}
	if err := f.enforcer.Narrow(t.Context(), owner(), enforce.Reach{Generation: 3, Ports: []int32{8888}, Rules: rules(t, "api.example.com")}); err != nil {
		t.Fatal(err)
	}
	if got := f.file(); !got.Opens("api.example.com", 443) || len(got.HTTPRules("api.example.com", 443)) != 0 {
		t.Error("from a rule to a tunnel: want the host opened and without rules until the pass opens it")
	}
}

// Narrowing uses neither dockerd nor smolvm.
func TestNarrowNeedsOnlyTheKernel(t *testing.T) {
	f := newFixture(t)
	if err := f.open(1, "a.example.com"); err != nil {
		t.Fatal(err)
	}
	f.faults.ResetCalls()
	if err := f.narrow(2, nil); err != nil {
		t.Fatal(err)
	}
	if got, want := f.faults.Calls(), []string{"EnsureWall " + owner().ID()}; !slices.Equal(got, want) {
		t.Errorf("calls: got %q, want %q", got, want)
	}
	if err := f.narrow(2, nil); err != nil {
		t.Fatal(err)
	}
	if got := f.faults.Calls(); len(got) != 1 {
		t.Errorf("calls when there is nothing to narrow: got %q, want none", got[1:])
	}
}

// The rules are narrowed even if narrowing the ports fails.
func TestNarrowsRulesEvenIfPortsFail(t *testing.T) {
	f := newFixture(t)
	if err := f.open(1, "a.example.com"); err != nil {
		t.Fatal(err)
	}
	f.faults.Fail("EnsureWall", hosttest.Before, 1, errors.New("no memory"))
	if err := f.narrow(2, nil); err == nil {
		t.Error("got nil, want the error of the wall")
	}
	if got := f.rulesInForce(); len(got) != 0 {
		t.Errorf("rules: got %q, want none", got)
	}
	f.enforcer.Scan(t.Context()) // the guard makes the wall as recorded
	if got := f.portsInForce(); len(got) != 0 {
		t.Errorf("ports after a scan: got %v, want none", got)
	}
}

// The generation that a wall was made for counts like one that it was narrowed
// to.
func TestTheNextAgentKnowsTheWallsGeneration(t *testing.T) {
	f := newFixture(t)
	if _, err := f.enforcer.EnsureWall(t.Context(), spec(), enforce.Request{Generation: 3}); err != nil {
		t.Fatal(err)
	}
	for _, agent := range []string{"same", "another"} {
		if agent == "another" {
			f.restart()
		}
		if _, err := f.enforcer.EnsureWall(t.Context(), spec(), enforce.Request{Generation: 2}); !errors.Is(err, enforce.ErrSuperseded) {
			t.Errorf("%s agent, wall of an old generation: got %v, want ErrSuperseded", agent, err)
		}
	}
}

// The next agent must know the newest generation, because its cache may be older.
func TestTheNextAgentDoesNotWiden(t *testing.T) {
	f := newFixture(t)
	if err := f.open(1, "a.example.com", "b.example.com"); err != nil {
		t.Fatal(err)
	}
	if err := f.narrow(3, nil, "a.example.com"); err != nil {
		t.Fatal(err)
	}
	f.restart()
	if err := f.open(2, "b.example.com"); !errors.Is(err, enforce.ErrSuperseded) {
		t.Errorf("rules of an old generation: got %v, want ErrSuperseded", err)
	}
	if _, err := f.enforcer.EnsureWall(t.Context(), spec(), enforce.Request{Generation: 2}); !errors.Is(err, enforce.ErrSuperseded) {
		t.Errorf("wall of an old generation: got %v, want ErrSuperseded", err)
	}
	f.enforcer.Scan(t.Context())
	if got := f.portsInForce(); len(got) != 0 {
		t.Errorf("ports: got %v, want none", got)
	}
}
