// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
)

func TestCommand(t *testing.T) {
	saved := func(config string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, f := range [][2]string{{"c.json", config}, {"l.tar", ""}, {"manifest.json", `[{"Config":"c.json","Layers":["l.tar"]}]`}} {
			_ = w.WriteHeader(&tar.Header{Name: f[0], Size: int64(len(f[1])), Mode: 0o644})
			_, _ = w.Write([]byte(f[1]))
		}
		_ = w.Close()
		return b.Bytes()
	}
	tests := map[string]struct {
		content []byte
		want    []string
		err     error
	}{
		"both":       {saved(`{"config":{"Entrypoint":["/bin/sh","-c"],"Cmd":["echo a"]}}`), []string{"/bin/sh", "-c", "echo a"}, nil},
		"cmd":        {saved(`{"config":{"Cmd":["a",""]}}`), []string{"a", ""}, nil},
		"neither":    {saved(`{"config":{}}`), nil, nil},
		"a NUL":      {saved(`{"config":{"Cmd":["a\u0000b"]}}`), nil, host.ErrInvalid},
		"too long":   {saved(`{"config":{"Cmd":["` + strings.Repeat("a", 65<<10) + `"]}}`), nil, host.ErrInvalid},
		"not a list": {saved(`{"config":{"Cmd":"a"}}`), nil, host.ErrInvalid},
		"no archive": {[]byte("junk"), nil, host.ErrInvalid},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image.tar")
			if err := os.WriteFile(path, tt.content, 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := (&Store{}).Command(t.Context(), path)
			if !errors.Is(err, tt.err) || tt.err == nil && cmp.Diff(tt.want, got) != "" {
				t.Errorf("got %q, %v, want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
	if _, err := (&Store{}).Command(t.Context(), "/nonexistent"); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("absent: got %v, want ErrNotFound", err)
	}
}
