// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/hack/smolvm/realpack"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/runner"
)

func TestCheckEnv(t *testing.T) {
	long := strings.Repeat("x", 100<<10)
	var many []string
	for i := range 11 {
		many = append(many, fmt.Sprintf("N%d=%s", i, long))
	}
	for what, tt := range map[string]struct {
		env []string
		ok  bool
	}{
		"none":              {nil, true},
		"plain":             {[]string{"A=", "-B= x \n", "C=d=e"}, true},
		"longest":           {[]string{"A=" + strings.Repeat("x", maxArg-len("--env=A="))}, true},
		"too long":          {[]string{"A=" + strings.Repeat("x", maxArg-len("--env=A=")+1)}, false},
		"ten of 100 KiB":    {many[:10], true},
		"eleven of 100 KiB": {many, false},
		"no value":          {[]string{"A=1", "HOME"}, false},
		"no name":           {[]string{"=1"}, false},
		"empty":             {[]string{""}, false},
		"a NUL":             {[]string{"A=1\x00B=2"}, false},
		"not UTF-8":         {[]string{"A=\xff"}, false},
		"control character": {[]string{"A\nB=\x00"}, false},
	} {
		err := checkEnv(tt.env)
		if tt.ok != (err == nil) || err != nil && !errors.Is(err, host.ErrInvalid) {
			t.Errorf("%s: got %v, want accepted: %v", what, err, tt.ok)
		}
		if err != nil && (len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\n\x00")) {
			t.Errorf("%s: got %.500q, want a short line", what, err)
		}
	}
}

// TestCheckManifest checks files with the footer of a real artifact.
func TestCheckManifest(t *testing.T) {
	footer := func(manifest string, at, size uint64) string {
		b := append([]byte("assets"+manifest), packMagic...)
		b = binary.LittleEndian.AppendUint32(b, 3)
		for _, n := range []uint64{0, 0, 6, at, size} {
			b = binary.LittleEndian.AppendUint64(b, n)
		}
		return string(append(b, make([]byte, 12)...))
	}
	whole := func(manifest string) string { return footer(manifest, 6, uint64(len(manifest))) }
	for what, tt := range map[string]struct {
		file string
		want string // what the error says; "" means that smolvm decides
	}{
		"a pack":          {whole(`{"mode":"container","image":"checkpoint"}`), ""},
		"a checkpoint":    {whole(`{"mode":"container","checkpoint":{"version":1}}`), "is a checkpoint"},
		"a hidden one":    {whole(`{"checkpoint":1,"mode":"vm","\u0063heckpoint":null}`), "is a checkpoint"},
		"no object":       {whole(`[]`), "not a JSON object"},
		"null":            {whole(`null`), "not a JSON object"},
		"no JSON":         {whole(`hunter2`), "not a JSON object"},
		"beyond the end":  {footer("{}", 1<<63, 2), "impossible"},
		"too long":        {footer("{}", 6, 1<<40), "impossible"},
		"overflow":        {footer("{}", 1<<63, 1<<63), "impossible"},
		"another format":  {strings.Repeat("x", 100), ""},
		"shorter than 64": {"SMOLPACK", ""},
		"empty":           {"", ""},
	} {
		path := filepath.Join(t.TempDir(), "x.smolmachine")
		if err := os.WriteFile(path, []byte(tt.file), 0o644); err != nil {
			t.Fatal(err)
		}
		err := checkManifest(path)
		if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, host.ErrInvalid) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", what, err, tt.want)
		}
		if strings.Contains(fmt.Sprint(err), "hunter2") {
			t.Errorf("%s: got %v, want nothing of the file", what, err)
		}
	}
	path := filepath.Join(t.TempDir(), "real.smolmachine")
	if err := realpack.Write(path, realpack.Pack{CPUs: 3, Entrypoint: []string{"sh", "-c"}, Cmd: []string{"true"}}); err != nil {
		t.Fatal(err)
	}
	if m, err := readManifest(path); err != nil || string(m["cpus"]) != "3" {
		t.Errorf("an artifact that real releases accept: got %v, %v, want its manifest", m, err)
	}
	command := func(pack realpack.Pack) ([]string, error) {
		if err := realpack.Write(path, pack); err != nil {
			t.Fatal(err)
		}
		return (&Driver{}).ArtifactCommand(t.Context(), path)
	}
	if got, err := command(realpack.Pack{Entrypoint: []string{"sh", "-c"}, Cmd: []string{"true"}}); err != nil || !slices.Equal(got, []string{"sh", "-c", "true"}) {
		t.Errorf("command: got %q, %v, want the entrypoint and the cmd", got, err)
	}
	if got, err := command(realpack.Pack{}); err != nil || len(got) != 0 {
		t.Errorf("without a command: got %q, %v, want none", got, err)
	}
	if got, err := command(realpack.Pack{Cmd: []string{strings.Repeat("x", 1<<20)}}); !errors.Is(err, host.ErrInvalid) {
		t.Errorf("a command of 1 MiB: got %d words, %v, want ErrInvalid", len(got), err)
	}
}

// maxArg is exactly the length of the longest argument that the kernel accepts.
func TestArgumentOfGreatestLength(t *testing.T) {
	run := func(n int) error {
		_, err := runner.Exec{}.Run(t.Context(), runner.Command{Path: "/bin/true", Args: []string{strings.Repeat("x", n)}, Timeout: versionTimeout})
		return err
	}
	if err := run(maxArg); err != nil {
		t.Errorf("%d bytes: got %v, want nil", maxArg, err)
	}
	if err := run(maxArg + 1); err == nil {
		t.Errorf("%d bytes: got nil, want the kernel to refuse it", maxArg+1)
	}
}
