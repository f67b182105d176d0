// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/test/builders"
)

const registryImage = "ghcr.io/org/agent:1"

func TestImage(t *testing.T) {
	bare := host.SmolvmVersion{Version: "0.8.0"}
	never := func(b *builders.Bottle) *builders.Bottle {
		b.Spec.ImagePullPolicy = ptr.To(v1alpha1.PullPolicy("Never"))
		return b
	}
	push := func(w *world) { w.images.Push(registryImage, "agent 1") }
	tests := map[string]struct {
		bottle      *builders.Bottle
		version     *host.SmolvmVersion
		before      func(w *world)
		wantCond    string
		wantStalled string
		wantImage   string // its content; "" for a bare machine or none
	}{
		"the default":                       {demo(), nil, nil, "True/MachineRunning", "", "default image"},
		"an archive":                        {demo().Image("file:a.tar"), nil, func(w *world) { w.images.PutLocal("file:a.tar", "archive a") }, "True/MachineRunning", "", "archive a"},
		"an archive that does not exist":    {demo().Image("file:a.tar"), nil, nil, "False/ImageNotFound", "", ""},
		"a registry reference":              {demo().Image(registryImage), nil, push, "True/MachineRunning", "", "agent 1"},
		"one that is being pulled":          {demo().Image(registryImage), nil, func(w *world) { push(w); w.images.Hold(registryImage) }, "False/ImagePulling", "", ""},
		"a registry that is down":           {demo().Image(registryImage), nil, func(w *world) { w.images.Down(errors.New("no route")) }, "False/ImagePullBackOff", "", ""},
		"never to be pulled":                {never(demo().Image(registryImage)), nil, push, "False/ImageNeverPull", "", ""},
		"not an image name":                 {demo().Image("Docker.io/UPPER"), nil, nil, "False/InvalidImageName", "True/InvalidImageName", ""},
		"a docker-daemon reference":         {demo().Image("docker-daemon:x"), nil, nil, "False/InvalidImageName", "True/InvalidImageName", ""},
		"none, smolvm without images":       {demo(), &bare, nil, "True/MachineRunning", "", ""},
		"an archive, smolvm without images": {demo().Image("file:guest.tar"), &bare, nil, "False/UnsupportedBySmolvm", "", ""},
		"a command, smolvm without images":  {demo().Command("sh"), &bare, nil, "False/UnsupportedBySmolvm", "", ""},
		"a default that does not exist":     {demo(), nil, func(w *world) { w.images.RemoveLocal("file:guest.tar") }, "False/ImageNotFound", "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tt.bottle.Obj())
			if tt.version != nil {
				w.machines.SetVersion(*tt.version)
			}
			if tt.before != nil {
				tt.before(w)
			}
			for range 3 {
				if _, err := w.pass(demoKey); err != nil {
					t.Fatal(err)
				}
			}
			w.wantCond(demoKey, v1alpha1.ConditionMachineReady, tt.wantCond)
			w.wantCond(demoKey, v1alpha1.ConditionStalled, tt.wantStalled)
			_, spec, made := w.machines.Get(testID)
			if (spec.Image != "") != (tt.wantImage != "") || made != strings.HasPrefix(tt.wantCond, "True") {
				t.Fatalf("machine: got %v from %q, want one created from %q", made, spec.Image, tt.wantImage)
			}
			if tt.wantImage == "" {
				return
			}
			if got := w.bottle(demoKey).Status.Image; got == nil || ptr.Deref(got.Digest, "") != hosttest.ImageDigest(tt.wantImage) {
				t.Errorf("status.image: got %+v, want the digest of %q", got, tt.wantImage)
			}
		})
	}
}

func TestABottleRunsOnceItsImageExists(t *testing.T) {
	w := newWorld(t, demo().Image("file:late.tar").Obj())
	res, err := w.pass(demoKey)
	if err != nil || res.RequeueAfter <= 0 || res.RequeueAfter > externalDelay {
		t.Fatalf("pass: got %v %v, want another one soon", res, err)
	}
	w.wantEvent("ImageNotFound")
	w.images.PutLocal("file:late.tar", "late")
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
}

