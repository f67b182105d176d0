// SPDX-License-Identifier: Apache-2.0

package nodecleanup_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/nodecleanup"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// What is needed to try again stays if a needed step fails.
func TestOrder(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		steps      []nodecleanup.Step
		want       string
		wantBroken bool
	}{
		"all": {[]nodecleanup.Step{{What: "a", Needed: true}, {What: "b"}}, "removed a\nremoved b\n", false},
		"a needed one fails": {
			[]nodecleanup.Step{{What: "a", Needed: true, Do: func(context.Context) error { return broken }}, {What: "b", Needed: true}, {What: "c"}},
			"removed b\n", true,
		},
		"another one fails": {
			[]nodecleanup.Step{{What: "a", Do: func(context.Context) error { return broken }}, {What: "b"}},
			"removed b\n", true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range c.steps {
				if c.steps[i].Do == nil {
					c.steps[i].Do = func(context.Context) error { return nil }
				}
			}
			out := &bytes.Buffer{}
			err := nodecleanup.Remove(t.Context(), out, c.steps)
			if errors.Is(err, broken) != c.wantBroken {
				t.Errorf("got error %v, want it to be %t", err, c.wantBroken)
			}
			if d := cmp.Diff(c.want, out.String()); d != "" {
				t.Errorf("output (-want +got):\n%s", d)
			}
		})
	}
}

func TestFolder(t *testing.T) {
	parent := t.TempDir()
	outside, folder := filepath.Join(parent, "outside"), filepath.Join(parent, "state")
	must(t, errors.Join(os.MkdirAll(filepath.Join(folder, "a", "b"), 0o700), os.MkdirAll(outside, 0o700)))
	must(t, os.WriteFile(filepath.Join(outside, "kept"), nil, 0o600))
	must(t, os.Symlink(outside, filepath.Join(folder, "a", "link")))
	steps, err := nodecleanup.Folder(folder)
	must(t, err)
	must(t, nodecleanup.Remove(t.Context(), &bytes.Buffer{}, steps))
	if exists(folder) || !exists(filepath.Join(outside, "kept")) {
		t.Errorf("got the folder: %t, what a link in it leads to: %t, want only the latter", exists(folder), exists(filepath.Join(outside, "kept")))
	}
	if steps, err = nodecleanup.Folder(folder); err != nil || len(steps) != 0 {
		t.Errorf("without the folder: got %v and %v, want nothing to do", steps, err)
	}
	must(t, os.Symlink(outside, folder))
	if _, err = nodecleanup.Folder(folder); err == nil {
		t.Error("got no error for a link, want one")
	}
}

// A smolvm that somebody unpacked into /opt/smolvm stays.
func TestPrograms(t *testing.T) {
	opt := t.TempDir()
	must(t, errors.Join(os.MkdirAll(filepath.Join(opt, "ours", "versions", "1"), 0o755), os.Symlink("versions/1", filepath.Join(opt, "ours", "current"))))
	must(t, os.MkdirAll(filepath.Join(opt, "theirs", "lib"), 0o755))
	var steps []nodecleanup.Step
	for _, name := range []string{"ours", "theirs", "absent"} {
		s, err := nodecleanup.Programs(opt, name)
		must(t, err)
		steps = slices.Concat(steps, s)
	}
	out := &bytes.Buffer{}
	must(t, nodecleanup.List(out, steps))
	if d := cmp.Diff("would remove the folder "+filepath.Join(opt, "ours")+"\n", out.String()); d != "" {
		t.Errorf("list (-want +got):\n%s", d)
	}
	must(t, nodecleanup.Remove(t.Context(), &bytes.Buffer{}, steps))
	if exists(filepath.Join(opt, "ours")) || !exists(filepath.Join(opt, "theirs", "lib")) {
		t.Error("want only what bottle-install made removed")
	}
}
