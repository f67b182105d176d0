// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"botbottle.dev/bottle-operator/hack/internal/imagetar"
)

// payload is the folder of the image whose files the installer copies to the node.
const payload = "payload/smolvm/"

// maxWheelFile bounds what one file of a wheel may unpack to, in bytes.
const maxWheelFile = 256 << 20

// smolvmProduct returns the image with the files of smolvm's wheels, laid out as
// hack/smolvm-real/fetch does it, with two differences: the templates of disks are
// packed, because they are sparse files of 20 and 10 GiB, which an image cannot hold;
// and the licences are in /licenses. The installer is taken from
// compiled/ARCHITECTURE.
func smolvmProduct(ctx context.Context, r release, compiled string) (*product, error) {
	own := labels(r, map[string]string{
		"title":       "smolvm for the Bottle Operator",
		"description": "The files of smolvm's wheel, and the program that installs them on a node",
		"version":     r.smolvm,
		// Those of smolvm, libkrun and the programs of its guest.
		"licenses": "Apache-2.0 AND LGPL-2.1-only AND GPL-2.0-only",
	})
	p := &product{name: "bottle-smolvm", version: r.smolvm}
	for _, platform := range r.platforms {
		w, err := openWheel(ctx, r, platform.Architecture)
		if err != nil {
			return nil, err
		}
		entries, err := w.entries(ctx, r.wheels)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(w.path), err)
		}
		program, err := installer.layer(filepath.Join(compiled, platform.Architecture))
		if err != nil {
			return nil, err
		}
		one, err := newPlatformImage(platform, layers{entries, program}, v1.Config{
			User:       "0:0", // it writes to the node's file system
			Entrypoint: []string{"/" + installer.name},
			WorkingDir: "/",
			Env:        []string{installVersion + r.smolvm},
			Labels:     own,
		}, r)
		if err != nil {
			return nil, err
		}
		p.platforms = append(p.platforms, one)
		about, err := w.components(entries)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(w.path), err)
		}
		p.about = append(p.about, about...)
	}
	return p, p.setIndex(own)
}

// wheel is a wheel of smolvm.
type wheel struct {
	path, version, arch string
	content             []byte // of the wheel itself
	files               map[string][]byte
}

// openWheel downloads the pinned wheel, unless it is there, and reads it.
func openWheel(ctx context.Context, r release, arch string) (*wheel, error) {
	script := exec.CommandContext(ctx, filepath.Join(r.source, "hack/smolvm-real/wheel"), r.smolvm, arch, r.wheels)
	script.Stderr = os.Stderr
	out, err := script.Output()
	if err != nil {
		return nil, fmt.Errorf("find the wheel of smolvm %s for %s: %w", r.smolvm, arch, err)
	}
	return readWheel(strings.TrimSpace(string(out)), r.smolvm, arch)
}

func readWheel(file, version, arch string) (*wheel, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	archive, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	w := &wheel{path: file, version: version, arch: arch, content: content, files: map[string][]byte{}}
	for _, f := range archive.File {
		if f.FileInfo().IsDir() {
			continue
		}
		if w.files[f.Name], err = unzip(f); err != nil {
			return nil, fmt.Errorf("read %s in %s: %w", f.Name, file, err)
		}
	}
	return w, nil
}

func unzip(f *zip.File) ([]byte, error) {
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(r, maxWheelFile+1))
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err == nil && len(content) > maxWheelFile {
		err = fmt.Errorf("it has more than %d bytes", maxWheelFile)
	}
	return content, err
}

// names returns the names of the wheel's files below smol/ that match pattern, in order.
func (w *wheel) names(pattern string) []string {
	var names []string
	for _, name := range sortedKeys(w.files) {
		if ok, err := path.Match("smol/"+pattern, name); ok && err == nil {
			names = append(names, name)
		}
	}
	return names
}

func (w *wheel) entries(ctx context.Context, cache string) ([]imagetar.File, error) {
	vmm, ok := w.files["smol/smol-vmm"]
	if !ok {
		return nil, errors.New("it has no smol-vmm")
	}
	entries := []imagetar.File{imagetar.Regular(payload+"smolvm", 0o755, vmm)}
	libraries := w.names("libkrun*.so*")
	if len(libraries) < 2 {
		return nil, fmt.Errorf("it has the libraries %v, want libkrun and libkrunfw", libraries)
	}
	for _, name := range libraries {
		entries = append(entries, imagetar.Regular(payload+"lib/"+path.Base(name), 0o644, w.files[name]))
	}
	templates, err := w.templates(ctx, cache)
	if err != nil {
		return nil, err
	}
	guest, err := w.guest()
	if err != nil {
		return nil, err
	}
	entries = append(append(entries, templates...), guest...)
	for _, name := range append(w.names("licenses/*"), w.names("*NOTICES*")...) {
		entries = append(entries, imagetar.Regular("licenses/"+path.Base(name), 0o644, w.files[name]))
	}
	return entries, nil
}