// The status is not written while a pull makes no progress, and the end of the
// pull ends the wait.
func TestAPullIsReported(t *testing.T) {
	w := newWorld(t, demo().Image(registryImage).Obj())
	w.images.Push(registryImage, "agent 1")
	w.images.Hold(registryImage)
	for range 2 {
		if _, err := w.pass(demoKey); err != nil {
			t.Fatal(err)
		}
	}
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/ImagePulling")
	w.api.reset()
	if _, err := w.pass(demoKey); err != nil || len(w.api.log()) != 0 {
		t.Errorf("a pass during the pull: got writes %q (%v), want none", w.api.log(), err)
	}
	if got := w.events(); slices.ContainsFunc(got, func(e string) bool { return strings.HasPrefix(e, "Warning") }) {
		t.Errorf("events: got %q, want no warning about a normal pull", got)
	}
	w.images.Release(registryImage)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
}

func TestPullSecrets(t *testing.T) {
	const secret = `{"auths":{"ghcr.io":{"auth":"c2VjcmV0"}}}`
	b := demo().Image(registryImage)
	b.Spec.ImagePullSecrets = []v1alpha1.LocalObjectReference{{Name: "absent"}, {Name: "regcred"}}
	w := newWorld(t, b.Obj())
	w.refs.put("secrets", "regcred", "password", "of another type")
	w.images.Push(registryImage, "agent 1")
	w.images.Private(registryImage, []byte(secret))
	for range 2 {
		if _, err := w.pass(demoKey); err != nil {
			t.Fatal(err)
		}
	}
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/ImagePullBackOff")
	if got := w.message(demoKey, v1alpha1.ConditionMachineReady); !strings.Contains(got, "absent does not exist, regcred has neither .dockerconfigjson nor .dockercfg: create them with") {
		t.Errorf("message: got %q, want the Secrets that are missing", got)
	}
	w.refs.put("secrets", "regcred", ".dockerconfigjson", secret)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	for _, c := range w.bottle(demoKey).Status.Conditions {
		if strings.Contains(c.Message, "c2VjcmV0") {
			t.Errorf("%s: got %q, want no part of the secret", c.Type, c.Message)
		}
	}
}

func TestUsedImages(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.settle(demoKey)
	w.machines.Add(host.Machine{Name: "somebody-elses", Image: "local:abc"})
	digests, archives, err := w.usedImages()
	if err != nil || !digests[hosttest.ImageDigest("default image")] || !archives["local:abc"] {
		t.Errorf("got %v, %v, %v, want the Bottle's image and the other's archive", digests, archives, err)
	}
	w.faults.Fail("ListMachines", hosttest.Before, 1, errors.New("no answer"))
	if _, _, err := w.usedImages(); err == nil {
		t.Error("without a list of machines: got no error, want one, because nothing may be removed then")
	}
}

func TestARunningMachineNeedsNoImage(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.settle(demoKey)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.Image = new("ghcr.io/org/agent:1") })
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "True/SpecChanged")
	if got := w.message(demoKey, v1alpha1.ConditionPendingRestart); !strings.Contains(got, "spec.image") {
		t.Errorf("message: got %q, want spec.image in it", got)
	}
	if got := w.bottle(demoKey).Status.Image.Reference; got != "file:guest.tar" {
		t.Errorf("status.image: got %q, want what the machine was created from", got)
	}
}

