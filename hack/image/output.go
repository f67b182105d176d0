// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"botbottle.dev/bottle-operator/internal/bundleimage"
)

// output is a folder of finished images. They are made in a folder beside it and moved
// there at the end, so that no image is ever half written.
type output struct {
	dir     string
	scratch string // for intermediate files
	made    string // what will be moved to dir
	names   []string
}

func newOutput(dir string) (*output, error) {
	if err := os.MkdirAll(filepath.Join(dir, "oci"), 0o755); err != nil {
		return nil, err
	}
	temporary, err := os.MkdirTemp(dir, ".image-")
	if err != nil {
		return nil, err
	}
	o := &output{dir: dir, scratch: filepath.Join(temporary, "scratch"), made: filepath.Join(temporary, "made")}
	for _, folder := range []string{o.scratch, filepath.Join(o.made, "oci")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func (o *output) discard() { _ = os.RemoveAll(filepath.Dir(o.made)) }

// add writes the product's archive, layout and SBOM.
func (o *output) add(p *product, r release) error {
	layoutName := filepath.Join("oci", p.name)
	path, err := layout.Write(filepath.Join(o.made, layoutName), empty.Index)
	if err != nil {
		return err
	}
	// The second annotation is what containerd names an imported image by.
	if err := path.AppendIndex(p.index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": p.tag(),
		"io.containerd.image.name":          "docker.io/library/" + p.name + ":" + p.tag(),
	})); err != nil {
		return err
	}
	o.names = append(o.names, layoutName)
	for _, one := range p.platforms {
		if one.platform.Architecture != r.archive {
			continue
		}
		reference, err := name.NewTag(p.name + ":" + p.tag())
		if err != nil {
			return err
		}
		if err := o.write(p.name+".tar", func(w io.Writer) error { return tarball.Write(reference, one.image, w) }); err != nil {
			return err
		}
	}
	bill, err := newSBOM(p, r)
	if err != nil {
		return fmt.Errorf("list its contents: %w", err)
	}
	digest, err := p.index.Digest()
	if err != nil {
		return err
	}
	fmt.Printf("%s:%s %s\n", p.name, p.tag(), digest)
	return o.write(p.name+".spdx.json", func(w io.Writer) error { _, err := w.Write(bill); return err })
}

// addBundle writes the image that agents make from the operator's bundle.
func (o *output) addBundle(r release) error {
	executable := filepath.Join(o.scratch, r.archive, "bottle-bundle")
	if _, err := os.Stat(executable); errors.Is(err, fs.ErrNotExist) {
		return nil // built for other platforms only
	}
	image, err := bundleimage.New(executable)
	if err != nil {
		return err
	}
	fmt.Println(image.Reference())
	return o.write("bundle.tar", image.WriteArchive)
}

func (o *output) write(name string, content func(io.Writer) error) error {
	f, err := os.Create(filepath.Join(o.made, name))
	if err != nil {
		return err
	}
	err = content(f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		o.names = append(o.names, name)
	}
	return err
}

// publish moves everything into place.
func (o *output) publish() error {
	for _, name := range o.names {
		target := filepath.Join(o.dir, name)
		if err := os.RemoveAll(target); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(o.made, name), target); err != nil {
			return err
		}
	}
	return nil
}

// layoutIndex returns the only index of an OCI layout that add wrote.
func layoutIndex(dir string) (v1.ImageIndex, error) {
	root, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	manifest, err := root.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(manifest.Manifests) != 1 {
		return nil, fmt.Errorf("%s has %d images, want 1", dir, len(manifest.Manifests))
	}
	return root.ImageIndex(manifest.Manifests[0].Digest)
}
