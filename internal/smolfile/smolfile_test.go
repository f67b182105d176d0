// SPDX-License-Identifier: Apache-2.0

package smolfile_test

import (
	"errors"
	"flag"
	"maps"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
	"sigs.k8s.io/yaml"

	"botbottle.dev/bottle-operator/internal/guestenv"
	"botbottle.dev/bottle-operator/internal/machinesize"
	"botbottle.dev/bottle-operator/internal/smolfile"
)

var update = flag.Bool("update", false, "rewrite the golden files with the output of Render")

var bundleIP = netip.MustParseAddr("192.168.44.2")

// input is the content of a *.in.yaml file. If Guest is set, the environment is
// the one that a Bottle gets: the operator's variables are added, and Env
// overrides them.
type input struct {
	BundleIP string            `json:"bundleIP"`
	Guest    bool              `json:"guest"`
	CAPath   string            `json:"caPath"`
	Env      map[string]string `json:"env"`
	machinesize.Size
}

func (in input) smolfile(t *testing.T) smolfile.Smolfile {
	s := smolfile.Smolfile{Env: in.Env, BundleIP: netip.MustParseAddr(in.BundleIP), Size: in.Size}
	if !in.Guest {
		return s
	}
	var user []guestenv.Var
	for name, value := range in.Env {
		user = append(user, guestenv.Var{Name: name, Value: value})
	}
	vars, err := guestenv.Build(s.BundleIP, in.CAPath, user)
	if err != nil {
		t.Fatal(err)
	}
	s.Env, _ = guestenv.Split(vars)
	return s
}

func TestGoldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("goldens: got %d, %v, want some", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var in input
			if err := yaml.UnmarshalStrict(data, &in); err != nil {
				t.Fatal(err)
			}
			s := in.smolfile(t)
			got, err := smolfile.Render(s)
			if err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(file, ".in.yaml") + ".out.toml"
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("%s (-want +got), rewrite it with -update:\n%s", golden, d)
			}
			checkDocument(t, s, got)
		})
	}
}

// checkDocument parses a rendered file and compares it with its input: the keys,
// the order and every value.
func checkDocument(t testing.TB, s smolfile.Smolfile, rendered []byte) {
	t.Helper()
	var got map[string]any
	if err := toml.Unmarshal(rendered, &got); err != nil {
		t.Fatalf("rendered file does not parse: %v", err)
	}
	env := []any{}
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		env = append(env, name+"="+s.Env[name])
	}
	want := map[string]any{
		"env":     env,
		"network": map[string]any{"allow_cidrs": []any{s.BundleIP.String() + "/32"}},
	}
	for key, n := range sizeKeys(s.Size) {
		if n != 0 {
			want[key] = n
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("parsed back (-want +got):\n%s", d)
	}
	checkKeys(t, got)
}

// sizeKeys returns the keys of a size and their values, which may be 0. The tests
// of package machinesize say which keys these are.
func sizeKeys(s machinesize.Size) map[string]int64 {
	keys := map[string]int64{}
	for i, v := range reflect.ValueOf(s).Fields() {
		key, _, _ := strings.Cut(i.Tag.Get("toml"), ",")
		keys[key] = v.Int()
	}
	return keys
}

// checkKeys checks, independently of the input, that the file has no other keys
// than the allowed ones.
func checkKeys(t testing.TB, doc map[string]any) {
	t.Helper()
	allowed := slices.AppendSeq([]string{"env", "network"}, maps.Keys(sizeKeys(machinesize.Size{})))
	for key := range doc {
		if !slices.Contains(allowed, key) {
			t.Errorf("key: got %q, want one of %v", key, allowed)
		}
	}
	network, ok := doc["network"].(map[string]any)
	if !ok || len(network) != 1 || network["allow_cidrs"] == nil {
		t.Errorf("network: got %v, want only allow_cidrs", doc["network"])
	}
}

// The file of a Bottle with only a slug and env has exactly two keys.
func TestOnlyEnvAndAllowList(t *testing.T) {
	vars, err := guestenv.Build(bundleIP, "", []guestenv.Var{{Name: "GREETING", Value: "hello"}, {Name: "TOKEN", Value: "s3cret", Secret: true}})
	if err != nil {
		t.Fatal(err)
	}
	env, _ := guestenv.Split(vars)
	out, err := smolfile.Render(smolfile.Smolfile{Env: env, BundleIP: bundleIP})
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := toml.Unmarshal(out, &doc); err != nil {
		t.Fatal(err)
	}
	if got, want := slices.Sorted(maps.Keys(doc)), []string{"env", "network"}; !slices.Equal(got, want) {
		t.Errorf("keys: got %v, want %v", got, want)
	}
	if strings.Contains(string(out), "s3cret") || strings.Contains(string(out), "TOKEN") {
		t.Errorf("got %s, want no trace of the secret", out)
	}
}

