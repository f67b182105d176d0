// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/wire"
)

// MaxFile is the size of the largest file that cp copies, in bytes.
const MaxFile = 4 << 30

// put writes a file atomically by rename: readers see the old file or the new one.
func put(c *wire.Conn, r *wire.Request) *wire.Outcome {
	if st, err := os.Stat(r.Path); err == nil && st.IsDir() {
		return &wire.Outcome{Error: fmt.Sprintf("write %s: Is a directory (os error 21)", r.Path)}
	}
	if err := os.MkdirAll(filepath.Dir(r.Path), 0o755); err != nil {
		return &wire.Outcome{Error: err.Error()}
	}
	f, err := os.CreateTemp(filepath.Dir(r.Path), ".smolvm-cp-")
	if err != nil {
		return &wire.Outcome{Error: err.Error()}
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := receiveFile(c, f); err != nil {
		return &wire.Outcome{Error: err.Error()}
	}
	if err := f.Chown(r.UID, r.GID); err != nil {
		return &wire.Outcome{Error: err.Error()}
	}
	if err := f.Chmod(os.FileMode(r.Mode)); err != nil {
		return &wire.Outcome{Error: err.Error()}
	}
	if err := os.Rename(f.Name(), r.Path); err != nil {
		return &wire.Outcome{Error: err.Error()}
	}
	return &wire.Outcome{}
}

func receiveFile(c *wire.Conn, f *os.File) error {
	for total := 0; ; {
		kind, b, err := c.Read()
		if err != nil {
			return err
		}
		if kind == wire.DataEnd {
			return nil
		}
		if total += len(b); total > MaxFile {
			return fmt.Errorf("file is larger than %d bytes", MaxFile)
		}
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
}

func get(c *wire.Conn, r *wire.Request) *wire.Outcome {
	f, err := os.Open(r.Path)
	if err != nil {
		return &wire.Outcome{Error: fmt.Sprintf("file not found: %s", r.Path)}
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return &wire.Outcome{Error: fmt.Sprintf("not a regular file: %s", r.Path)}
	}
	if _, err := io.Copy(wire.Writer{Conn: c, Kind: wire.Stdout}, f); err != nil {
		return &wire.Outcome{Error: err.Error()}
	}
	return &wire.Outcome{}
}
