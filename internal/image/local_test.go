// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"botbottle.dev/bottle-operator/internal/host"
)

// saved returns the image in the form of docker save.
func saved(t *testing.T, img v1.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tarball.Write(name.MustParseReference("demo:1"), img, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (w *world) put(file string, data []byte) {
	w.t.Helper()
	path := filepath.Join(w.o.LocalDir, file)
	writeFile(w.t, path+".new", data)
	if err := os.Rename(path+".new", path); err != nil {
		w.t.Fatal(err)
	}
}

func local(file string) host.ImageRequest {
	return host.ImageRequest{Reference: host.LocalPrefix + file, For: "a"}
}

func TestLocalArchivesAreKeptByContent(t *testing.T) {
	w := newWorld(t)
	one, two := newImage(t, "amd64", "one"), newImage(t, "amd64", "two")
	w.put("a.tar", saved(t, one))
	w.put("b.tar", saved(t, one))
	w.put("sub/c.tar", saved(t, one))
	a := w.want(local("a.tar"))
	if want := "sha256:" + sumOf(t, filepath.Join(w.o.LocalDir, "a.tar")); a.Digest != want {
		t.Errorf("digest: got %s, want the digest of the content, %s", a.Digest, want)
	}
	wantImage(t, a.Path, one)
	for _, file := range []string{"b.tar", "sub/c.tar"} {
		if got := w.want(local(file)); got.Path != a.Path {
			t.Errorf("%s, the same content: got %v, want %v", file, got, a)
		}
	}
	// The store does not own the folder.
	if info, err := os.Stat(filepath.Join(w.o.LocalDir, "a.tar")); err != nil || info.Mode() != 0o600 {
		t.Errorf("source: got %v %v, want it untouched at 0600", info.Mode(), err)
	}

	// The file is written in place, as cp does.
	writeFile(t, filepath.Join(w.o.LocalDir, "a.tar"), saved(t, two))
	changed := w.want(local("a.tar"))
	if changed.Digest == a.Digest {
		t.Errorf("changed content: got %v, want another image", changed)
	}
	wantImage(t, a.Path, one) // machines may have been made from it
	if n := w.archives(); n != 2 {
		t.Errorf("got %d archives, want 2", n)
	}

	// Somebody removed a file of the store, or changed its mode.
	if err := os.Remove(changed.Path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(a.Path, 0o600); err != nil {
		t.Fatal(err)
	}
	if again := w.want(local("a.tar")); again != changed {
		t.Errorf("copied again: got %v, want %v", again, changed)
	}
	w.want(local("b.tar"))
	wantImage(t, a.Path, one)
	w.wantClean()
}

func TestLocalStaysInItsFolder(t *testing.T) {
	w := newWorld(t)
	outside := filepath.Join(t.TempDir(), "outside")
	writeFile(t, filepath.Join(outside, "secret.tar"), saved(t, newImage(t, "amd64", "root's")))
	w.put("a.tar", saved(t, newImage(t, "amd64", "one")))
	for link, target := range map[string]string{
		"abs.tar": filepath.Join(outside, "secret.tar"), "near.tar": "a.tar", "dir": outside, "up": "..",
	} {
		if err := os.Symlink(target, filepath.Join(w.o.LocalDir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(w.o.LocalDir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"abs.tar", "near.tar", "dir/secret.tar", "dir", "up/a.tar", "empty", "absent.tar", "a.tar/x"} {
		if img, err := w.settle(local(file)); !errors.Is(err, host.ErrNotFound) {
			t.Errorf("%s: got %v %v, want ErrNotFound", file, img, err)
		}
	}
	for _, file := range []string{"", ".", "..", "../outside/secret.tar", "x/../a.tar", "/etc/passwd", "a\x00"} {
		if img, err := w.settle(local(file)); !errors.Is(err, host.ErrInvalid) {
			t.Errorf("%q: got %v %v, want ErrInvalid", file, img, err)
		}
	}
	if err := os.RemoveAll(w.o.LocalDir); err != nil {
		t.Fatal(err)
	}
	if _, err := w.settle(local("a.tar")); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("no folder: got %v, want ErrNotFound", err)
	}
	if n := w.archives(); n != 0 {
		t.Errorf("got %d archives, want none", n)
	}
}

func TestLocalLayout(t *testing.T) {
	w := newWorld(t)
	img := newImage(t, "amd64", "one", noise(5, 1<<20))
	dir := filepath.Join(w.o.LocalDir, "agent")
	p, err := ocilayout.Write(dir, platforms(t, img, newImage(t, "arm64", "other")))
	if err != nil {
		t.Fatal(err)
	}
	got := w.want(local("agent"))
	if h, _ := img.Digest(); got.Digest != h.String() {
		t.Errorf("got %s, want the image's own %s", got.Digest, h)
	}
	wantImage(t, got.Path, img)

	// Take the same layout as an archive. Guests cannot read that form.
	w.put("agent.tar", tarOf(t, dir))
	if again := w.want(local("agent.tar")); again.Path != got.Path {
		t.Errorf("as an archive: got %v, want %v", again, got)
	}

	// Replace a blob with a link, then with other content.
	layers, _ := img.Layers()
	h, _ := layers[1].Digest()
	blob := filepath.Join(string(p), "blobs", "sha256", h.Hex)
	data, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(w.o.LocalDir, "elsewhere"), data)
	if err := errors.Join(os.Remove(blob), os.Symlink(filepath.Join(w.o.LocalDir, "elsewhere"), blob), os.Remove(got.Path), os.Chtimes(filepath.Join(dir, "index.json"), w.clock.Now(), w.clock.Now())); err != nil {
		t.Fatal(err)
	}
	w.wantFailed(local("agent"), "symbolic links")
	data[len(data)/2] ^= 1
	if err := os.Remove(blob); err != nil {
		t.Fatal(err)
	}
	writeFile(t, blob, data)
	w.clock.Step(lastBackoff)
	w.wantFailed(local("agent"), "corrupted")
}

func TestInvalidLocalArchives(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxBytes = 1 << 20 })
	whole := saved(t, newImage(t, "amd64", "one", "two"))
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(whole)
	z.Close()
	w.put("packed.tar.gz", packed.Bytes())
	w.put("plain.tar", whole)
	if got, want := w.want(local("packed.tar.gz")), w.want(local("plain.tar")); got.Path != want.Path {
		t.Errorf("packed: got %v, want %v", got, want)
	}
	bomb := &bytes.Buffer{}
	z = gzip.NewWriter(bomb)
	z.Write(make([]byte, 16<<20))
	z.Close()
	manifest := newTar(t, map[string]string{"manifest.json": `[{"Config":"c","Layers":["c"]}]`})
	cut := append(manifest[:len(manifest)-1024], newTar(t, map[string]string{"c": noise(1, 9000)})[:8000]...)
	for file, c := range map[string]struct {
		data []byte
		text string
	}{
		"junk.tar":  {[]byte("no tar at all"), "not a tar archive"},
		"empty.tar": {nil, "neither manifest.json nor index.json"},
		"other.tar": {newTar(t, map[string]string{"etc/passwd": "root"}), "neither manifest.json nor index.json"},
		"cut.tar":   {cut, "not a tar archive, or it is truncated"},
		"json.tar":  {newTar(t, map[string]string{"manifest.json": "{"}), "cannot be read"},
		"two.tar":   {newTar(t, map[string]string{"manifest.json": `[{"Config":"c"},{"Config":"c"}]`, "c": "{}"}), "2 images"},
		"lost.tar":  {newTar(t, map[string]string{"manifest.json": `[{"Config":"c","Layers":["l/layer.tar"]}]`, "c": "{}"}), `"l/layer.tar" is missing`},
		"large.tar": {make([]byte, 2<<20), "--image-max-bytes"},
		"bomb.tgz":  {bomb.Bytes(), "--image-max-bytes"},
	} {
		w.put(file, c.data)
		w.wantFailed(local(file), c.text)
	}
	// After the file is repaired, the pull waits only for the first backoff.
	for range 3 {
		w.clock.Step(lastBackoff)
		w.wantFailed(local("junk.tar"), "not a tar archive")
	}
	w.put("junk.tar", whole)
	w.wantFailed(local("junk.tar"), "not a tar archive")
	w.clock.Step(firstBackoff)
	w.want(local("junk.tar"))
	if n := w.archives(); n != 1 {
		t.Errorf("got %d archives, want 1", n)
	}
}

func TestDockerDaemon(t *testing.T) {
	w := newWorld(t)
	req := host.ImageRequest{Reference: host.DaemonPrefix + "demo:1", For: "a"}
	if _, err := w.settle(req); !errors.Is(err, host.ErrInvalid) || !strings.Contains(err.Error(), "--allow-docker-daemon-images") {
		t.Errorf("not allowed: got %v, want ErrInvalid and the flag", err)
	}
	w.Close()
	images := map[string]v1.Image{}
	var saves atomic.Int32
	w.o.Daemon = &Daemon{
		ID: func(_ context.Context, name string) (string, error) {
			img, ok := images[name]
			if !ok {
				return "", fmt.Errorf("image %s: %w", name, host.ErrNotFound)
			}
			h, err := img.ConfigName()
			return h.String(), err
		},
		Save: func(_ context.Context, id string) (io.ReadCloser, error) {
			for _, img := range images {
				if h, _ := img.ConfigName(); h.String() == id {
					saves.Add(1)
					return io.NopCloser(bytes.NewReader(saved(t, img))), nil
				}
			}
			return nil, host.ErrNotFound
		},
	}
	w.open()
	if failed := w.wantFailed(req); !errors.Is(failed, host.ErrNotFound) {
		t.Errorf("absent: got %v, want ErrNotFound", failed)
	}
	w.clock.Step(firstBackoff)
	images["demo:1"] = newImage(t, "amd64", "one")
	one := w.want(req)
	wantImage(t, one.Path, images["demo:1"])
	w.clock.Step(answerReusable)
	if again := w.want(req); again != one || saves.Load() != 1 {
		t.Errorf("again: got %v by %d saves, want %v by one", again, saves.Load(), one)
	}
	images["demo:1"] = newImage(t, "amd64", "two")
	w.clock.Step(answerReusable)
	wantImage(t, w.want(req).Path, images["demo:1"])
	for _, bad := range []string{"", "-x", "a b", "x;y", "a/../../containers/b", "a//b", "a/."} {
		if _, err := w.settle(host.ImageRequest{Reference: host.DaemonPrefix + bad}); !errors.Is(err, host.ErrInvalid) {
			t.Errorf("%q: got %v, want ErrInvalid", bad, err)
		}
	}
}

// A file that is being written must not start a copy, with Events, at every
// request.
func TestGrowingLocalArchive(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.o.LocalDir, "a.tar")
	for i := range 50 {
		writeFile(t, path, make([]byte, i+1))
		if _, err := w.settle(local("a.tar")); err == nil {
			t.Fatal("got an image from an invalid file")
		}
	}
	w.mu.Lock()
	events := len(w.events)
	w.mu.Unlock()
	if events > 3 { // Pulling, Failed, BackOff
		t.Errorf("got %d Events, want at most three: %q", events, w.events)
	}
	img := newImage(t, "amd64", "one")
	w.put("a.tar", saved(t, img))
	w.clock.Step(firstBackoff)
	wantImage(t, w.want(local("a.tar")).Path, img)
}
