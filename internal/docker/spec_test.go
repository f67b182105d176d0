// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"botbottle.dev/bottle-operator/internal/host"
)

func TestSpecHash(t *testing.T) {
	hash := func(change func(*host.BundleSpec)) string {
		t.Helper()
		spec := testSpec
		spec.Env = []string{"A=1", "B=2"}
		change(&spec)
		image := spec.Image
		if image == "" {
			image = "foreign:1" // the same reference: only spec.Image differs
		}
		o, err := createOptions(spec, image)
		if err != nil {
			t.Fatal(err)
		}
		return o.Config.Labels[specHashLabel]
	}
	same := hash(func(*host.BundleSpec) {})
	if got := hash(func(*host.BundleSpec) {}); got != same || len(got) != 64 {
		t.Errorf("hash of the same: got %q, want %q", got, same)
	}
	for name, change := range map[string]func(*host.BundleSpec){
		"value":    func(s *host.BundleSpec) { s.Env[0] = "A=2" },
		"order":    func(s *host.BundleSpec) { s.Env = []string{"B=2", "A=1"} },
		"borders":  func(s *host.BundleSpec) { s.Env = []string{"A=1B=2"} },
		"address":  func(s *host.BundleSpec) { s.IP = s.IP.Next() },
		"built in": func(s *host.BundleSpec) { s.Image = "" },
		"rules":    func(s *host.BundleSpec) { s.Image, s.RulesDir = "", "/somewhere" },
		"secrets":  func(s *host.BundleSpec) { s.Image, s.SecretsDir = "", "/somewhere" },
		"owner":    func(s *host.BundleSpec) { s.Owner.Namespace = "team-b" },
	} {
		if got := hash(change); got == same {
			t.Errorf("hash with another %s: got the same hash, want a different one", name)
		}
	}
}

// TestLogBoundsInHash checks that the hash differs if the log of a container has
// no bound or another one, whatever the image.
func TestLogBoundsInHash(t *testing.T) {
	for _, image := range []string{"", "foreign:1"} {
		spec := testSpec
		spec.Image = image
		o, err := createOptions(spec, "some:1")
		if err != nil {
			t.Fatal(err)
		}
		want := container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "10m", "max-file": "2"}}
		if diff := cmp.Diff(want, o.HostConfig.LogConfig); diff != "" {
			t.Errorf("image %q: log (-want +got):\n%s", image, diff)
		}
		wantHash := o.Config.Labels[specHashLabel]
		for name, other := range map[string]container.LogConfig{
			"none": {}, "no bound": {Type: "json-file"}, "another bound": {Type: "json-file", Config: map[string]string{"max-size": "10m", "max-file": "3"}},
		} {
			delete(o.Config.Labels, specHashLabel)
			o.HostConfig.Resources = container.Resources{}              // not part of the hash
			o.NetworkingConfig.EndpointsConfig[o.Name].MacAddress = nil // not part of the hash either
			o.HostConfig.LogConfig = want
			if got, err := specHash(o); got != wantHash || err != nil {
				t.Errorf("image %q: got hash %s, %v, want %s", image, got, err, wantHash)
			}
			o.HostConfig.LogConfig = other
			if got, err := specHash(o); got == wantHash || err != nil {
				t.Errorf("image %q, %s: got the same hash, %v, want another", image, name, err)
			}
		}
	}
}

// TestNoValueInLabels checks that labels contain no env values, because every
// tool that lists containers shows labels.
func TestNoValueInLabels(t *testing.T) {
	spec := testSpec
	spec.Env = []string{"TOKEN=hunter22"}
	o, err := createOptions(spec, "foreign:1")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(o.Config.Labels)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "hunter22") {
		t.Errorf("labels: got a value in %s", text)
	}
	if len(o.Config.Labels) != 7 {
		t.Errorf("labels: got %v, want the owner's six and the hash", o.Config.Labels)
	}
}

func TestEnvRefused(t *testing.T) {
	for _, entry := range []string{"", "hunter22", "=hunter22", "A=hunter22\x00"} {
		spec := testSpec
		spec.Env = []string{"FIRST=1", entry}
		_, err := createOptions(spec, "foreign:1")
		if !errors.Is(err, host.ErrInvalid) || strings.Contains(err.Error(), "hunter22") {
			t.Errorf("%q: got %v, want ErrInvalid without the value", entry, err)
		}
	}
}
