// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/sparsefile"
	"botbottle.dev/bottle-operator/test/require"
)

const (
	testVersion  = "1.2.3-test"
	testRevision = "0123456789abcdef0123456789abcdef01234567"
	testCreated  = "1700000000"
	testSmolvm   = "1.32.2"
)

// TestImages builds the images of this tree for this machine, once in place and once
// from a copy of the tree, and examines them.
func TestImages(t *testing.T) {
	require.Full(t, "builds all programs and needs the wheel of smolvm")
	testImages(t, runtime.GOARCH)
}

// TestLongImages does the same for all architectures.
func TestLongImages(t *testing.T) {
	require.Long(t)
	testImages(t, "amd64", "arm64")
}

func testImages(t *testing.T, architectures ...string) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	wheels := filepath.Join(root, "bin/wheels")
	for _, arch := range architectures {
		if out, err := exec.CommandContext(t.Context(), filepath.Join(root, "hack/smolvm-real/wheel"), testSmolvm, arch, wheels).CombinedOutput(); err != nil {
			require.Unmet(t, fmt.Sprintf("the wheel of smolvm: %v\n%s", err, out))
		}
	}
	// The builder runs as users run it, and not under the race detector.
	builder := filepath.Join(t.TempDir(), "image")
	mustRun(t, root, "", "go", "build", "-o", builder, "./hack/image")

	var platforms []string
	for _, arch := range architectures {
		platforms = append(platforms, "linux/"+arch)
	}
	args := func(source, out string) []string {
		return []string{
			builder, "build", "-source", source, "-version", testVersion, "-revision", testRevision, "-created", testCreated,
			"-smolvm", testSmolvm, "-wheels", wheels, "-archive", architectures[0], "-platforms", strings.Join(platforms, ","), out,
		}
	}
	first, second, elsewhere := filepath.Join(t.TempDir(), "first"), filepath.Join(t.TempDir(), "second"), filepath.Join(t.TempDir(), "a copy of the tree")
	copyTree(t, root, elsewhere)
	mustRun(t, root, "022", args(".", first)...)
	mustRun(t, filepath.Dir(elsewhere), "077", args(elsewhere, second)...)

	for _, name := range []string{"bottle-operator.tar", "bottle-smolvm.tar", "bundle.tar", "bottle-operator.spdx.json", "bottle-smolvm.spdx.json"} {
		if !bytes.Equal(readFile(t, filepath.Join(first, name)), readFile(t, filepath.Join(second, name))) {
			t.Errorf("two builds gave different %s", name)
		}
	}
	for _, name := range []string{"bottle-operator", "bottle-smolvm"} {
		if a, b := layoutDigest(t, first, name), layoutDigest(t, second, name); a != b {
			t.Errorf("two builds of %s gave the digests %s and %s", name, a, b)
		}
		wantValid(t, first, name, map[string]string{"bottle-operator": testVersion, "bottle-smolvm": testSmolvm}[name])
	}
	for _, arch := range architectures {
		t.Run("operator "+arch, func(t *testing.T) { examineOperator(t, first, arch, len(architectures)) })
		t.Run("smolvm "+arch, func(t *testing.T) { examineSmolvm(t, root, first, arch, len(architectures)) })
	}
}

