// SPDX-License-Identifier: Apache-2.0

package state_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/machinesize"
	"botbottle.dev/bottle-operator/internal/state"
)

func TestRecordsOfEarlierReleases(t *testing.T) {
	tests := map[string]struct {
		file     string
		size     machinesize.Size
		artifact state.Artifact
		bad      bool
	}{
		"none":                        {file: `{"salt": "s"}`},
		"size as text":                {file: `{"size": "cpus=2 memoryMiB=512 storageGiB=30 overlayGiB=1"}`, size: machinesize.Size{CPUs: 2, MemoryMiB: 512, StorageGiB: 30, OverlayGiB: 1}},
		"size as text, some fields":   {file: `{"size": "cpus=2"}`, size: machinesize.Size{CPUs: 2}},
		"size as text, unknown field": {file: `{"size": "cpus=2 gpus=1"}`, size: machinesize.Size{CPUs: 2}},
		"invalid size":                {file: `{"size": "two"}`, bad: true},
		"size as an object":           {file: `{"machine": {"cpus": 3, "gpus": 1}}`, size: machinesize.Size{CPUs: 3}},
		"artifact, a file":            {file: `{"artifact": "file:a.smolmachine sha256="}`, artifact: state.Artifact{Path: "file:a.smolmachine"}},
		"artifact, a reference":       {file: `{"artifact": "ghcr.io/org/a:1 sha256=0a"}`, artifact: state.Artifact{Reference: "ghcr.io/org/a:1", SHA256: "0a"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := folder(t)
			path := filepath.Join(f.Path(), "machine.json")
			if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := f.Record()
			if tt.bad {
				if !errors.Is(err, state.ErrBadRecord) {
					t.Errorf("got %v, want %v", err, state.ErrBadRecord)
				}
				return
			}
			if err != nil || r.Size != tt.size || r.Artifact != tt.artifact {
				t.Errorf("got %+v, %v, want size %+v and artifact %+v", r, err, tt.size, tt.artifact)
			}
			if err := f.WriteRecord(r); err != nil {
				t.Fatal(err)
			}
			// An earlier release, which expects text under these keys, can read it.
			var earlier struct{ Size, Artifact string }
			data, err := os.ReadFile(path)
			if err != nil || json.Unmarshal(data, &earlier) != nil || strings.Contains(string(data), `"size"`) {
				t.Errorf("written: got %s, %v, want no key \"size\"", data, err)
			}
			if again, err := f.Record(); err != nil || again.Size != tt.size || again.Artifact != tt.artifact {
				t.Errorf("read again: got %+v, %v, want the same", again, err)
			}
		})
	}
}
