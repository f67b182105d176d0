// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/machinesize"
	"botbottle.dev/bottle-operator/internal/subnet"
	"botbottle.dev/bottle-operator/test/builders"
)

const foreignImage = "ghcr.io/org/bundle:1"

func bundleEnv(b *builders.Bottle, v v1alpha1.EnvVar) *builders.Bottle {
	if b.Spec.Bundle == nil {
		b.Spec.Bundle = &v1alpha1.Bundle{}
	}
	b.Spec.Bundle.Env = append(b.Spec.Bundle.Env, v)
	return b
}

func TestBundle(t *testing.T) {
	allow := func(w *world) {
		w.allowed = []string{"ghcr.io/org/*"}
		w.restartAgent()
		w.bundles.AddImage(foreignImage, 8888, 9418, 9100)
	}
	tests := map[string]struct {
		bottle      *builders.Bottle
		before      func(w *world)
		wantCond    string
		wantStalled string
		wantImage   string
	}{
		"the built-in one": {demo(), nil, "True/Ready", "", hosttest.BuiltInImage},
		"another, with its ports": {demo().BundleImage(foreignImage).BundlePorts(8888, 9418, 9100), allow,
			"True/Ready", "", foreignImage},
		"another that does not listen there": {demo().BundleImage(foreignImage).BundlePorts(8888, 7000), allow,
			"False/BundleNotAnswering", "", foreignImage},
		"another that is not allowed": {demo().BundleImage("docker.io/evil"), allow,
			"False/BundleImageNotAllowed", "True/BundleImageNotAllowed", ""},
		"an allowed image that the node lacks": {demo().BundleImage("ghcr.io/org/absent"), allow,
			"False/BundleImageMissing", "", ""},
		"a foreign container with our name": {demo(), func(w *world) { w.bundles.PutAs(testID, host.Bundle{Owner: otherOwner}) },
			"False/BundleConflict", "", "-"},
		"one that docker refuses": {demo(), func(w *world) { w.faults.Fail("EnsureBundle", hosttest.Before, hosttest.Always, host.ErrInvalid) },
			"False/BundleRejected", "True/BundleRejected", ""},
		"one that docker does not remove": {demo(), func(w *world) { w.faults.Fail("EnsureBundle", hosttest.Before, hosttest.Always, host.ErrStuck) },
			"False/DockerStuck", "", ""},
		"an invalid rule": {demo().Allow("999.1.1.1/8"), nil,
			"False/EgressRuleInvalid", "True/EgressRuleInvalid", ""},
		"a rule that the platform refuses": {demo().Allow("172.17.0.1:2375"), func(w *world) { w.limits = closedNode("172.17.0.1/32") },
			"False/EgressRuleRefused", "True/EgressRuleRefused", ""},
		"another, for another bundle, which decides itself": {demo().Allow("172.17.0.1:2375").BundleImage(foreignImage).BundlePorts(8888, 9418, 9100), func(w *world) { allow(w); w.limits = closedNode("172.17.0.1/32") },
			"True/Ready", "", foreignImage},
		"a wide rule, of which the platform closes a part": {demo().Allow("0.0.0.0/0"), func(w *world) { w.limits = closedNode("172.17.0.1/32") },
			"True/Ready", "", hosttest.BuiltInImage},
		"env from a missing Secret": {bundleEnv(demo(), v1alpha1.EnvVar{Name: "T", ValueFrom: &v1alpha1.EnvVarSource{
			SecretKeyRef: &v1alpha1.KeySelector{Name: "s", Key: "k"}}}), nil, "False/SecretNotFound", "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tt.bottle.Obj())
			if tt.before != nil {
				tt.before(w)
			}
			for range 2 {
				if _, err := w.pass(demoKey); err != nil {
					t.Fatal(err)
				}
				w.clock.Step(startingTime)
			}
			w.wantCond(demoKey, v1alpha1.ConditionBundleReady, tt.wantCond)
			w.wantCond(demoKey, v1alpha1.ConditionStalled, tt.wantStalled)
			if tt.wantImage != "-" {
				if got := w.bundles.All()[testID].Image; got != tt.wantImage {
					t.Errorf("image: got %q, want %q", got, tt.wantImage)
				}
			}
			if tt.wantStalled != "" {
				w.wantCond(demoKey, v1alpha1.ConditionReconciling, "")
				if got := w.bottle(demoKey).Status.ObservedGeneration; ptr.Deref(got, 0) != 1 {
					t.Errorf("observedGeneration of a terminal failure: got %v, want 1", got)
				}
			}
		})
	}
}

