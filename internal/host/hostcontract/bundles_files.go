// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"bytes"
	"errors"
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