// Values that look like TOML, even like forbidden keys, stay values.
func TestValuesCannotBecomeKeys(t *testing.T) {
	env := map[string]string{
		"A": "'\nimage = \"evil\"\n",
		"B": "\"]\n[network]\nallow_cidrs = [\"0.0.0.0/0\"]\nallow_hosts = [\"*\"]\n#",
		"C": "''']\nlocalhost_only = true\noutbound_localhost_only = true\n",
		"D": "\"\"\"\n[network]\ngvproxy = \"/run/gvproxy.sock\"\nunixgram = \"x\"",
		"E": "']\nentrypoint = ['sh']\ncmd = ['-c']\nnet = true\n",
		"F": "\\", "G": "\\\"", "H": "\\u0022]\nnet = true", "I": "#", "J": "=",
	}
	s := smolfile.Smolfile{Env: env, BundleIP: bundleIP}
	out, err := smolfile.Render(s)
	if err != nil {
		t.Fatal(err)
	}
	checkDocument(t, s, out)
	for _, key := range []string{"localhost", "gvproxy", "unixgram", "image", "entrypoint", "cmd", "net ", "allow_hosts"} {
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(strings.TrimSpace(line), key) {
				t.Errorf("got line %q, want none that starts with %q", line, key)
			}
		}
	}
}

func TestRenderRejects(t *testing.T) {
	ok := smolfile.Smolfile{BundleIP: bundleIP}
	tests := map[string]struct {
		change func(*smolfile.Smolfile)
		want   string
	}{
		"no bundle":             {func(s *smolfile.Smolfile) { s.BundleIP = netip.Addr{} }, "bundle address"},
		"unspecified bundle":    {func(s *smolfile.Smolfile) { s.BundleIP = netip.MustParseAddr("0.0.0.0") }, "is the unspecified address"},
		"an IPv6 bundle":        {func(s *smolfile.Smolfile) { s.BundleIP = netip.MustParseAddr("fd00::2") }, "want an IPv4 address"},
		"IPv4 written as IPv6":  {func(s *smolfile.Smolfile) { s.BundleIP = netip.MustParseAddr("::ffff:192.168.44.2") }, "want an IPv4 address"},
		"17 cpus":               {func(s *smolfile.Smolfile) { s.CPUs = 17 }, "cpus 17: want 1 to 16"},
		"negative cpus":         {func(s *smolfile.Smolfile) { s.CPUs = -1 }, "cpus -1"},
		"63 MiB":                {func(s *smolfile.Smolfile) { s.MemoryMiB = 63 }, "memory 63 MiB: want at least 64"},
		"negative memory":       {func(s *smolfile.Smolfile) { s.MemoryMiB = -64 }, "memory -64 MiB"},
		"memory beyond 32 bits": {func(s *smolfile.Smolfile) { s.MemoryMiB = math.MaxUint32 + 1 }, "memory 4294967296 MiB"},
		"negative storage":      {func(s *smolfile.Smolfile) { s.StorageGiB = -1 }, "storage -1 GiB"},
		"negative overlay":      {func(s *smolfile.Smolfile) { s.OverlayGiB = -1 }, "overlay -1 GiB"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := ok
			tt.change(&s)
			out, err := smolfile.Render(s)
			if err == nil || !strings.Contains(err.Error(), tt.want) || out != nil {
				t.Errorf("got %q, %v, want an error that contains %q", out, err, tt.want)
			}
		})
	}
}

func TestRenderRejectsVariables(t *testing.T) {
	const hidden = "h1dden"
	tests := map[string]struct {
		name, value string
		want        error
	}{
		"empty name":          {"", hidden, guestenv.ErrName},
		"= in the name":       {"A=B", hidden, guestenv.ErrName},
		"space in the name":   {" A", hidden, guestenv.ErrName},
		"newline in the name": {"A\nB", hidden, guestenv.ErrName},
		"NUL":                 {"A", hidden + "\x00", guestenv.ErrNUL},
		"invalid UTF-8":       {"A", hidden + "\xc3", guestenv.ErrNotUTF8},
		"half a surrogate":    {"A", hidden + "\xed\xa0\x80", guestenv.ErrNotUTF8},
		"too long":            {"A", hidden + strings.Repeat("x", guestenv.MaxEntry), guestenv.ErrTooLong},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			out, err := smolfile.Render(smolfile.Smolfile{BundleIP: bundleIP, Env: map[string]string{"FINE": "1", tt.name: tt.value}})
			var v *guestenv.VarError
			if !errors.Is(err, tt.want) || !errors.As(err, &v) || v.Name != tt.name || out != nil {
				t.Fatalf("got %q, %v, want %v of %q", out, err, tt.want, tt.name)
			}
			if strings.Contains(err.Error(), hidden) {
				t.Errorf("got %q, want an error without the value", err)
			}
		})
	}
}
