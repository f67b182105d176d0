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
		wantImage   string // what it stands for; "" for a bare machine or none
	}{
		"the default":                        {demo(), nil, nil, "True/MachineRunning", "", "default image"},
		"an archive":                         {demo().Image("file:a.tar"), nil, func(w *world) { w.images.PutLocal("file:a.tar", "archive a") }, "True/MachineRunning", "", "archive a"},
		"an archive that is not there":       {demo().Image("file:a.tar"), nil, nil, "False/ImageNotFound", "", ""},
		"a registry reference":               {demo().Image(registryImage), nil, push, "True/MachineRunning", "", "agent 1"},
		"one that is on its way":             {demo().Image(registryImage), nil, func(w *world) { push(w); w.images.Hold(registryImage) }, "False/ImagePulling", "", ""},
		"a registry that is down":            {demo().Image(registryImage), nil, func(w *world) { w.images.Down(errors.New("no route")) }, "False/ImagePullBackOff", "", ""},
		"never to be pulled":                 {never(demo().Image(registryImage)), nil, push, "False/ImageNeverPull", "", ""},
		"no image's name":                    {demo().Image("Docker.io/UPPER"), nil, nil, "False/InvalidImageName", "True/InvalidImageName", ""},
		"the daemon's, which is not allowed": {demo().Image("docker-daemon:x"), nil, nil, "False/InvalidImageName", "True/InvalidImageName", ""},
		"none, by a smolvm without any":      {demo(), &bare, nil, "True/MachineRunning", "", ""},
		"an archive, by one without any":     {demo().Image("file:guest.tar"), &bare, nil, "False/UnsupportedBySmolvm", "", ""},
		"a command, by one without any":      {demo().Command("sh"), &bare, nil, "False/UnsupportedBySmolvm", "", ""},
		"a default that is not there":        {demo(), nil, func(w *world) { w.images.RemoveLocal("file:guest.tar") }, "False/ImageNotFound", "", ""},
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
				t.Fatalf("machine: got %v from %q, want it made from %q", made, spec.Image, tt.wantImage)
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

func TestAnImageThatComesLaterMendsTheBottle(t *testing.T) {
	w := newWorld(t, demo().Image("file:late.tar").Obj())
	res, err := w.pass(demoKey)
	if err != nil || res.RequeueAfter <= 0 || res.RequeueAfter > forSomebody {
		t.Fatalf("pass: got %v %v, want another one soon", res, err)
	}
	w.wantEvent("ImageNotFound")
	w.images.PutLocal("file:late.tar", "late")
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
}

// The condition follows a pull in few steps, and the pull ends the wait.
func TestAPullIsFollowed(t *testing.T) {
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
		t.Errorf("a pull without news: got writes %q (%v), want none", w.api.log(), err)
	}
	if got := w.events(); slices.ContainsFunc(got, func(e string) bool { return strings.HasPrefix(e, "Warning") }) {
		t.Errorf("events: got %q, want no warning of what is the way of every image", got)
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
	w.images.Push(registryImage, "agent 1")
	w.images.Private(registryImage, []byte(secret))
	for range 2 {
		if _, err := w.pass(demoKey); err != nil {
			t.Fatal(err)
		}
	}
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/ImagePullBackOff")
	if got := w.message(demoKey, v1alpha1.ConditionMachineReady); !strings.Contains(got, "absent, regcred") {
		t.Errorf("message: got %q, want the Secrets that are missing", got)
	}
	w.refs.put("secrets", "regcred", ".dockerconfigjson", secret)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	for _, c := range w.bottle(demoKey).Status.Conditions {
		if strings.Contains(c.Message, "c2VjcmV0") {
			t.Errorf("%s: got %q, want nothing of the secret", c.Type, c.Message)
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
		t.Error("with no list of machines: got no error, want one: nothing may be removed then")
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
		t.Errorf("status.image: got %q, want what the machine was made from", got)
	}
}

// A machine that goes between two steps is not made anew from nothing.
func TestAMachineThatGoesAfterTheImageWasNotLookedFor(t *testing.T) {
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

// The words that Pods have for it, with growing pauses.
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
	pass() // adopts it, and comes as far as the image
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/ErrImagePull")
	if got := w.message(demoKey, v1alpha1.ConditionMachineReady); !strings.Contains(got, "no route to the registry") {
		t.Errorf("message: got %q, want the registry's words", got)
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

// A Bottle that is to have no machine has nothing pulled for it.
func TestAPullThatNobodyWantsAnyMoreIsCalledOff(t *testing.T) {
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
		"what cannot be had is asked for instead": func(w *world) {
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
		"deleted where smolvm gives no answer": func(w *world) {
			if err := w.api.Delete(w.t.Context(), w.bottle(demoKey)); err != nil {
				w.t.Fatal(err)
			}
			w.faults.Fail("ListMachines", hosttest.Before, -1, errors.New("no answer"))
			w.clock.Step(time.Minute)
			_, _ = w.pass(demoKey) // is tried again
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
				t.Errorf("got %v, want nobody to wait for the pull", got)
			}
		})
	}
}

// The registry is asked for every machine that is made, however soon after the
// last one.
func TestTheNextMachineAsksTheRegistryAnew(t *testing.T) {
	b := demo().Image(registryImage)
	b.Spec.ImagePullPolicy = ptr.To(v1alpha1.PullPolicy("Always"))
	w := newWorld(t, b.Obj())
	w.images.Push(registryImage, "agent 1")
	w.settle(demoKey)
	w.images.Push(registryImage, "agent 2")
	begun := w.clock.Now()
	w.update(demoKey, func(b *v1alpha1.Bottle) {
		b.Annotations = map[string]string{v1alpha1.AnnotationRecreatedAt: "1"}
	})
	for range 10 { // no time passes
		if _, err := w.pass(demoKey); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.bottle(demoKey).Status.Image; !w.clock.Now().Equal(begun) || ptr.Deref(got.Digest, "") != hosttest.ImageDigest("agent 2") {
		t.Errorf("status.image: got %s, want the digest of what the tag is now", ptr.Deref(got.Digest, ""))
	}
}

// A machine that is held for a leak needs no image, and none is asked for.
func TestALeakedBottleAsksForNoImage(t *testing.T) {
	w := newWorld(t, demo().Image(registryImage).Obj())
	w.images.Push(registryImage, "agent 1")
	w.guest.set(leaky)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionStalled, "True/LeakDetected")
	w.annotate(v1alpha1.AnnotationRecreatedAt, "now")
	w.faults.ResetCalls()
	w.settle(demoKey)
	if got := w.faults.Calls(); slices.ContainsFunc(got, func(c string) bool { return strings.HasPrefix(c, "Get ") }) {
		t.Errorf("calls: got %v, want no image asked for", got)
	}
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "False/LeakDetected")
	if got := w.bottle(demoKey).Status.Image; got == nil || got.Reference != registryImage {
		t.Errorf("status.image: got %+v, want what the machine was made from", got)
	}
}
