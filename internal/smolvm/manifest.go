// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"botbottle.dev/bottle-operator/internal/host"
)

// An artifact ends with a footer: a magic, a version of 4 bytes, five numbers of 8
// bytes, of which the last two are the position and the size of the manifest, a
// checksum of 4 bytes, and 8 unused bytes. This is the form of 1.7.7 to 1.32.2.
const (
	packMagic       = "SMOLPACK"
	footerSize      = 64
	footerManifest  = len(packMagic) + 4 + 3*8
	maxManifestSize = 16 << 20
)

// checkManifest rejects an artifact that is a checkpoint. Recent releases restore
// one in the same way: with the memory, the network, the mounts and the
// credentials of the machine that was saved. A file that is not an artifact at all
// is left to smolvm to reject.
func checkManifest(path string) error {
	manifest, err := readManifest(path)
	if err != nil {
		return fmt.Errorf("the manifest in the artifact cannot be read: %w", err)
	}
	if _, is := manifest["checkpoint"]; is {
		return fmt.Errorf("the artifact is a checkpoint of a running machine: make one with smolvm pack create: %w", host.ErrInvalid)
	}
	return nil
}

// ArtifactCommand implements host.Machines.
func (d *Driver) ArtifactCommand(_ context.Context, path string) ([]string, error) {
	manifest, err := readManifest(path)
	if err != nil {
		return nil, fmt.Errorf("the manifest in the artifact cannot be read: %w", err)
	}
	var command []string
	for _, field := range []string{"entrypoint", "cmd"} {
		var words []string
		// An element takes at least three bytes, and 16 as a string in memory.
		if raw := manifest[field]; len(raw) > maxCommandField || raw != nil && json.Unmarshal(raw, &words) != nil {
			return nil, fmt.Errorf("the %s in the artifact's manifest is not a list of words of at most %d bytes: %w", field, maxCommandField, host.ErrInvalid)
		}
		command = append(command, words...)
	}
	if err := host.CheckCommand(command); err != nil {
		return nil, err
	}
	return command, nil
}

// maxCommandField bounds a field of the manifest that is decoded.
const maxCommandField = 256 << 10

// readManifest returns the manifest, or nil if the file has no footer. Its errors
// contain nothing of the file.
//
// It does not decode the values: a few bytes can stand for a value that takes
// many times as much memory.
func readManifest(path string) (map[string]json.RawMessage, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", host.ErrInvalid, err)
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", host.ErrUnavailable, err)
	}
	var footer [footerSize]byte
	if end < footerSize {
		return nil, nil
	}
	if _, err := f.ReadAt(footer[:], end-footerSize); err != nil {
		return nil, fmt.Errorf("%w: %w", host.ErrUnavailable, err)
	}
	if string(footer[:len(packMagic)]) != packMagic {
		return nil, nil
	}
	at := binary.LittleEndian.Uint64(footer[footerManifest:])
	size := binary.LittleEndian.Uint64(footer[footerManifest+8:])
	if size > maxManifestSize || at > uint64(end) || size > uint64(end)-at {
		return nil, fmt.Errorf("%w: its position or size is impossible", host.ErrInvalid)
	}
	raw := make([]byte, size)
	if _, err := f.ReadAt(raw, int64(at)); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", host.ErrUnavailable, err)
	}
	var manifest map[string]json.RawMessage
	if json.Unmarshal(raw, &manifest) != nil || manifest == nil {
		return nil, fmt.Errorf("%w: it is not a JSON object", host.ErrInvalid)
	}
	return manifest, nil
}
