// SPDX-License-Identifier: Apache-2.0

package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"botbottle.dev/bottle-operator/internal/atomicfile"
	"botbottle.dev/bottle-operator/internal/host"
)

// Names within a Bottle's folder.
const (
	wallFile = "wall.json"
	leakFile = "leak.json"
)

// Wall is what a new agent must know of a Bottle to watch over its machine
// before it has met dockerd or the API server.
type Wall struct {
	Spec host.WallSpec `json:"spec"`
	// Generation is the newest of the Bottle's that the wall was made for or
	// narrowed to.
	Generation int64 `json:"generation,omitempty"`
	// BundleImage is the image of the bundle that the ports were opened to, ""
	// for the built-in one; nil if an earlier release opened them.
	BundleImage *string `json:"bundleImage,omitempty"`
	// Filter is host.Wall.Filter as it last stood.
	Filter string `json:"filter,omitempty"`
	// Smolvm and Backend are the release and the way of its guests to the
	// network, as of the last proof.
	Smolvm  string `json:"smolvm,omitempty"`
	Backend string `json:"backend,omitempty"`
}

// Leak is the evidence of a leak, kept until the user asks again.
type Leak struct {
	Time time.Time `json:"time"`
	// Path is what was reached, in words.
	Path string `json:"path"`
	// Smolvm and Backend are the release and the way of its guests to the
	// network.
	Smolvm  string `json:"smolvm,omitempty"`
	Backend string `json:"backend,omitempty"`
	// ReportedFor is the request (the Bottle's generation, and what asks for
	// proofs) for which the leak was first reported. It counts until the
	// request changes; "" is a leak that was not reported yet.
	ReportedFor string `json:"told,omitempty"`
}

// Wall reads what WriteWall wrote; nil without an error when there is none.
func (f Folder) Wall() (*Wall, error) { return readJSON[Wall](f, wallFile) }

// WriteWall keeps the wall.
func (f Folder) WriteWall(w Wall) error { return f.writeJSON(wallFile, w) }

// RemoveWall forgets the wall; absent is nil.
func (f Folder) RemoveWall() error { return f.remove(wallFile) }

// Leak reads what WriteLeak wrote; nil without an error when there is none.
func (f Folder) Leak() (*Leak, error) { return readJSON[Leak](f, leakFile) }

// WriteLeak keeps the evidence.
func (f Folder) WriteLeak(l Leak) error { return f.writeJSON(leakFile, l) }

// RemoveLeak forgets the evidence; absent is nil.
func (f Folder) RemoveLeak() error { return f.remove(leakFile) }

func readJSON[T any](f Folder, name string) (*T, error) {
	data, err := os.ReadFile(filepath.Join(f.path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("folder of the Bottle: %w", err)
	}
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, fmt.Errorf("%s in %s: %w: %w", name, f.path, ErrBadRecord, err)
	}
	return &v, nil
}

func (f Folder) writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	_, err = atomicfile.WriteIfChanged(filepath.Join(f.path, name), append(data, '\n'), 0o600)
	return err
}

func (f Folder) remove(name string) error {
	if err := os.Remove(filepath.Join(f.path, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("folder of the Bottle: %w", err)
	}
	return nil
}
