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

// Names of files in a Bottle's folder.
const (
	wallFile = "wall.json"
	leakFile = "leak.json"
)

// Wall is what a restarted agent must know about a Bottle in order to guard its
// machine before it has reached dockerd or the API server.
type Wall struct {
	Spec host.WallSpec `json:"spec"`
	// Generation is the newest generation of the Bottle that the wall was created
	// for or narrowed to.
	Generation int64 `json:"generation,omitempty"`
	// BundleImage is the image of the bundle for which the ports were opened; ""
	// is the built-in one. It is nil if an earlier release opened them.
	BundleImage *string `json:"bundleImage,omitempty"`
	// Filter is the last known host.Wall.Filter.
	Filter string `json:"filter,omitempty"`
	// Smolvm and Backend are smolvm's release and network backend at the last
	// proof.
	Smolvm  string `json:"smolvm,omitempty"`
	Backend string `json:"backend,omitempty"`
}

// Leak is the evidence of a leak. It is kept until the user requests a new proof.
type Leak struct {
	Time time.Time `json:"time"`
	// Path describes what was reached.
	Path string `json:"path"`
	// Smolvm and Backend are smolvm's release and network backend.
	Smolvm  string `json:"smolvm,omitempty"`
	Backend string `json:"backend,omitempty"`
	// ReportedFor is the request (the Bottle's generation, and what requests
	// proofs) for which the leak was first reported. The leak stands until the
	// request changes. "" means that the leak was not reported yet.
	ReportedFor string `json:"told,omitempty"`
}

// Wall reads what WriteWall wrote. It returns nil, nil if there is none.
func (f Folder) Wall() (*Wall, error) { return readJSON[Wall](f, wallFile) }

// WriteWall stores the wall.
func (f Folder) WriteWall(w Wall) error { return f.writeJSON(wallFile, w) }

// RemoveWall removes the stored wall. It returns nil if there is none.
func (f Folder) RemoveWall() error { return f.remove(wallFile) }

// Leak reads what WriteLeak wrote. It returns nil, nil if there is none.
func (f Folder) Leak() (*Leak, error) { return readJSON[Leak](f, leakFile) }

// WriteLeak stores the evidence.
func (f Folder) WriteLeak(l Leak) error { return f.writeJSON(leakFile, l) }

// RemoveLeak removes the stored evidence. It returns nil if there is none.
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