// mustRun runs a command in dir, with a umask if one is given.
func mustRun(t *testing.T, dir, umask string, args ...string) string {
	t.Helper()
	if umask != "" {
		args = append([]string{"sh", "-c", "umask " + umask + ` && exec "$@"`, "sh"}, args...)
	}
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// copyTree copies the files of the repository. The copies are newer.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	list := mustRun(t, from, "", "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	for name := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
		info, err := os.Lstat(filepath.Join(from, name))
		if os.IsNotExist(err) {
			continue // deleted, but not yet in the index
		}
		if err != nil {
			t.Fatal(err)
		}
		if !info.Mode().IsRegular() {
			continue
		}
		target := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, readFile(t, filepath.Join(from, name)), info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func layoutDigest(t *testing.T, dir, name string) v1.Hash {
	t.Helper()
	index, err := layoutIndex(filepath.Join(dir, "oci", name))
	if err != nil {
		t.Fatal(err)
	}
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// wantValid checks every digest and size in the archive and the layout, and the names
// by which "docker load" and "ctr images import" know them.
func wantValid(t *testing.T, dir, product, tag string) {
	t.Helper()
	index, err := layoutIndex(filepath.Join(dir, "oci", product))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Errorf("layout of %s: %v", product, err)
	}
	root, err := layout.ImageIndexFromPath(filepath.Join(dir, "oci", product))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := root.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{
		"io.containerd.image.name":          "docker.io/library/" + product + ":" + tag,
		"org.opencontainers.image.ref.name": tag,
	}, manifest.Manifests[0].Annotations); diff != "" {
		t.Errorf("names of the layout (-want +got):\n%s", diff)
	}
	reference, err := name.NewTag(product + ":" + tag)
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, product+".tar")
	image, err := tarball.ImageFromPath(archive, &reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(image); err != nil {
		t.Errorf("archive of %s: %v", product, err)
	}
	_, contents := unpack(t, bytes.NewReader(readFile(t, archive)))
	var saved []struct{ RepoTags []string }
	if err := json.Unmarshal(contents["manifest.json"], &saved); err != nil {
		t.Fatal(err)
	}
	if len(saved) != 1 || !slices.Equal(saved[0].RepoTags, []string{product + ":" + tag}) {
		t.Errorf("names in the archive: got %+v, want only %s:%s", saved, product, tag)
	}
}

func examineOperator(t *testing.T, dir, arch string, platforms int) {
	image := platformOf(t, dir, "bottle-operator", arch)
	wantConfig(t, image, arch, v1.Config{
		User: "65532:65532", Entrypoint: []string{"/bottle-operator"}, WorkingDir: "/", Env: []string{"BOTTLE_INSTALL_VERSION=" + testVersion},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "Bottle Operator",
			"org.opencontainers.image.description": "Manager, node agent, bundle and guest program of the Bottle Operator",
			"org.opencontainers.image.vendor":      "Bottle Operator",
			"org.opencontainers.image.version":     testVersion,
			"org.opencontainers.image.revision":    testRevision,
			"org.opencontainers.image.created":     "2023-11-14T22:13:20Z",
			"org.opencontainers.image.licenses":    "Apache-2.0",
		},
	})
	headers, contents := unpack(t, mutate.Extract(image))
	var files []string
	for name, h := range headers {
		if h.Typeflag != tar.TypeDir {
			files = append(files, fmt.Sprintf("%s %o %d:%d", name, h.Mode, h.Uid, h.Gid))
		}
	}
	slices.Sort(files)
	if diff := cmp.Diff([]string{
		"bottle-bundle 755 0:0", "bottle-guest 755 0:0", "bottle-install 755 0:0", "bottle-operator 755 0:0",
		"etc/group 644 0:0", "etc/passwd 644 0:0", "etc/ssl/certs/ca-certificates.crt 644 0:0",
		"licenses/LICENSE 644 0:0",
	}, files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if !strings.Contains(string(contents["etc/passwd"]), ":65532:65532:") {
		t.Errorf("/etc/passwd: got %q, want the image's user in it", contents["etc/passwd"])
	}
	if got := bytes.Count(contents["etc/ssl/certs/ca-certificates.crt"], []byte("BEGIN CERTIFICATE")); got < 100 {
		t.Errorf("got %d authorities, want all public ones", got)
	}
	document := decodeSBOM(t, readFile(t, filepath.Join(dir, "bottle-operator.spdx.json")))
	for _, p := range programs {
		path := filepath.Join(t.TempDir(), p.name)
		if err := os.WriteFile(path, contents[p.name], 0o755); err != nil {
			t.Fatal(err)
		}
		wantModules(t, document, "./"+p.name, path, platforms)
		wantStatic(t, path)
		if p.stamped && arch == runtime.GOARCH {
			if out := mustRun(t, t.TempDir(), "", path, "version"); !strings.Contains(out, testVersion) || !strings.Contains(out, testRevision) {
				t.Errorf("bottle-operator version: got %q, want %s and %s", out, testVersion, testRevision)
			}
		}
	}
	wantFiles(t, document, headers, contents, arch)
}

