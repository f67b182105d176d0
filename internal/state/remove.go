// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// removedLast are the files that say whose folder it is and which runtime the bundle has. An
// agent that dies during Remove leaves them to the next agent, which goes on with the
// teardown: without the runtime, other files would look like those of an agent that knew only
// docker.
var removedLast = []string{runtimeFile, ownerFile}

// Remove removes the folder with everything in it. It returns nil if there is
// none.
func (f Folder) Remove() error {
	if err := f.removeCA(); err != nil {
		return err
	}
	entries, err := os.ReadDir(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if !slices.Contains(removedLast, e.Name()) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(f.path, e.Name())))
		}
	}
	if err != nil {
		return fmt.Errorf("remove the folder of the Bottle: %w", err)
	}
	for _, name := range removedLast {
		if err := f.remove(name); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(f.path); err != nil {
		return fmt.Errorf("remove the folder of the Bottle: %w", err)
	}
	return nil
}
