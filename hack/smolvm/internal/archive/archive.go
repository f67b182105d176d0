// SPDX-License-Identifier: Apache-2.0

// Package archive unpacks a container image from an archive, in docker-save or
// OCI format, into a folder. It applies the layers in order, including their
// whiteouts, and writes nothing outside the folder. Like the programs in the real
// smolvm's guests, it loses extended attributes. It does not pull images or verify
// digests.
package archive

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Config is the part of an image's configuration that says how to run it.
type Config struct {
	Env        []string `json:"Env"`
	Entrypoint []string `json:"Entrypoint"`
	Cmd        []string `json:"Cmd"`
	WorkingDir string   `json:"WorkingDir"`
	User       string   `json:"User"`
}

// Image is an unpacked image.
type Image struct {
	Rootfs string
	Config Config
}

// Unpack unpacks the archive file into dir, unless dir exists. Concurrent calls,
// even from several processes, do the work only once.
func Unpack(file, dir string) (*Image, error) {
	if img, err := load(dir); err == nil {
		return img, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, err
	}
	if img, err := load(dir); err == nil {
		return img, nil
	}
	fresh := dir + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return nil, err
	}
	if err := unpackInto(file, fresh); err != nil {
		return nil, errors.Join(err, os.RemoveAll(fresh))
	}
	if err := os.Rename(fresh, dir); err != nil {
		return nil, err
	}
	return load(dir)
}

func load(dir string) (*Image, error) {
	b, err := os.ReadFile(filepath.Join(dir, "image.json"))
	if err != nil {
		return nil, err
	}
	img := &Image{Rootfs: filepath.Join(dir, "rootfs")}
	return img, json.Unmarshal(b, &img.Config)
}

func unpackInto(file, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		return err
	}
	f, err := openPlain(file, dir)
	if err != nil {
		return err
	}
	defer f.Close()
	ix, err := readIndex(f)
	if err != nil {
		return fmt.Errorf("not an image archive: %w", err)
	}
	configName, layers, err := ix.manifest()
	if err != nil {
		return fmt.Errorf("not an image archive: %w", err)
	}
	var doc struct {
		Config Config `json:"config"`
	}
	if err := ix.decode(configName, &doc); err != nil {
		return err
	}
	root, err := os.OpenRoot(filepath.Join(dir, "rootfs"))
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for _, name := range layers {
		if err := ix.applyLayer(root, name); err != nil {
			return fmt.Errorf("layer %s: %w", name, err)
		}
	}
	b, err := json.Marshal(doc.Config)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "image.json"), b, 0o644)
}

// openPlain opens the archive. It first decompresses a compressed archive into a
// temporary file in dir, because the entries are not read in stored order.
func openPlain(file, dir string) (*os.File, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	plain, compressed, err := decompress(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	if !compressed {
		_, err := f.Seek(0, io.SeekStart)
		return f, err
	}
	defer f.Close()
	tmp, err := os.CreateTemp(dir, "plain-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(tmp.Name()); err != nil {
		return nil, err
	}
	if _, err := io.Copy(tmp, plain); err != nil {
		tmp.Close()
		return nil, err
	}
	_, err = tmp.Seek(0, io.SeekStart)
	return tmp, err
}

// decompress returns a reader of r's decompressed data if r starts like gzip, and
// otherwise a reader of r's data. The bool reports whether r was compressed.
func decompress(r io.Reader) (io.Reader, bool, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, _ := b.Peek(4)
	switch {
	case len(magic) >= 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		z, err := gzip.NewReader(b)
		return z, true, err
	case len(magic) == 4 && string(magic) == "\x28\xb5\x2f\xfd":
		return nil, false, fmt.Errorf("zstd compression is not supported by the stand-in")
	}
	return b, false, nil
}

// index records the position of each file in the archive.
type index struct {
	f     *os.File
	at    map[string]*io.SectionReader
	links map[string]string
}

// counter counts the bytes read from r.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

func readIndex(f *os.File) (*index, error) {
	ix := &index{f, map[string]*io.SectionReader{}, map[string]string{}}
	c := &counter{r: f}
	for t := tar.NewReader(c); ; {
		h, err := t.Next()
		if err == io.EOF {
			return ix, nil
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "./"))
		switch h.Typeflag {
		case tar.TypeReg:
			ix.at[name] = io.NewSectionReader(f, c.n, h.Size)
		case tar.TypeSymlink, tar.TypeLink:
			ix.links[name] = path.Join(path.Dir(name), h.Linkname)
		}
	}
}

func (ix *index) open(name string) (*io.SectionReader, error) {
	for range 8 {
		if to, ok := ix.links[name]; ok {
			name = to
			continue
		}
		if r, ok := ix.at[name]; ok {
			_, err := r.Seek(0, io.SeekStart)
			return r, err
		}
		break
	}
	return nil, fmt.Errorf("%s not found in archive", name)
}

func (ix *index) decode(name string, v any) error {
	r, err := ix.open(name)
	if err != nil {
		return err
	}
	if err := json.NewDecoder(r).Decode(v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