// A machine that disappears between two steps is not created again without its
// image.
func TestAMachineThatDisappearsAfterTheImageStep(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.settle(demoKey)
	w.faults.ResetCalls()
	s, err := w.r.newScope(w.bottle(demoKey))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.r.steps.image.ensure(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	var waiting *flow.Waiting
	if err := w.r.steps.machine.create(t.Context(), s); !errors.As(err, &waiting) || waiting.After <= 0 {
		t.Errorf("got %v, want another pass", err)
	}
	if got := w.writingCalls(); len(got) > 0 {
		t.Errorf("calls: got %v, want none", got)
	}
}

// The reasons are the same as a Pod's, and the pauses grow.
func TestAPullThatFails(t *testing.T) {
	w := newWorld(t, demo().Image(registryImage).Obj())
	w.images.Push(registryImage, "agent 1")
	w.images.Down(errors.New("no route to the registry"))
	pass := func() time.Duration {
		t.Helper()
		res, err := w.pass(demoKey)
		if err != nil {
			t.Fatal(err)
		}
		return res.RequeueAfter
	}
	pass() // gets as far as the image step
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/ErrImagePull")
	if got := w.message(demoKey, v1alpha1.ConditionMachineReady); !strings.Contains(got, "no route to the registry") {
		t.Errorf("message: got %q, want the registry's error", got)
	}
	first := pass()
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/ImagePullBackOff")
	w.clock.Step(first)
	pass()
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/ErrImagePull")
	if second := pass(); second <= first {
		t.Errorf("pauses: got %v after %v, want longer", second, first)
	}
	w.images.Down(nil)
	w.clock.Step(time.Minute)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
}

// Nothing is pulled for a Bottle that must not run.
func TestAPullThatIsNoLongerNeededIsCanceled(t *testing.T) {
	for name, end := range map[string]func(w *world){
		"deleted": (*world).remove,
		"evicted": func(w *world) {
			w.update(demoKey, evict)
			if _, err := w.pass(demoKey); err != nil {
				w.t.Fatal(err)
			}
		},
		"stopped": func(w *world) {
			w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
			w.settle(demoKey)
		},
		"changed to an unsupported artifact": func(w *world) {
			w.update(demoKey, func(b *v1alpha1.Bottle) {
				path := packed
				b.Spec.Image, b.Spec.Artifact = nil, &v1alpha1.Artifact{Path: &path}
				b.Spec.Env = append(b.Spec.Env, v1alpha1.EnvVar{Name: "T", ValueFrom: &v1alpha1.EnvVarSource{SecretKeyRef: &v1alpha1.KeySelector{Name: "s", Key: "k"}}})
			})
			w.refs.put("secrets", "s", "k", "x")
			if _, err := w.pass(demoKey); err != nil {
				w.t.Fatal(err)
			}
		},
		"deleted while smolvm does not answer": func(w *world) {
			if err := w.api.Delete(w.t.Context(), w.bottle(demoKey)); err != nil {
				w.t.Fatal(err)
			}
			w.faults.Fail("ListMachines", hosttest.Before, -1, errors.New("no answer"))
			w.clock.Step(time.Minute)
			_, _ = w.pass(demoKey) // fails, and would be retried
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, demo().Image(registryImage).Obj())
			w.images.Push(registryImage, "agent 1")
			w.images.Hold(registryImage)
			for range 2 {
				if _, err := w.pass(demoKey); err != nil {
					t.Fatal(err)
				}
			}
			if got := w.images.Waiting(registryImage); len(got) != 1 || got[0] != testUID {
				t.Fatalf("pulling: got %v, want the Bottle to wait", got)
			}
			end(w)
			if got := w.images.Waiting(registryImage); len(got) != 0 {
				t.Errorf("got %v, want no Bottle to wait for the pull", got)
			}
		})
	}
}

// With the pull policy Always, the registry is queried for every new machine,
// however soon after the last one.
func TestEveryNewMachineQueriesTheRegistry(t *testing.T) {
	b := demo().Image(registryImage)
	b.Spec.ImagePullPolicy = ptr.To(v1alpha1.PullPolicy("Always"))
	w := newWorld(t, b.Obj())
	w.images.Push(registryImage, "agent 1")
	w.settle(demoKey)
	w.images.Push(registryImage, "agent 2")
	started := w.clock.Now()
	w.update(demoKey, func(b *v1alpha1.Bottle) {
		b.Annotations = map[string]string{v1alpha1.AnnotationRecreatedAt: "1"}
	})
	for range 10 { // no time passes
		if _, err := w.pass(demoKey); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.bottle(demoKey).Status.Image; !w.clock.Now().Equal(started) || ptr.Deref(got.Digest, "") != hosttest.ImageDigest("agent 2") {
		t.Errorf("status.image: got %s, want the current digest of the tag", ptr.Deref(got.Digest, ""))
	}
}

// A machine that is kept stopped after a leak needs no image, and none is
// requested.
func TestALeakedBottleRequestsNoImage(t *testing.T) {
	w := newWorld(t, demo().Image(registryImage).Obj())
	w.images.Push(registryImage, "agent 1")
	w.guest.set(leaky)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionStalled, "True/LeakDetected")
	w.annotate(v1alpha1.AnnotationRecreatedAt, "now")
	w.faults.ResetCalls()
	w.settle(demoKey)
	if got := w.faults.Calls(); slices.ContainsFunc(got, func(c string) bool { return strings.HasPrefix(c, "Get ") }) {
		t.Errorf("calls: got %v, want no image requested", got)
	}
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/LeakDetected")
	if got := w.bottle(demoKey).Status.Image; got == nil || got.Reference != registryImage {
		t.Errorf("status.image: got %+v, want what the machine was created from", got)
	}
}
