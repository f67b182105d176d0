// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	clocktesting "k8s.io/utils/clock/testing"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/require"
)

// world is a registry and a store.
type world struct {
	*Store
	t     *testing.T
	o     Options
	reg   *server
	clock *clocktesting.FakeClock

	mu     sync.Mutex
	events []string
}

// loopback is where the tests' registries are.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// newWorld opens a store that trusts a new registry.
func newWorld(t *testing.T, change ...func(o *Options)) *world {
	t.Helper()
	// Layers are unpacked, which only root can do. This needs nothing else, so
	// it also runs under -short.
	if os.Geteuid() != 0 {
		require.Root(t)
	}
	w := &world{t: t, reg: newServer(t), clock: clocktesting.NewFakeClock(time.Now())}
	w.o = Options{
		Dir: t.TempDir(), LocalDir: t.TempDir(), SmolvmHome: t.TempDir(), Reserve: -1,
		CAFile: w.reg.caFile(t), Clock: w.clock, Architecture: "amd64", AllowNetworks: loopback,
		GCHigh: 100, GCLow: 100, // the tests do not control the real disk
		Event: func(uid, reason, message string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, strings.Join([]string{uid, reason, message}, " "))
		},
	}
	for _, c := range change {
		c(&w.o)
	}
	w.open()
	return w
}

// open opens the store, as an agent does when it restarts.
func (w *world) open() {
	w.t.Helper()
	s, err := New(w.o)
	if err != nil {
		w.t.Fatal(err)
	}
	s.retryWait = 0 // the clock stands still
	w.Store = s
	w.t.Cleanup(func() { s.Close() })
}

// settle calls Get until the pull is over.
func (w *world) settle(req host.ImageRequest) (host.Image, error) {
	w.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		img, err := w.Get(w.t.Context(), req)
		var pulling *host.Pulling
		if !errors.As(err, &pulling) {
			return img, err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			w.t.Fatalf("%s: got %v for 30 s, want it to end", req.Reference, pulling)
		}
	}
}

func (w *world) want(req host.ImageRequest) host.Image {
	w.t.Helper()
	img, err := w.settle(req)
	if err != nil {
		w.t.Fatalf("%s: %v", req.Reference, err)
	}
	return img
}

func (w *world) wantFailed(req host.ImageRequest, texts ...string) *host.PullFailed {
	w.t.Helper()
	img, err := w.settle(req)
	var failed *host.PullFailed
	if !errors.As(err, &failed) {
		w.t.Fatalf("%s: got %v %v, want a failed pull", req.Reference, img, err)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			w.t.Errorf("%s: got %q, want %q in it", req.Reference, err, text)
		}
	}
	w.wantClean()
	return failed
}

// wantClean checks that the store has no half-written files. It waits a moment,
// because the index may just be being written.
func (w *world) wantClean() {
	w.t.Helper()
	half := func() (out []string) {
		for _, name := range w.files() {
			if strings.HasPrefix(name, tempPrefix) || strings.HasPrefix(name, ".flatten-") {
				out = append(out, name)
			}
		}
		return out
	}
	for deadline := time.Now().Add(10 * time.Second); len(half()) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Errorf("store: got %v, want nothing half written", half())
			return
		}
	}
}

func (w *world) files() (names []string) {
	w.t.Helper()
	entries, err := os.ReadDir(w.o.Dir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (w *world) archives() (n int) {
	for _, name := range w.files() {
		if storedName.MatchString(name) {
			n++
		}
	}
	return n
}

// request returns a request for a reference in the world's registry.
func (w *world) request(ref, uid string) host.ImageRequest {
	return host.ImageRequest{Reference: w.reg.host() + "/" + ref, For: uid}
}

// newImage returns an image with a layer for each content, each in its own
// file.
func newImage(t testing.TB, arch string, contents ...string) v1.Image {
	t.Helper()
	var layers []v1.Layer
	for i, content := range contents {
		data := newTar(t, map[string]string{fmt.Sprintf("file-%d", i): content})
		// Cache the compressed bytes: the registry and the pull read them
		// several times.
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, tarball.WithCompressedCaching)
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, l)
	}
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Config.Cmd = "linux", arch, []string{"/bin/sh"}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

func newTar(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// noise returns text that gzip hardly compresses.
func noise(seed byte, n int) string {
	b := make([]byte, n)
	x := uint32(seed) + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return string(b)
}

// wantImage reads the archive as the guest does and compares all of it.
func wantImage(t *testing.T, path string, want v1.Image) {
	t.Helper()
	got, err := tarball.ImageFromPath(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	gotConfig, wantConfig := configOf(t, got), configOf(t, want)
	if ids := gotConfig.RootFS.DiffIDs; len(ids) != 1 || len(gotConfig.History) != 1 {
		t.Errorf("%s: got layers %v and history %v, want one of each", path, ids, gotConfig.History)
	}
	gotConfig.RootFS, gotConfig.History = wantConfig.RootFS, wantConfig.History
	if diff := cmp.Diff(wantConfig, gotConfig); diff != "" {
		t.Errorf("%s: config (-want +got)\n%s", path, diff)
	}
	if diff := cmp.Diff(contentsOf(t, want), contentsOf(t, got)); diff != "" {
		t.Errorf("%s: files (-want +got)\n%s", path, diff)
	}
	if err := validate.Image(got); err != nil {
		t.Errorf("%s: %v", path, err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != archiveMode {
		t.Errorf("%s: got %v %v, want mode 0644", path, info, err)
	}
}

func configOf(t *testing.T, img v1.Image) *v1.ConfigFile {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return c.DeepCopy()
}

// contentsOf returns the hashes of the image's files by name.
func contentsOf(t *testing.T, img v1.Image) map[string]string {
	t.Helper()
	r := mutate.Extract(img)
	defer r.Close()
	files := map[string]string{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, in); err != nil {
			t.Fatal(err)
		}
		files[h.Name] = fmt.Sprintf("%c %x", h.Typeflag, sum.Sum(nil))
	}
}