// examineSmolvm also compares the image with what hack/smolvm-real/fetch made of the
// wheel, if it is there.
func examineSmolvm(t *testing.T, root, dir, arch string, platforms int) {
	image := platformOf(t, dir, "bottle-smolvm", arch)
	wantConfig(t, image, arch, v1.Config{
		User: "0:0", Entrypoint: []string{"/bottle-install"}, WorkingDir: "/", Env: []string{"BOTTLE_INSTALL_VERSION=" + testSmolvm},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "smolvm for the Bottle Operator",
			"org.opencontainers.image.description": "The files of smolvm's wheel, and the program that installs them on a node",
			"org.opencontainers.image.vendor":      "Bottle Operator",
			"org.opencontainers.image.version":     testSmolvm,
			"org.opencontainers.image.revision":    testRevision,
			"org.opencontainers.image.created":     "2023-11-14T22:13:20Z",
			"org.opencontainers.image.licenses":    "Apache-2.0 AND LGPL-2.1-only AND GPL-2.0-only",
		},
	})
	headers, contents := unpack(t, mutate.Extract(image))
	for _, name := range []string{
		"bottle-install", "payload/smolvm/smolvm", "payload/smolvm/lib/libkrun.so", "payload/smolvm/lib/libkrunfw.so.5",
		"payload/smolvm/storage-template.ext4.sparse", "payload/smolvm/overlay-template.ext4.sparse",
		"payload/smolvm/agent-rootfs/lib/apk/db/installed", "licenses/linux-GPL-2.0-only.txt", "licenses/THIRD_PARTY_NOTICES.md",
	} {
		if h := headers[name]; h == nil || h.Typeflag != tar.TypeReg || h.Size == 0 {
			t.Errorf("%s is missing or empty", name)
		}
	}
	document := decodeSBOM(t, readFile(t, filepath.Join(dir, "bottle-smolvm.spdx.json")))
	path := filepath.Join(t.TempDir(), "bottle-install")
	if err := os.WriteFile(path, contents["bottle-install"], 0o755); err != nil {
		t.Fatal(err)
	}
	wantModules(t, document, "./bottle-install", path, platforms)
	wantFiles(t, document, headers, contents, arch)
	named := map[string]string{}
	for _, p := range document.Packages {
		named[p.Name] += " " + p.Version + " "
	}
	for name, version := range map[string]string{"smolmachines": testSmolvm, "libkrun": "6d17e58286fd3af79fcdfd358ac094b32e6acf18", "libkrunfw": "8ba5fe2219b5c407ce1824d1c2dcf39adff84d8e", "musl": "1.2.4_git20230717-r4", "smolvm": testSmolvm} {
		if !strings.Contains(named[name], " "+version+" ") {
			t.Errorf("the SBOM names the versions %q of %s, want %s", named[name], name, version)
		}
	}
	fetched := filepath.Join(root, "bin/smolvm", testSmolvm)
	if _, err := os.Stat(filepath.Join(fetched, ".stamp")); err == nil && arch == "amd64" {
		wantSameAsFetched(t, fetched, headers, contents)
	}
}

