// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"sync"
)

// fault is what faults.json holds: what breaks when a blob is asked for. An
// absent file, or one that says nothing, breaks nothing.
type fault struct {
	// Path is a part of the paths it is for; "" for all.
	Path string `json:"path"`
	// CutAfterBytes is after how many bytes of an answer the connection ends,
	// in the next Times answers that are longer.
	CutAfterBytes int64 `json:"cut_after_bytes"`
	Times         int   `json:"times"`
	// Corrupt is in how many of the next answers the first byte is wrong.
	Corrupt int `json:"corrupt"`
}

// faults counts what of a fault is left. The file is read for each request;
// new content starts the count anew.
type faults struct {
	path string

	mu   sync.Mutex
	raw  []byte
	left fault
}

// spare gives back a cut for which an answer was too short.
func (f *faults) spare() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left.Times++
}

// next is what is to break in this answer; nil for nothing.
func (f *faults) next(path string) *fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	raw, _ := os.ReadFile(f.path) // absent is no fault
	if !bytes.Equal(raw, f.raw) {
		f.raw, f.left = raw, fault{}
		if json.Unmarshal(raw, &f.left) != nil {
			f.left = fault{}
		}
	}
	if !strings.Contains(path, f.left.Path) {
		return nil
	}
	switch {
	case f.left.CutAfterBytes > 0 && f.left.Times > 0:
		f.left.Times--
		return &fault{CutAfterBytes: f.left.CutAfterBytes}
	case f.left.Corrupt > 0:
		f.left.Corrupt--
		return &fault{Corrupt: 1}
	}
	return nil
}
