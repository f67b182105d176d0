// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/klauspost/compress/zstd"

	"botbottle.dev/bottle-operator/hack/internal/imagetar"
	"botbottle.dev/bottle-operator/internal/sparsefile"
)

func testRelease() release {
	return release{
		version: "1.2.3+dirty", revision: strings.Repeat("ab", 20), created: time.Unix(1700000000, 0).UTC(), archive: "amd64",
		platforms: []v1.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}},
	}
}

func testProduct(t *testing.T, r release, contents layers, about ...component) *product {
	t.Helper()
	p := &product{name: "sample", version: r.version, about: about}
	for _, platform := range r.platforms {
		one, err := newPlatformImage(platform, contents, v1.Config{User: "65532:65532", Labels: labels(r, nil)}, r)
		if err != nil {
			t.Fatal(err)
		}
		p.platforms = append(p.platforms, one)
	}
	if err := p.setIndex(labels(r, nil)); err != nil {
		t.Fatal(err)
	}
	return p
}

// unpack returns the headers and contents of a tar, by name without a slash at the end.
func unpack(t *testing.T, r io.Reader) (map[string]*tar.Header, map[string][]byte) {
	t.Helper()
	headers, contents := map[string]*tar.Header{}, map[string][]byte{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		n := strings.TrimSuffix(h.Name, "/")
		if headers[n] != nil {
			t.Errorf("%s is in the image twice", n)
		}
		headers[n] = h
		if contents[n], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLayer(t *testing.T) {
	when := time.Unix(1600000000, 0)
	layer, err := newLayer([]imagetar.File{
		imagetar.Folder("a/b", 0o700),
		imagetar.Regular("a/b/c/program", 0o755, []byte("code")),
		{Name: "a/link", Kind: tar.TypeSymlink, Mode: 0o777, Link: "b/c/program", ModTime: when},
		imagetar.Regular("a/b/c/data", 0o644, nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	headers, contents := unpack(t, r)
	type found struct {
		Kind byte
		Mode int64
		Link string
		Time int64
		UID  int
	}
	got := map[string]found{}
	for n, h := range headers {
		got[n] = found{h.Typeflag, h.Mode, h.Linkname, h.ModTime.Unix(), h.Uid}
	}
	want := map[string]found{
		"a": {tar.TypeDir, 0o755, "", 0, 0}, "a/b": {tar.TypeDir, 0o700, "", 0, 0}, "a/b/c": {tar.TypeDir, 0o755, "", 0, 0},
		"a/b/c/program": {tar.TypeReg, 0o755, "", 0, 0}, "a/b/c/data": {tar.TypeReg, 0o644, "", 0, 0},
		"a/link": {tar.TypeSymlink, 0o777, "b/c/program", when.Unix(), 0},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if got := string(contents["a/b/c/program"]); got != "code" {
		t.Errorf("content: got %q", got)
	}
}

// TestSBOMNamesModules compares the SBOM of an image that has this very test's
// executable with what "go version -m" says about it.
func TestSBOMNamesModules(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	r := testRelease()
	r.platforms = r.platforms[:1]
	p := testProduct(t, r, layers{{imagetar.Regular("data", 0o644, []byte("no program"))}, {imagetar.Regular("bin/program", 0o755, content)}})
	wantModules(t, sbomOf(t, p, r), "./bin/program", self, 1)
}

func sbomOf(t *testing.T, p *product, r release) spdxDocument {
	t.Helper()
	content, err := newSBOM(p, r)
	if err != nil {
		t.Fatal(err)
	}
	return decodeSBOM(t, content)
}

func decodeSBOM(t *testing.T, content []byte) spdxDocument {
	t.Helper()
	var document spdxDocument
	if err := json.Unmarshal(content, &document); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{document.ID: true}
	for _, p := range document.Packages {
		if ids[p.ID] {
			t.Errorf("%s is there twice", p.ID)
		}
		ids[p.ID] = true
	}
	for _, f := range document.Files {
		if ids[f.ID] {
			t.Errorf("%s is there twice", f.ID)
		}
		ids[f.ID] = true
	}
	for _, r := range document.Relationships {
		if !ids[r.From] || !ids[r.To] {
			t.Errorf("%+v names an element that is not there", r)
		}
	}
	return document
}

// wantModules reports each module that "go version -m" names for the program at path
// but the SBOM does not name for each of count files called file.
func wantModules(t *testing.T, document spdxDocument, file, path string, count int) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "version", "-m", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]string{}
	for _, p := range document.Packages {
		packages[p.ID] = p.Name + "@" + p.Version
	}
	found := 0
	for _, f := range document.Files {
		if f.Name != file {
			continue
		}
		found++
		linked := map[string]bool{}
		for _, r := range document.Relationships {
			if r.From == f.ID {
				linked[packages[r.To]] = true
			}
		}
		modules := 0
		for line := range strings.Lines(string(out)) {
			field := strings.Fields(line)
			if len(field) < 3 || (field[0] != "dep" && field[0] != "=>") {
				continue
			}
			modules++
			if !linked[field[1]+"@"+field[2]] {
				t.Errorf("the SBOM does not name %s %s for %s", field[1], field[2], file)
			}
		}
		version := strings.TrimPrefix(strings.Fields(strings.SplitN(string(out), "\n", 2)[0])[1], "go")
		if !linked["stdlib@"+version] {
			t.Errorf("the SBOM does not name Go %s for %s", version, file)
		}
		if modules < 1 && !strings.HasSuffix(file, "bottle-install") && !strings.HasSuffix(file, "bottle-guest") {
			t.Errorf("go version -m names no module of %s:\n%s", path, out)
		}
	}
	if found != count {
		t.Errorf("the SBOM has %d files %s, want %d", found, file, count)
	}
}

// testTemplate is the disk in the wheel of testWheel.
var testTemplate = strings.Repeat("\x00", 1<<20) + "data" + strings.Repeat("\x00", 1<<20)

// testWheel writes a small wheel, laid out like the real one.
func testWheel(t *testing.T, guest []tar.Header) string {
	t.Helper()
	var rootfs bytes.Buffer
	compressed, err := zstd.NewWriter(&rootfs)
	if err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(compressed)
	for _, h := range guest {
		content := ""
		if h.Name == "./lib/apk/db/installed" {
			content = "P:musl\nV:1.2.4_git1-r4\nA:x86_64\nL:MIT\n\nP:zlib\nV:1.3-r2\nA:x86_64\nL:Zlib\n\n"
		}
		if h.Name == "./etc/alpine-release" {
			content = "3.19.0\n"
		}
		h.Size = int64(len(content))
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), compressed.Close()); err != nil {
		t.Fatal(err)
	}
	var template bytes.Buffer
	zeros, err := zstd.NewWriter(&template)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := zeros.Write([]byte(testTemplate)); err != nil {
		t.Fatal(err)
	}
	if err := zeros.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "smolmachines-9.9.9-cp39-abi3-manylinux_2_28_x86_64.whl")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	zw := zip.NewWriter(f)
	for _, one := range []struct{ name, content string }{
		{"smol/smol-vmm", "vmm"},
		{"smol/machine.py", "python"},
		{"smol/libkrun.so", "krun"},
		{"smol/libkrunfw.so.5", "krunfw"},
		{"smol/agent-rootfs.tar.zst", rootfs.String()},
		{"smol/storage-template.ext4.zst", template.String()},
		{"smol/licenses/libkrun-LICENSE.txt", "licence"},
		{"smol/THIRD_PARTY_NOTICES.md", "## libkrun\n- License: Apache-2.0\n- Source: https://example.test/libkrun/tree/" + strings.Repeat("6d", 20) + "\n"},
		{"smolmachines-9.9.9.dist-info/sboms/a.cyclonedx.json", `{"components":[{"name":"serde","version":"1.0.1","purl":"pkg:cargo/serde@1.0.1?download_url=file:///build"}]}`},
	} {
		w, err := zw.Create(one.name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(one.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(zw.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWheel(t *testing.T) {
	cache := t.TempDir()
	w, err := readWheel(testWheel(t, []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700},
		{Name: "./bin/sh", Typeflag: tar.TypeSymlink, Linkname: "busybox"},
		{Name: "./bin/tool", Typeflag: tar.TypeReg, Mode: 0o700, Uid: 1001},
		{Name: "./bin/same", Typeflag: tar.TypeLink, Linkname: "./bin/tool", Mode: 0o700},
		{Name: "./etc/shadow", Typeflag: tar.TypeReg, Mode: 0o600},
		{Name: "./etc/alpine-release", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "./lib/apk/db/installed", Typeflag: tar.TypeReg, Mode: 0o644},
	}), "9.9.9", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := w.entries(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	type found struct {
		Kind byte
		Mode int64
		Link string
	}
	got := map[string]found{}
	for _, e := range entries {
		got[e.Name] = found{e.Kind, e.Mode, e.Link}
	}
	const p, root = "payload/smolvm/", "payload/smolvm/agent-rootfs"
	want := map[string]found{
		p + "smolvm": {tar.TypeReg, 0o755, ""}, p + "lib/libkrun.so": {tar.TypeReg, 0o644, ""}, p + "lib/libkrunfw.so.5": {tar.TypeReg, 0o644, ""},
		p + "storage-template.ext4.sparse": {tar.TypeReg, 0o644, ""},
		root:                               {tar.TypeDir, 0o755, ""}, root + "/bin/sh": {tar.TypeSymlink, 0o777, "busybox"},
		root + "/bin/tool": {tar.TypeReg, 0o755, ""}, root + "/bin/same": {tar.TypeLink, 0o755, root + "/bin/tool"},
		root + "/etc/shadow": {tar.TypeReg, 0o644, ""}, root + "/etc/alpine-release": {tar.TypeReg, 0o644, ""},
		root + "/lib/apk/db/installed": {tar.TypeReg, 0o644, ""},
		"licenses/libkrun-LICENSE.txt": {tar.TypeReg, 0o644, ""}, "licenses/THIRD_PARTY_NOTICES.md": {tar.TypeReg, 0o644, ""},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}

	for range 2 { // the second time from the cache
		packed, err := w.templates(t.Context(), cache)
		if err != nil || len(packed) != 1 {
			t.Fatalf("got %d templates, %v, want 1", len(packed), err)
		}
		if got := unpackSparse(t, packed[0].Content); got != testTemplate || len(packed[0].Content) > 10_000 {
			t.Errorf("the template, in %d bytes, is unpacked to %d other bytes than before", len(packed[0].Content), len(got))
		}
	}
	kept, err := os.ReadDir(cache)
	if err != nil || len(kept) != 1 {
		t.Fatalf("got %d files in the cache (%v), want 1", len(kept), err)
	}
	if err := os.WriteFile(filepath.Join(cache, kept[0].Name()), []byte("an older format\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := w.templates(t.Context(), cache)
	if err != nil || unpackSparse(t, again[0].Content) != testTemplate {
		t.Errorf("a cached template in another format was used (%v)", err)
	}

	about, err := w.components(entries)
	if err != nil {
		t.Fatal(err)
	}
	r := testRelease()
	r.platforms = r.platforms[:1]
	document := sbomOf(t, testProduct(t, r, layers{entries}, about...), r)
	var names []string
	for _, p := range document.Packages {
		line := p.Name + " " + p.Version
		for _, c := range p.Checksums {
			if p.FileName != "" {
				line += " " + p.FileName + " " + c.Value[:8]
			}
		}
		for _, e := range p.ExternalReference {
			if !strings.HasPrefix(e.Locator, "pkg:oci/") {
				line += " " + e.Locator
			}
		}
		names = append(names, line)
	}
	revision := strings.Repeat("6d", 20)
	for _, want := range []string{
		"smolmachines 9.9.9 " + filepath.Base(w.path) + " " + sha256Hex(w.content)[:8] + " pkg:pypi/smolmachines@9.9.9?file_name=" + filepath.Base(w.path),
		"libkrun " + revision + " libkrun.so " + sha256Hex([]byte("krun"))[:8] + " pkg:generic/libkrun@" + revision + "?vcs_url=git%2Bhttps://example.test/libkrun%40" + revision,
		"libkrunfw  libkrunfw.so.5 " + sha256Hex([]byte("krunfw"))[:8],
		"musl 1.2.4_git1-r4 pkg:apk/alpine/musl@1.2.4_git1-r4?arch=x86_64&distro=alpine-3.19.0",
		"zlib 1.3-r2 pkg:apk/alpine/zlib@1.3-r2?arch=x86_64&distro=alpine-3.19.0",
		"serde 1.0.1 pkg:cargo/serde@1.0.1",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("the SBOM does not name %q but\n%s", want, strings.Join(names, "\n"))
		}
	}
	if got, want := len(document.Files), len(want)-3; got != want { // a folder and two links
		t.Errorf("the SBOM has %d files, want %d", got, want)
	}
}

func unpackSparse(t *testing.T, content []byte) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := sparsefile.Decode(t.Context(), f, bytes.NewReader(content), sparsefile.Limits{Size: 1 << 30, Data: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	unpacked, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(unpacked)
}

func TestWheelRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		header tar.Header
		want   string
	}{
		"a file outside": {tar.Header{Name: "../escape", Typeflag: tar.TypeReg}, "outside"},
		"a device":       {tar.Header{Name: "dev/null", Typeflag: tar.TypeChar}, "neither a file"},
	} {
		w, err := readWheel(testWheel(t, []tar.Header{tt.header}), "9.9.9", "amd64")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.entries(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, tt.want)
		}
	}
}

func TestPush(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	server := httptest.NewServer(registry.New())
	defer server.Close()
	r := testRelease()
	out, err := newOutput(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer out.discard()
	p := testProduct(t, r, layers{{imagetar.Regular("program", 0o755, []byte("code"))}})
	if err := errors.Join(out.add(p, r), out.publish()); err != nil {
		t.Fatal(err)
	}
	reference := strings.TrimPrefix(server.URL, "http://") + "/team/sample:1"
	if err := push(t.Context(), filepath.Join(out.dir, "oci/sample"), reference); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(reference)
	if err != nil {
		t.Fatal(err)
	}
	for _, platform := range r.platforms {
		image, err := remote.Image(tag, remote.WithPlatform(platform))
		if err != nil {
			t.Fatal(err)
		}
		file, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if file.Architecture != platform.Architecture || file.OS != "linux" || file.Config.User != "65532:65532" {
			t.Errorf("image for %s: got %s/%s with user %s", platform, file.OS, file.Architecture, file.Config.User)
		}
		_, contents := unpack(t, mutate.Extract(image))
		if got := string(contents["program"]); got != "code" {
			t.Errorf("program for %s: got %q", platform, got)
		}
	}
	pushed, err := remote.Index(tag)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pushed.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if want, err := p.index.Digest(); err != nil || got != want {
		t.Errorf("digest in the registry: got %s, want %s (%v)", got, want, err)
	}
	for _, bad := range []string{"sample:1", reference[:strings.LastIndex(reference, ":")]} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // nothing may be sent, whatever is accepted
		if err := push(ctx, filepath.Join(out.dir, "oci/sample"), bad); err == nil || !strings.Contains(err.Error(), "want a reference with a registry and a tag") {
			t.Errorf("push to %s: got %v, want it refused", bad, err)
		}
	}
}

// TestOutputReplaced checks that a second build replaces the first one's images whole.
func TestOutputReplaced(t *testing.T) {
	dir := t.TempDir()
	r := testRelease()
	for _, content := range []string{"old", "new"} {
		out, err := newOutput(dir)
		if err != nil {
			t.Fatal(err)
		}
		p := testProduct(t, r, layers{{imagetar.Regular("program", 0o755, []byte(content))}})
		if err := errors.Join(out.add(p, r), out.publish()); err != nil {
			t.Fatal(err)
		}
		out.discard()
	}
	index, err := layoutIndex(filepath.Join(dir, "oci/sample"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, contents := unpack(t, mutate.Extract(image)); string(contents["program"]) != "new" {
		t.Errorf("program: got %q, want the new one", contents["program"])
	}
	var names []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{"oci", "sample.spdx.json", "sample.tar"}, names); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	blobs, err := layout.FromPath(filepath.Join(dir, "oci/sample"))
	if err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(string(blobs), "blobs/sha256"))
	if err != nil || len(left) != 6 { // the index, and a manifest and a config for each platform with one common layer
		t.Errorf("blobs: got %d (%v), want 6", len(left), err)
	}
}
