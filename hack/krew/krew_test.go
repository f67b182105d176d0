// SPDX-License-Identifier: Apache-2.0

// Package krew checks the krew manifest of kubectl bottle.
package krew

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// manifest has the fields that krew requires of a manifest.
type manifest struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Version, Homepage, ShortDescription, Description, Caveats string
		Platforms                                                 []struct {
			Selector struct {
				MatchLabels map[string]string `json:"matchLabels"`
			} `json:"selector"`
			URI, SHA256, Bin string
		}
	} `json:"spec"`
}

func TestManifest(t *testing.T) {
	text, err := os.ReadFile("bottle.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var m manifest
	if err := yaml.UnmarshalStrict(text, &m); err != nil {
		t.Fatal(err)
	}
	if m.APIVersion != "krew.googlecontainertools.github.com/v1alpha2" || m.Kind != "Plugin" || m.Metadata.Name != "bottle" {
		t.Errorf("got %s %s %s", m.APIVersion, m.Kind, m.Metadata.Name)
	}
	if n := len(m.Spec.ShortDescription); n == 0 || n > 50 || strings.HasSuffix(m.Spec.ShortDescription, ".") {
		t.Errorf("the short description has %d characters: krew allows 50, without a full stop", n)
	}
	seen := map[string]bool{}
	for _, p := range m.Spec.Platforms {
		platform := p.Selector.MatchLabels["os"] + "_" + p.Selector.MatchLabels["arch"]
		if want := "URL/kubectl-bottle_" + platform + ".tar.gz"; p.URI != want {
			t.Errorf("got %s, want %s", p.URI, want)
		}
		if want := "SHA256_" + strings.ToUpper(platform); p.SHA256 != want || seen[platform] {
			t.Errorf("got %s, want %s, once", p.SHA256, want)
		}
		if p.Bin != "kubectl-bottle" {
			t.Errorf("%s: got the program %s", platform, p.Bin)
		}
		seen[platform] = true
	}
	if len(seen) == 0 {
		t.Error("there are no platforms")
	}
	for _, line := range strings.Split(m.Spec.Description, "\n") {
		if len(line) > 80 {
			t.Errorf("a line of the description has %d characters", len(line))
		}
	}
}

// TestScript checks that the script replaces all that is to be replaced. It does not
// build: a stand-in for go makes the program.
func TestScript(t *testing.T) {
	bin, out := t.TempDir(), t.TempDir()
	const fake = "#!/bin/sh\nwhile [ \"$1\" != -o ]; do shift; done\necho \"$GOOS $GOARCH\" >\"$2\"\n"
	if err := os.WriteFile(bin+"/go", []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("./manifest", "v1.2.3", "https://example.com/v1.2.3", out)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	text, err := os.ReadFile(out + "/bottle.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var m manifest
	if err := yaml.UnmarshalStrict(text, &m); err != nil {
		t.Fatal(err)
	}
	if m.Spec.Version != "v1.2.3" || m.Spec.Homepage != "https://example.com/v1.2.3" {
		t.Errorf("got version %s and homepage %s", m.Spec.Version, m.Spec.Homepage)
	}
	for _, p := range m.Spec.Platforms {
		if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(p.SHA256) {
			t.Errorf("got the checksum %s", p.SHA256)
		}
		if _, err := os.Stat(out + "/" + strings.TrimPrefix(p.URI, "https://example.com/v1.2.3/")); err != nil {
			t.Error(err)
		}
	}
}