func TestBundleEnvAndRules(t *testing.T) {
	b := bundleEnv(demo().Allow("example.com", "*.example.org:8443"), v1alpha1.EnvVar{Name: "A", Value: ptr.To("b=c")})
	w := newWorld(t, b.Obj())
	w.settle(demoKey)
	spec, ok := w.bundles.Spec(demoOwner)
	if !ok {
		t.Fatal("bundle: got none")
	}
	if d := cmp.Diff([]string{"A=b=c"}, spec.Env); d != "" {
		t.Errorf("env (-want +got):\n%s", d)
	}
	path := filepath.Join(spec.RulesDir, "egress.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), `"*.example.org:8443"`) || !strings.Contains(string(data), "example.com") {
		t.Errorf("rules: got %s, want both", data)
	}
	// The bundle runs as another user, which must be able to read the rules.
	for p, want := range map[string]os.FileMode{spec.RulesDir: 0o755 | os.ModeDir, path: 0o644} {
		if info, err := os.Stat(p); err != nil || info.Mode() != want {
			t.Errorf("mode of %s: got %v %v, want %v", p, info.Mode(), err, want)
		}
	}

	container := w.bundles.All()[testID].ContainerID
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.Egress.Allow = []v1alpha1.EgressRule{"other.example"} })
	w.settle(demoKey)
	if data, _ := os.ReadFile(path); !strings.Contains(string(data), "other.example") {
		t.Errorf("rules after a change: got %s, want other.example", data)
	}
	if got := w.bundles.All()[testID].ContainerID; got != container {
		t.Errorf("container after a change of rules: got %s, want the same %s", got, container)
	}
}

func TestABundleThatEndedIsStarted(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.settle(demoKey)
	w.bundles.Exit(demoOwner, 137)
	w.settle(demoKey)
	if !w.bundles.All()[testID].Running {
		t.Errorf("bundle: got it down, want it running")
	}
	w.bundles.Remove(demoOwner)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionBundleReady, "True/Ready")
}

func TestABundleThatDoesNotRun(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.r.steps.bundle.bundles = neverRunning{w.bundles}
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.wantCond(demoKey, v1alpha1.ConditionBundleReady, "False/BundleStarting")
}

// neverRunning are bundles that end as soon as they are started.
type neverRunning struct{ host.Bundles }

func (n neverRunning) EnsureBundle(ctx context.Context, spec host.BundleSpec) (host.Bundle, error) {
	b, err := n.Bundles.EnsureBundle(ctx, spec)
	b.Running, b.State = false, "exited (1)"
	return b, err
}

// TestBundleOutOfMemory checks that the Bottle says so when its bundle was killed for
// using too much memory, and that the booked limit is applied and reported.
func TestBundleOutOfMemory(t *testing.T) {
	w := running(t)
	if spec, _ := w.bundles.Spec(ownerOfDemo()); spec.Limits != machinesize.DefaultBundle {
		t.Errorf("limits of a Bottle that an earlier manager placed: got %+v, want the defaults", spec.Limits)
	}
	limits := machinesize.Bundle{CPUMillis: 500, MemoryBytes: 200 << 20}
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Status.Resources.Bundle = limits.Status() })
	w.settle(demoKey)
	if spec, _ := w.bundles.Spec(ownerOfDemo()); spec.Limits != limits {
		t.Errorf("limits: got %+v, want the booked %+v", spec.Limits, limits)
	}
	w.bundles.RunOutOfMemory(ownerOfDemo())
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.wantCond(demoKey, v1alpha1.ConditionBundleReady, "False/BundleOutOfMemory")
	w.wantEvent("BundleOutOfMemory")
	if got := w.message(demoKey, v1alpha1.ConditionBundleReady); !strings.Contains(got, "200 MiB") {
		t.Errorf("message: got %q, want the limit", got)
	}
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
}

func TestANewBundleMayTakeAMomentToAnswer(t *testing.T) {
	w := newWorld(t, demo().Obj())
	triple, err := subnet.TripleOf(firstChoice)
	if err != nil {
		t.Fatal(err)
	}
	w.bundles.Silence(triple.BundleIP, 8888, hosttest.Silent)
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.wantCond(demoKey, v1alpha1.ConditionBundleReady, "False/BundleStarting")
	if got := w.events(); len(got) != 0 {
		t.Errorf("events: got %q, want none yet", got)
	}
	w.clock.Step(startingTime)
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.wantCond(demoKey, v1alpha1.ConditionBundleReady, "False/BundleNotAnswering")
	w.wantEvent("BundleNotAnswering")
	w.bundles.Silence(triple.BundleIP, 8888, hosttest.Answers)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
}
