// SPDX-License-Identifier: Apache-2.0

package state

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"botbottle.dev/bottle-operator/internal/machinesize"
)

// Artifact is spec.artifact. "" means that nothing was requested.
type Artifact struct {
	Path      string `json:"path,omitempty"`
	Reference string `json:"reference,omitempty"`
	SHA256    string `json:"sha256,omitempty"`
}

// UnmarshalJSON reads records of this release and of earlier ones, which stored
// size and artifact as text under the keys "size" and "artifact". This release
// uses other keys for both, so that an earlier release can still read its
// records.
func (r *Record) UnmarshalJSON(data []byte) error {
	type plain Record // without this method
	stored := struct {
		*plain
		OldSize     string `json:"size"`
		OldArtifact string `json:"artifact"`
	}{plain: (*plain)(r)}
	if err := json.Unmarshal(data, &stored); err != nil {
		return err
	}
	if stored.OldSize != "" && r.Size == (machinesize.Size{}) {
		size, err := parseOldSize(stored.OldSize)
		if err != nil {
			return err
		}
		r.Size = size
	}
	if stored.OldArtifact != "" && r.Artifact == (Artifact{}) {
		r.Artifact = parseOldArtifact(stored.OldArtifact)
	}
	return nil
}

// parseOldSize reads "cpus=2 memoryMiB=512 storageGiB=0 overlayGiB=0". Fields that
// are newer than this format do not occur in it.
func parseOldSize(text string) (machinesize.Size, error) {
	values := map[string]int64{}
	for _, word := range strings.Fields(text) {
		key, value, _ := strings.Cut(word, "=")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return machinesize.Size{}, fmt.Errorf("size %q: %w", text, err)
		}
		values[key] = n
	}
	return machinesize.Size{
		CPUs: int32(values["cpus"]), MemoryMiB: values["memoryMiB"],
		StorageGiB: values["storageGiB"], OverlayGiB: values["overlayGiB"],
	}, nil
}

// parseOldArtifact reads "SOURCE sha256=HEX", where SOURCE is a path
// (file:NAME) or a reference, and HEX may be empty.
func parseOldArtifact(text string) Artifact {
	source, sum, _ := strings.Cut(text, " sha256=")
	if strings.HasPrefix(source, "file:") {
		return Artifact{Path: source, SHA256: sum}
	}
	return Artifact{Reference: source, SHA256: sum}
}
