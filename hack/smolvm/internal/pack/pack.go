// SPDX-License-Identifier: Apache-2.0

// Package pack reads and writes the stand-in's own format of a .smolmachine: a
// tar archive. The name of its first entry, and so its first bytes, identify the
// format. It contains the settings given to `pack create` and the unchanged
// archive of the image. The real smolvm cannot read this format, and the stand-in
// cannot read the real one.
package pack

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	magic = "smolvm-standin-smolmachine"
	image = "image.tar"
)

// Manifest holds the settings that a machine made from the pack gets.
type Manifest struct {
	Image      string   `json:"image"`
	Entrypoint []string `json:"entrypoint"`
	Cmd        []string `json:"cmd"`
	Env        []string `json:"env"`
	Workdir    string   `json:"workdir"`
	CPUs       uint8    `json:"cpus"`
	MemoryMiB  uint32   `json:"mem"`
	Network    bool     `json:"network"`
	GPU        bool     `json:"gpu,omitempty"`
}

// ErrMagic means that a file is not in the stand-in's pack format.
var ErrMagic = errors.New("not a pack of the smolvm stand-in")

// Write writes a pack with the image in archive to path.
func Write(path string, m Manifest, archive string) (err error) {
	in, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	if err := w.WriteHeader(&tar.Header{Name: magic, Mode: 0o644, Size: int64(len(b))}); err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: image, Mode: 0o644, Size: st.Size()}); err != nil {
		return err
	}
	if _, err := io.Copy(w, in); err != nil {
		return err
	}
	return w.Close()
}

// TooLarge means that the content of a pack exceeds the limit that was given to Read.
type TooLarge int64

func (t TooLarge) Error() string {
	return fmt.Sprintf("tar archive exceeds max total size (%d bytes)", int64(t))
}

// Read returns the pack's manifest. If archive is not nil, it also copies the
// image's archive there, unless it is larger than limit bytes.
func Read(path string, archive io.Writer, limit int64) (Manifest, error) {
	var m Manifest
	f, err := os.Open(path)
	if err != nil {
		return m, err
	}
	defer f.Close()
	start := make([]byte, len(magic))
	if _, err := io.ReadFull(f, start); err != nil || string(start) != magic {
		return m, ErrMagic
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return m, err
	}
	r := tar.NewReader(f)
	if _, err := r.Next(); err != nil {
		return m, err
	}
	if err := json.NewDecoder(r).Decode(&m); err != nil {
		return m, err
	}
	h, err := r.Next()
	if err == nil && h.Name != image {
		err = fmt.Errorf("found entry %s, want %s", h.Name, image)
	}
	if err == nil && archive != nil && h.Size > limit {
		err = TooLarge(limit)
	}
	if err == nil && archive != nil {
		_, err = io.Copy(archive, r)
	}
	return m, err
}
