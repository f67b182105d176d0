// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
)

func bundleFiles(t *testing.T, f BundlesFixture) {
	spec := newBundle(t, f, "76")
	const limit = 100_000
	read := func(path string) ([]byte, error) { return f.Bundles.ReadFile(t.Context(), spec.Owner, path, limit) }
	if _, err := read("/here/ca.pem"); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("no container: got %v, want ErrNotFound", err)
	}
	wantRunning(t, f, spec)
	content := bytes.Repeat([]byte("\x00line\r\n\xff"), limit/8)
	f.PutFile(t, spec.Owner, "/here/ca.pem", content)
	f.PutFile(t, spec.Owner, "/here/large", append(content, 'x'))
	f.PutFile(t, spec.Owner, "/here/empty", nil)
	for path, target := range map[string]string{
		"/here/absolute": "/here/ca.pem", "/here/relative": "ca.pem", "/here/up": "../../../../here/ca.pem", "/here/second": "absolute",
		"/here/folder": "/here", "/here/dangling": "nowhere", "/here/circle": "circle", "/here/tolarge": "large",
	} {
		f.PutLink(t, spec.Owner, path, target)
	}
	check := func(state string) {
		for path, want := range map[string][]byte{
			"/here/ca.pem": content, "/here/absolute": content, "/here/relative": content, "/here/up": content, "/here/second": content, "/here/empty": {},
		} {
			if got, err := read(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %s: got %d bytes, %v, want %d", state, path, len(got), err, len(want))
			}
		}
		for path, want := range map[string]error{
			"/here/none": host.ErrNotFound, "/nowhere/none": host.ErrNotFound, "/here/dangling": host.ErrNotFound,
			"/here": host.ErrInvalid, "/": host.ErrInvalid, "/here/folder": host.ErrInvalid, "/here/circle": host.ErrInvalid, "/here/ca.pem/below": host.ErrNotFound,
			"/here/large": host.ErrInvalid, "/here/tolarge": host.ErrInvalid,
			"": host.ErrInvalid, "here/ca.pem": host.ErrInvalid, "/here/../here/ca.pem": host.ErrInvalid, "/here/ca.pem/": host.ErrInvalid, "/here/ca.pem\x00": host.ErrInvalid,
		} {
			if got, err := read(path); !errors.Is(err, want) || got != nil {
				t.Errorf("%s, %q: got %d bytes, %v, want %v", state, path, len(got), err, want)
			}
		}
	}
	check("running")
	mustDo(t, "stop", f.Bundles.StopBundle(t.Context(), spec.Owner))
	check("stopped")

	theirs := spec.Owner
	theirs.Cluster = "cluster-2"
	if _, err := f.Bundles.ReadFile(t.Context(), theirs, "/here/ca.pem", limit); !errors.Is(err, host.ErrConflict) {
		t.Errorf("someone else's: got %v, want ErrConflict", err)
	}
	f.Down(t)
	if _, err := read("/here/ca.pem"); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("docker down: got %v, want ErrUnavailable", err)
	}
}

// bundleFolders checks that the folders exist from the network on, and that they stay the
// same.
func bundleFolders(t *testing.T, f BundlesFixture) {
	spec := newBundle(t, f, "77")
	rules, secrets := wantFolders(t, f, spec.Owner)
	spec.Image, spec.RulesDir, spec.SecretsDir = "", rules, secrets
	wantRunning(t, f, spec)
	if r, s := wantFolders(t, f, spec.Owner); r != rules || s != secrets {
		t.Errorf("with a running bundle: got %s and %s, want the same %s and %s", r, s, rules, secrets)
	}
}

func wantFolders(t *testing.T, f BundlesFixture, owner host.Owner) (rules, secrets string) {
	t.Helper()
	rules, secrets, err := f.Bundles.Folders(t.Context(), owner)
	mustDo(t, "folders", err)
	if rules == secrets {
		t.Errorf("folders: got %s for both rules and secrets, want two", rules)
	}
	for _, dir := range []string{rules, secrets} {
		if info, err := os.Lstat(dir); err != nil || !info.IsDir() || !filepath.IsAbs(dir) {
			t.Errorf("folder %q: got %v, want the absolute path of a folder", dir, err)
		}
	}
	return rules, secrets
}