// wantSameAsFetched compares the payload with an installed smolvm: names, kinds, modes,
// links and contents.
func wantSameAsFetched(t *testing.T, fetched string, headers map[string]*tar.Header, contents map[string][]byte) {
	seen := map[string]bool{}
	err := filepath.WalkDir(fetched, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(fetched, path)
		if err != nil || name == "." || name == ".lock" || name == ".stamp" {
			return err
		}
		if strings.HasSuffix(name, "-template.ext4") {
			packed := "payload/smolvm/" + name + sparsefile.Suffix
			seen[packed] = true
			wantSameDisk(t, path, contents[packed])
			return nil
		}
		image := "payload/smolvm/" + name
		seen[image] = true
		h := headers[image]
		if h == nil {
			t.Errorf("%s is not in the image", name)
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.Type()&os.ModeSymlink != 0 {
			if target, err := os.Readlink(path); err != nil || h.Typeflag != tar.TypeSymlink || h.Linkname != target {
				t.Errorf("%s: got a link to %q, want to %q (%v)", name, h.Linkname, target, err)
			}
			return nil
		}
		if got := h.FileInfo().Mode(); got != info.Mode() {
			t.Errorf("%s: got mode %s, want %s", name, got, info.Mode())
		}
		content := contents[image]
		if h.Typeflag == tar.TypeLink {
			content = contents[h.Linkname]
		}
		if info.Mode().IsRegular() && !bytes.Equal(content, readFile(t, path)) {
			t.Errorf("%s: the content differs", name)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for name := range headers {
		if strings.HasPrefix(name, "payload/smolvm/") && !seen[name] {
			t.Errorf("%s is in the image, but not installed", name)
		}
	}
}

// recorder keeps what sparsefile.Decode writes.
type recorder struct {
	pieces map[int64]string
	size   int64
}

func (r *recorder) WriteAt(p []byte, at int64) (int, error) {
	r.pieces[at] = string(p)
	return len(p), nil
}

func (r *recorder) Truncate(size int64) error {
	r.size = size
	return nil
}

// wantSameDisk compares a packed disk with an unpacked one, without reading the holes.
func wantSameDisk(t *testing.T, path string, packed []byte) {
	t.Helper()
	got := recorder{pieces: map[int64]string{}}
	if err := sparsefile.Decode(t.Context(), &got, bytes.NewReader(packed), sparsefile.Limits{Size: 64 << 30, Data: 64 << 20}); err != nil {
		t.Errorf("unpack %s: %v", filepath.Base(path), err)
		return
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const block = 4096
	want := recorder{pieces: map[int64]string{}}
	want.size, err = f.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	for start := int64(0); ; {
		if start, err = f.Seek(start, unix.SEEK_DATA); err != nil {
			break // no more data
		}
		end, err := f.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			t.Fatal(err)
		}
		for at := start / block * block; at < end; at += block {
			b := make([]byte, block)
			n, err := f.ReadAt(b, at)
			if err != nil && err != io.EOF {
				t.Fatal(err)
			}
			if strings.Trim(string(b[:n]), "\x00") != "" {
				want.pieces[at] = string(b[:n])
			}
		}
		start = end
	}
	if len(want.pieces) == 0 || got.size != want.size || !maps.Equal(got.pieces, want.pieces) {
		t.Errorf("%s: got %d bytes with %d blocks of data, want %d with %d, or their contents differ",
			filepath.Base(path), got.size, len(got.pieces), want.size, len(want.pieces))
	}
}

func platformOf(t *testing.T, dir, name, arch string) v1.Image {
	t.Helper()
	index, err := layoutIndex(filepath.Join(dir, "oci", name))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range manifest.Manifests {
		if m.Platform != nil && m.Platform.OS == "linux" && m.Platform.Architecture == arch {
			image, err := index.Image(m.Digest)
			if err != nil {
				t.Fatal(err)
			}
			return image
		}
	}
	t.Fatalf("%s has no image for linux/%s", name, arch)
	return nil
}

func wantConfig(t *testing.T, image v1.Image, arch string, want v1.Config) {
	t.Helper()
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, file.Config); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	if file.OS != "linux" || file.Architecture != arch || !file.Created.Equal(time.Unix(1700000000, 0)) {
		t.Errorf("got an image for %s/%s of %s", file.OS, file.Architecture, file.Created)
	}
}

// wantFiles checks that the SBOM has every file of the image, with its digest.
func wantFiles(t *testing.T, document spdxDocument, headers map[string]*tar.Header, contents map[string][]byte, arch string) {
	t.Helper()
	inImage := map[string]bool{}
	for _, r := range document.Relationships {
		if r.From == "SPDXRef-Image-linux-"+arch && r.Type == "CONTAINS" {
			inImage[r.To] = true
		}
	}
	sums := map[string]string{}
	for _, f := range document.Files {
		if inImage[f.ID] {
			sums[f.Name] = f.Checksums[1].Value
		}
	}
	files := 0
	for name, h := range headers {
		if h.Typeflag != tar.TypeReg {
			continue
		}
		files++
		if got, want := sums["./"+name], sha256Hex(contents[name]); got != want {
			t.Errorf("SHA-256 of %s in the SBOM: got %q, want %s", name, got, want)
		}
	}
	if len(sums) != files {
		t.Errorf("the SBOM has %d files of the image for %s, want %d", len(sums), arch, files)
	}
}

// wantStatic checks that the program needs no loader: the image has none.
func wantStatic(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s is dynamically linked", path)
		}
	}
}
