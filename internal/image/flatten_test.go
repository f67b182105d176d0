// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"botbottle.dev/bottle-operator/internal/host"
)

// tarOfHeaders returns a layer in the given order. A regular file's content is
// its name and the layer's number.
func tarOfHeaders(t *testing.T, layer int, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content = fmt.Sprint(h.Name, layer)
		}
		h.Mode, h.Size = 0o755, int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
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

func reg(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
func dir(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name + "/"} }

// wildLayers are layers that smolvm's own flattening gets wrong. wildTree is what
// docker run shows of them.
func wildLayers(t *testing.T) [][]byte {
	return [][]byte{
		tarOfHeaders(t, 1, dir("etc"), dir("etc/app"), reg("etc/app/a"), dir("bin"), reg("bin/x"),
			tar.Header{Typeflag: tar.TypeLink, Name: "bin/y", Linkname: "bin/x"}, reg("gone"), tar.Header{Typeflag: tar.TypeLink, Name: "kept", Linkname: "gone"}),
		tarOfHeaders(t, 2, dir("etc"), dir("etc/app"), reg("etc/app/.wh..wh..opq"), reg("etc/app/b"), dir("bin"), reg("bin/x")),
		tarOfHeaders(t, 3, reg(".wh.gone"), tar.Header{Typeflag: tar.TypeReg, Name: "ping", PAXRecords: map[string]string{"SCHILY.xattr.security.capability": netBindService}}),
	}
}

const netBindService = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

var wildTree = map[string]string{
	"etc/": "", "etc/app/": "", "etc/app/b": "etc/app/b2", "bin/": "", "bin/x": "bin/x2", "bin/y": "bin/x1", "kept": "gone1", "ping": "ping3 with capabilities",
}

// handedOver returns the tree in the only layer of an archive in the store.
func handedOver(t *testing.T, path string) map[string]string {
	t.Helper()
	raw, err := findEntry(path, "manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	var saved []struct{ Layers []string }
	if err := json.Unmarshal(raw, &saved); err != nil || len(saved) != 1 || len(saved[0].Layers) != 1 {
		t.Fatalf("manifest.json: got %s %v, want an image of one layer", raw, err)
	}
	layer, err := findEntry(path, saved[0].Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	tree := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return tree
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		tree[h.Name] = string(content)
		if h.PAXRecords["SCHILY.xattr.security.capability"] == netBindService {
			tree[h.Name] += " with capabilities"
		}
	}
}

// pack compresses the layers in different ways: as gzip, not at all, as zstd.
func pack(t *testing.T, layers [][]byte) [][]byte {
	t.Helper()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(layers[0]); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{packed.Bytes(), layers[1], e.EncodeAll(layers[2], nil)}
}

// imageOf returns an image of layers, given in both forms.
func imageOf(t *testing.T, packed, plain [][]byte) v1.Image {
	t.Helper()
	var img v1.Image = empty.Image
	var ids []v1.Hash
	var err error
	for i := range packed {
		if img, err = mutate.AppendLayers(img, static.NewLayer(packed[i], types.OCILayer)); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sha256.Sum256(plain[i]))})
	}
	c := configOf(t, img)
	c.OS, c.Architecture, c.RootFS.DiffIDs = "linux", "amd64", ids
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

// savedOf returns the image in docker-save form with the layers as they are.
// The second layer is a link, as docker save writes for layers of several images.
func savedOf(t *testing.T, img v1.Image, layers [][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, content []byte) {
		h.Mode, h.Size = 0o644, int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for i, l := range layers {
		names = append(names, fmt.Sprintf("%d/layer.tar", i))
		if i == 1 {
			add(tar.Header{Typeflag: tar.TypeSymlink, Name: names[i], Linkname: "../elsewhere/layer.tar"}, nil)
			add(reg("elsewhere/layer.tar"), l)
			continue
		}
		add(reg(names[i]), l)
	}
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	add(reg("config.json"), config)
	add(reg("manifest.json"), jsonOf(t, []any{map[string]any{"Config": "config.json", "Layers": names}}))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Wherever an image comes from, and however its layers are compressed, the guest
// gets the tree that docker run shows.
func TestLayersAreFlattened(t *testing.T) {
	layers := wildLayers(t)
	packed := pack(t, layers)
	img := imageOf(t, packed, layers)
	archive := savedOf(t, img, packed)
	w := newWorld(t, func(o *Options) {
		o.Daemon = &Daemon{
			ID: func(context.Context, string) (string, error) { h, err := img.ConfigName(); return h.String(), err },
			Save: func(context.Context, string) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(archive)), nil
			},
		}
	})
	digest := w.reg.push(t, "demo:1", img)
	w.put("a.tar", archive)
	if _, err := ocilayout.Write(filepath.Join(w.o.LocalDir, "layout"), mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img})); err != nil {
		t.Fatal(err)
	}
	w.put("layout.tar", tarOf(t, filepath.Join(w.o.LocalDir, "layout")))
	for name, c := range map[string]struct {
		req    host.ImageRequest
		digest string
	}{
		"registry":        {w.request("demo:1", "a"), digest},
		"archive":         {local("a.tar"), fmt.Sprintf("sha256:%x", sha256.Sum256(archive))},
		"layout":          {local("layout"), digest},
		"layout archived": {local("layout.tar"), digest},
		"Docker Engine":   {host.ImageRequest{Reference: host.DaemonPrefix + "demo:1", For: "a"}, fmt.Sprintf("sha256:%x", sha256.Sum256(archive))},
	} {
		got := w.want(c.req)
		if diff := cmp.Diff(wildTree, handedOver(t, got.Path)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
		if got.Digest != c.digest {
			t.Errorf("%s: digest: got %s, want that of the source, %s", name, got.Digest, c.digest)
		}
	}
	w.wantClean()
}

