// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/test/require"
)

// newPack makes a pack of an image with the only release that supports this.
func newPack(t *testing.T, config string) string {
	t.Helper()
	w := newWorld(t, "1.32.2")
	w.ok("pack", "create", "--image", w.image(config), "--output", w.home+"/packed", "--cpus", "1")
	if st, err := os.Stat(w.home + "/packed"); err != nil || st.Mode()&0o111 == 0 {
		t.Errorf("program next to the pack: got %v, want an executable", err)
	}
	return w.home + "/packed.smolmachine"
}

const packedConfig = `{"config":{"Env":["OF=image","BOTH=image"],"Entrypoint":["/bin/sh","-c"],"Cmd":["echo ran $BOTH >/ran; sleep 1000"],"WorkingDir":"/bin"}}`

// TestMachineFromPack checks, for every release, that a pack's command runs and
// that the flags given to create take effect, except those that real releases
// drop.
func TestMachineFromPack(t *testing.T) {
	require.Root(t)
	for version, keeps := range map[string]bool{"0.8.0": false, "1.9.1": true, "1.32.2": true} {
		t.Run(version, func(t *testing.T) {
			path := newPack(t, packedConfig)
			w := newWorld(t, version)
			name, secret := "--name", []string{"--secret-file", "TOKEN=" + w.write("secret", "hunter2")}
			create := []string{"machine", "create", "--from", path, "--net", "--allow-cidr", "192.168.44.2/32", "-e", "BOTH=given", "-e", "MINE= x "}
			if version == "0.8.0" {
				create, secret = append(create, "m"), nil
			} else {
				create = append(create, name, "m")
			}
			w.ok(append(create, secret...)...)
			v := w.status("m")
			if v["network"] != true || v["cpus"] != 1.0 {
				t.Errorf("status: got %v, want a network and the pack's size", v)
			}
			if _, shown := v["allowed_cidrs"]; shown != (version == "1.32.2") {
				t.Errorf("policy shown: got %v, want it only in the release that shows it", shown)
			}
			b, err := os.ReadFile(filepath.Join(w.home, ".local/share/smolvm/server/standin.json"))
			if err != nil {
				t.Fatal(err)
			}
			if kept := strings.Contains(string(b), "192.168.44.2/32"); kept != keeps {
				t.Errorf("policy stored: got %v, want %v", kept, keeps)
			}
			if strings.Contains(string(b), "TOKEN") {
				t.Errorf("secret: got a reference in %s, want it dropped", b)
			}
			w.ok("machine", "start", name, "m")
			env := w.ok("machine", "exec", name, "m", "--", "cat", "/proc/self/environ")
			for _, want := range []string{"OF=image\x00", "BOTH=given\x00", "MINE= x \x00"} {
				if !strings.Contains(env, want) {
					t.Errorf("env in the guest: got %q, want %q in it", env, want)
				}
			}
			if strings.Contains(env, "hunter2") {
				t.Errorf("env in the guest: got %q, want no secret", env)
			}
			if got := w.ok("machine", "exec", name, "m", "--", "/bin/sh", "-c", "until cat /ran; do sleep 0.1; done"); !strings.HasSuffix(got, "ran given\n") {
				t.Errorf("got %q, want the output of the pack's command", got)
			}
			w.ok("machine", "stop", name, "m")
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if version == "0.8.0" {
				w.fails(1, "source .smolmachine not found: "+path, "machine", "start", name, "m")
			} else {
				w.ok("machine", "start", name, "m")
			}
		})
	}
}

func TestPackErrors(t *testing.T) {
	w := newWorld(t, "1.9.1")
	for text, want := range map[string]string{
		"short":                  "read .smolmachine: I/O error: sidecar file too small to contain footer",
		strings.Repeat("x", 100): "read .smolmachine: invalid magic: expected SMOLPACK",
	} {
		w.fails(1, want, "machine", "create", "--name", "m", "--from", w.write("bad", text))
	}
	image := w.image("{}")
	if r := w.run("pack", "create", "-I", image, "-o", w.home+"/p"); r.code != 1 || !strings.Contains(r.errors, "the stand-in cannot pull from a registry") {
		t.Errorf("1.9.1: got %+v, want an attempt to pull from a registry", r)
	}
	if _, err := os.Stat(w.home + "/p.smolmachine"); err == nil {
		t.Error("got a pack, want none from a release that cannot pack archives")
	}
	w = newWorld(t, "1.32.2")
	w.fails(1, "--image: cannot read archive", "pack", "create", "-I", w.home+"/nope.tar", "-o", w.home+"/p")
	w.setFaults(`{"no_kvm": true}`)
	if r := w.run("pack", "create", "-I", w.image("{}"), "-o", w.home+"/p"); r.code != 1 || !strings.Contains(r.errors, "kvm not available") {
		t.Errorf("without KVM: got %+v, want an error about KVM", r)
	}
}
