// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/envsource"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/passes"
	"botbottle.dev/bottle-operator/test/builders"
)

func optional(b *builders.Bottle) *builders.Bottle {
	for i := range b.Spec.Env {
		if from := b.Spec.Env[i].ValueFrom; from != nil && from.SecretKeyRef != nil {
			from.SecretKeyRef.Optional = ptr.To(true)
		}
	}
	return b
}

func TestSmolfile(t *testing.T) {
	tests := map[string]struct {
		bottle   *builders.Bottle
		before   func(w *world)
		wantCond string
		wantText string // in the condition's message
	}{
		"literals":                {demo().Env("A", "b"), nil, "True/Ready", ""},
		"an existing Secret":      {demo().EnvFromSecret("T", "s", "k"), func(w *world) { w.refs.put("secrets", "s", "k", "v") }, "True/Ready", ""},
		"no such Secret":          {demo().EnvFromSecret("T", "s", "k"), nil, "False/SecretNotFound", `Secret "s" does not exist`},
		"no such key":             {demo().EnvFromSecret("T", "s", "k"), func(w *world) { w.refs.put("secrets", "s", "other", "v") }, "False/SecretNotFound", `has no key "k"`},
		"no such optional Secret": {optional(demo().EnvFromSecret("T", "s", "k")), nil, "True/Ready", ""},
		"no such optional key":    {optional(demo().EnvFromSecret("T", "s", "k")), func(w *world) { w.refs.put("secrets", "s", "other", "v") }, "True/Ready", ""},
		"no such ConfigMap":       {demo().EnvFromConfigMap("T", "c", "k"), nil, "False/ConfigMapNotFound", `ConfigMap "c" does not exist`},
		"a ConfigMap":             {demo().EnvFromConfigMap("T", "c", "k"), func(w *world) { w.refs.put("configmaps", "c", "k", "v") }, "True/Ready", ""},
		"a value with a NUL":      {demo().EnvFromSecret("T", "s", "k"), func(w *world) { w.refs.put("secrets", "s", "k", "a\x00b") }, "False/EnvInvalid", `env "T"`},
		"a value that is too long": {demo().EnvFromConfigMap("T", "c", "k"), func(w *world) {
			w.refs.put("configmaps", "c", "k", strings.Repeat("x", 200_000))
		}, "False/EnvInvalid", `env "T"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tt.bottle.Obj())
			if tt.before != nil {
				tt.before(w)
			}
			if _, err := w.pass(demoKey); err != nil {
				t.Fatal(err)
			}
			w.wantCond(demoKey, v1alpha1.ConditionSmolfileReady, tt.wantCond)
			if got := w.message(demoKey, v1alpha1.ConditionSmolfileReady); !strings.Contains(got, tt.wantText) {
				t.Errorf("message: got %q, want %q in it", got, tt.wantText)
			}
			if strings.HasPrefix(tt.wantCond, "False") {
				w.wantCond(demoKey, v1alpha1.ConditionBundleReady, "Unknown/Blocked")
				if names := w.machines.Names(); len(names) != 0 {
					t.Errorf("machines: got %v, want none", names)
				}
			}
		})
	}
}

// What the manager does not say is reported as such, and an event ends the wait.
func TestObjectsThatCannotBeRead(t *testing.T) {
	for err, want := range map[error]struct{ cond, text string }{
		envsource.ErrNotYet:    {"False/EnvironmentNotReady", `the manager has not told this node yet what Secret "s" contains`},
		envsource.ErrForbidden: {"False/EnvironmentForbidden", `get, list and watch on secrets in namespace default`},
		envsource.ErrTooLarge:  {"False/EnvInvalid", `Secret "s" does not fit`},
	} {
		w := newWorld(t, demo().EnvFromSecret("T", "s", "k").Obj())
		w.refs.err = err
		if _, err := w.pass(demoKey); err != nil {
			t.Errorf("pass: got %v, want none: the watch ends the wait", err)
		}
		w.wantCond(demoKey, v1alpha1.ConditionSmolfileReady, want.cond)
		if got := w.message(demoKey, v1alpha1.ConditionSmolfileReady); !strings.Contains(got, want.text) {
			t.Errorf("message: got %q, want %q in it", got, want.text)
		}
		w.refs.err = nil
		w.refs.put("secrets", "s", "k", "v")
		w.settle(demoKey)
		w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	}
}

// An agent that starts while the manager is away touches no machine.
func TestAnAgentStartsWithoutTheManager(t *testing.T) {
	w := newWorld(t, demo().EnvFromSecret("T", "s", "k").Obj())
	w.refs.put("secrets", "s", "k", "v")
	w.settle(demoKey)
	before, calls := w.nodeState(), len(w.writingCalls())
	w.restartAgent()
	w.refs.err = envsource.ErrNotYet
	for range 3 {
		if _, err := w.pass(demoKey); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(before, w.nodeState()); d != "" {
		t.Errorf("node (-before +after):\n%s", d)
	}
	if got := w.writingCalls()[calls:]; len(got) != 0 {
		t.Errorf("host writes: got %v, want none", got)
	}
	w.wantCond(demoKey, v1alpha1.ConditionSmolfileReady, "False/EnvironmentNotReady")
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "Unknown/Blocked")
	w.wantCond(demoKey, v1alpha1.ConditionReady, "False/EnvironmentNotReady")
	w.refs.err = nil
	w.settle(demoKey)
	if got := w.writingCalls()[calls:]; len(got) != 0 {
		t.Errorf("host writes once the manager is back: got %v, want none", got)
	}
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
}

func TestHowSecretsArePassed(t *testing.T) {
	const value = "the-secret"
	old := host.SmolvmVersion{Version: "1.3.0", LocalImages: true}
	for name, tt := range map[string]struct {
		version    host.SmolvmVersion
		inSmolfile bool
		files      []string
	}{
		"as files if smolvm supports that":   {hosttest.ReferenceVersion, false, []string{"TOKEN"}},
		"in the Smolfile of an older smolvm": {old, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, demo().EnvFromSecret("TOKEN", "s", "k").Obj())
			w.refs.put("secrets", "s", "k", value)
			w.machines.SetVersion(tt.version)
			w.settle(demoKey)
			folder := filepath.Join(w.stateDir, "bottles", testUID)
			data, err := os.ReadFile(filepath.Join(folder, "Smolfile"))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(string(data), value); got != tt.inSmolfile {
				t.Errorf("secret in the Smolfile: got %v, want %v", got, tt.inSmolfile)
			}
			var files []string
			entries, err := os.ReadDir(filepath.Join(folder, "secrets"))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				files = append(files, e.Name())
			}
			if d := cmp.Diff(tt.files, files); d != "" {
				t.Errorf("secret files (-want +got):\n%s", d)
			}
			if got := w.machines.GuestEnv(testID); !slices.Contains(got, "TOKEN="+value) {
				t.Errorf("guest env: got %v, want the secret in it", got)
			}
		})
	}
}

func TestDroppedWhiteSpaceIsReportedOnce(t *testing.T) {
	w := newWorld(t, demo().EnvFromSecret("TOKEN", "s", "k").Obj())
	w.refs.put("secrets", "s", "k", "value\n")
	w.settle(demoKey)
	w.wantEvent(eventWhiteSpaceDropped)
	w.clock.Step(passes.Resync)
	w.settle(demoKey)
	if got := w.events(); len(got) != 0 {
		t.Errorf("events of a later pass: got %q, want none", got)
	}
}