// What is wrong with an image's layers is said without their words.
func TestLayersThatCannotBeFlattened(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxBytes = 4 << 20 })
	link := tarOfHeaders(t, 1, tar.Header{Typeflag: tar.TypeLink, Name: "StrangeWord", Linkname: "absent"})
	for name, c := range map[string]struct {
		layer []byte
		texts []string
	}{
		"link":  {link, []string{"cannot be unpacked: layer 1 cannot be applied", "hard link"}},
		"text":  {[]byte(strings.Repeat("StrangeWord", 1000)), []string{"layer 1 cannot be applied: it is not a tar archive"}},
		"large": {newTar(t, map[string]string{"StrangeWord": strings.Repeat("x", 5<<20)}), []string{"--image-max-bytes"}},
	} {
		// gzip makes the large one fit into what the manifest may claim.
		img := imageOf(t, pack(t, [][]byte{c.layer, nil, nil})[:1], [][]byte{c.layer})
		w.reg.push(t, name+":1", img)
		w.put(name+".tar", savedOf(t, img, pack(t, [][]byte{c.layer, nil, nil})[:1]))
		for _, req := range []host.ImageRequest{w.request(name+":1", "a"), local(name + ".tar")} {
			if failed := w.wantFailed(req, c.texts...); strings.Contains(failed.Error(), "StrangeWord") {
				t.Errorf("%s: got %q, want nothing that the image says", name, failed)
			}
		}
	}
	// The config of an archive is as binding as that of a registry.
	liar := imageOf(t, [][]byte{link}, [][]byte{[]byte("other")})
	w.put("liar.tar", savedOf(t, liar, [][]byte{newTar(t, nil)}))
	w.wantFailed(local("liar.tar"), "does not match the image config")
}

// An archive of an earlier release has layers. It is made anew at the start, so
// that a node without its registry keeps its images.
func TestUpgradeRemakesArchives(t *testing.T) {
	layers := wildLayers(t)
	img := imageOf(t, layers, layers)
	w := newWorld(t)
	digest := w.reg.push(t, "demo:1", img)
	want := w.want(w.request("demo:1", "a"))
	flat, err := os.ReadFile(want.Path)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	old := filepath.Join(w.o.Dir, digest[7:]+".tar")
	broken := filepath.Join(w.o.Dir, strings.Repeat("a", 64)+".tar")
	if err := os.Remove(want.Path); err != nil {
		t.Fatal(err)
	}
	writeFile(t, old, savedOf(t, img, layers))
	writeFile(t, broken, []byte("no archive"))
	w.reg.resetRequests()
	w.open()
	w.background.Wait()
	req := w.request("demo:1", "a")
	req.Policy = host.PullNever
	got := w.want(req)
	if again, err := os.ReadFile(got.Path); err != nil || got.Path != want.Path || !bytes.Equal(again, flat) {
		t.Errorf("remade: got %v %v, want the archive that a pull makes, %v", got, err, want)
	}
	if n := w.reg.count(""); n != 0 {
		t.Errorf("got %d requests to the registry, want none", n)
	}
	for _, path := range []string{old, broken} {
		if exists(path) {
			t.Errorf("%s: got it still there, want it removed", path)
		}
	}
	w.wantClean()
}

// What a dead agent was unpacking is removed at the next start.
func TestStartRemovesUnpackedLayers(t *testing.T) {
	w := newWorld(t)
	w.Close()
	left := filepath.Join(w.o.Dir, ".flatten-1", "1", "deep", "er")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	w.open()
	w.wantClean()
}

func TestFlatConfig(t *testing.T) {
	id := v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0a", 32)}
	const tail = `"rootfs":{"type":"layers","diff_ids":["sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"]},"history":[{"created_by":"bottle-operator","comment":"all layers in one"}]}`
	for raw, want := range map[string]string{
		`{}`: `{` + tail,
		`{"os":"linux","config":{"Env":["A=<&>\u00fc"],"Labels":{"x":"1"}},"rootfs":{"diff_ids":["sha256:1"]},"created":"2020"}`: `{"os":"linux","config":{"Env":["A=<&>\u00fc"],"Labels":{"x":"1"}},"created":"2020",` + tail,
		`{"RootFS":{"diff_ids":[]},"HISTORY":[1],"history":[],"x":1.50}`:                                                         `{"x":1.50,` + tail,
		`[]`:         "",
		`{"a":`:      "",
		`not json`:   "",
		`{"a":1,"b"`: "",
	} {
		got, err := flatConfig([]byte(raw), id)
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %s, %v, want %s", raw, got, err, want)
		}
	}
	var many strings.Builder
	for i := range maxConfigKeys + 1 {
		fmt.Fprintf(&many, `,"%d":0`, i)
	}
	if _, err := flatConfig([]byte("{"+many.String()[1:]+"}"), id); err == nil {
		t.Errorf("more than %d fields: got no error", maxConfigKeys)
	}
}
