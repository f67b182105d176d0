// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/builders"
)

func TestImage(t *testing.T) {
	bare := host.SmolvmVersion{Version: "0.8.0"}
	tests := map[string]struct {
		bottle      *builders.Bottle
		version     *host.SmolvmVersion
		before      func(w *world)
		wantCond    string
		wantStalled string
		wantArchive string // content; "" for a bare machine or none
	}{
		"the default":                      {demo(), nil, nil, "True/MachineRunning", "", "default image"},
		"an archive":                       {demo().Image("file:a.tar"), nil, func(w *world) { w.putImage("a.tar", "archive a") }, "True/MachineRunning", "", "archive a"},
		"an archive that is not there":     {demo().Image("file:a.tar"), nil, nil, "False/ImageNotFound", "", ""},
		"a link":                           {demo().Image("file:l.tar"), nil, func(w *world) { w.link("l.tar", "guest.tar") }, "False/ImageNotFound", "", ""},
		"a registry reference":             {demo().Image("ghcr.io/org/agent:1"), nil, nil, "False/ImageNotLocal", "", ""},
		"an artifact":                      {demo().ArtifactPath("file:a.smolmachine"), nil, nil, "False/UnsupportedBySmolvm", "True/UnsupportedBySmolvm", ""},
		"none, by a smolvm without any":    {demo(), &bare, nil, "True/MachineRunning", "", ""},
		"an archive, by one without any":   {demo().Image("file:guest.tar"), &bare, nil, "False/UnsupportedBySmolvm", "", ""},
		"a command, by one without any":    {demo().Command("sh"), &bare, nil, "False/UnsupportedBySmolvm", "", ""},
		"a default that is not there":      {demo(), nil, func(w *world) { _ = os.Remove(filepath.Join(w.imageDir, "guest.tar")) }, "False/ImageNotFound", "", ""},
		"no folder of local images at all": {demo(), nil, func(w *world) { _ = os.RemoveAll(w.imageDir) }, "False/ImageNotFound", "", ""},
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
			_, spec, _ := w.machines.Get(testID)
			got := ""
			if spec.Image != "" {
				data, err := os.ReadFile(spec.Image)
				if err != nil {
					t.Fatal(err)
				}
				got = string(data)
			}
			if got != tt.wantArchive {
				t.Errorf("archive: got %q, want %q", got, tt.wantArchive)
			}
		})
	}
}

func (w *world) link(name, target string) {
	w.t.Helper()
	if err := os.Symlink(target, filepath.Join(w.imageDir, name)); err != nil {
		w.t.Fatal(err)
	}
}

func TestAMissingImageMendsItself(t *testing.T) {
	w := newWorld(t, demo().Image("file:late.tar").Obj())
	res, err := w.pass(demoKey)
	if err != nil || res.RequeueAfter <= 0 || res.RequeueAfter > forSomebody {
		t.Fatalf("pass: got %v %v, want another one soon", res, err)
	}
	w.wantEvent("ImageNotFound")
	w.putImage("late.tar", "late")
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
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
