// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"botbottle.dev/bottle-operator/internal/host"
)

func TestKeyring(t *testing.T) {
	config := func(keys ...string) []byte {
		auths := map[string]any{}
		for _, k := range keys {
			auths[k] = map[string]string{"username": k, "password": "p"}
		}
		raw, _ := json.Marshal(map[string]any{"auths": auths})
		return raw
	}
	legacy, _ := json.Marshal(map[string]any{"ghcr.io": map[string]string{"username": "legacy", "password": "p"}})
	for _, tt := range []struct {
		repo    string
		secrets [][]byte
		want    string
	}{
		{"ghcr.io/team/app", [][]byte{config("ghcr.io", "ghcr.io/team", "ghcr.io/tea", "quay.io")}, "ghcr.io/team ghcr.io"},
		{"ghcr.io/team/app", [][]byte{config("quay.io"), config("https://ghcr.io/v2/"), config("ghcr.io/team/app")}, "https://ghcr.io/v2/ ghcr.io/team/app"},
		{"ghcr.io/team/app", [][]byte{legacy}, "legacy"},
		{"ghcr.io/team/app", [][]byte{config("quay.io", "ghcr.io:443", "io", "*.io.x")}, ""},
		{"a.b.example.com/x/y", [][]byte{config("*.example.com", "*.*.example.com", "a.*.example.com")}, "*.*.example.com a.*.example.com"},
		{"r.test:5000/x/y", [][]byte{config("r.test", "r.test:5000", "*.test:5000")}, "*.test:5000 r.test:5000"},
		{"alpine", [][]byte{config("https://index.docker.io/v1/")}, "https://index.docker.io/v1/"},
		{"alpine", [][]byte{config("docker.io")}, "docker.io"},
		{"alpine", [][]byte{[]byte(`{"auths":null}`), []byte(`[]`), []byte(`{"credsStore":"x"}`), nil}, ""},
	} {
		repo, err := name.NewRepository(tt.repo)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		var secrets []host.PullSecret
		for _, content := range tt.secrets {
			secrets = append(secrets, host.PullSecret{Name: "regcred", Content: content})
		}
		for _, c := range newKeyring(secrets, "").lookup(repo) {
			if !c.anonymous() {
				got = append(got, c.auth.Username)
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s with %s: got %q, want %q", tt.repo, tt.secrets, got, tt.want)
		}
	}
}

func TestReferences(t *testing.T) {
	for given, want := range map[string]struct {
		canonical string
		policy    host.PullPolicy
	}{
		"alpine":                                       {"index.docker.io/library/alpine:latest", host.PullAlways},
		"docker.io/library/alpine":                     {"index.docker.io/library/alpine:latest", host.PullAlways},
		"ghcr.io/org/agent:1.2":                        {"ghcr.io/org/agent:1.2", host.PullIfNotPresent},
		"r.test:5000/a/b:latest":                       {"r.test:5000/a/b:latest", host.PullAlways},
		"r.test/a:1@sha256:" + strings.Repeat("a", 64): {"r.test/a@sha256:" + strings.Repeat("a", 64), host.PullIfNotPresent},
	} {
		r, err := parseReference(given)
		if err != nil {
			t.Errorf("%s: %v", given, err)
			continue
		}
		if policy, err := r.policy(""); r.canonical != want.canonical || policy != want.policy || err != nil {
			t.Errorf("%s: got %s %s %v, want %v", given, r.canonical, policy, err, want)
		}
		if _, err := r.policy("Sometimes"); !errors.Is(err, host.ErrInvalid) {
			t.Errorf("policy Sometimes: got %v, want ErrInvalid", err)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"a\nb\x1b[31m\t c":             "a b [31m c",
		strings.Repeat("ä", maxText):   strings.Repeat("ä", maxText/2) + "…",
		"bad \xff utf8":                "bad utf8",
		"a\u202eb":                     "a b",
		"a\u2028b\u0085c\x00d\x7fe\rf": "a b c d e f",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1 << 20: "1 MiB", 1536 << 20: "1.5 GiB", 1 << 62: "4194304 TiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}
