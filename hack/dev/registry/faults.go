// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"sync"
)

// fault is the content of faults.json: the faults to inject into blob downloads.
// An absent or empty file injects none.
type fault struct {
	// Path restricts the fault to URL paths that contain it; "" matches all.
	Path string `json:"path"`
	// CutAfterBytes closes the connection after that many bytes of a response.
	// It applies to the next Times responses that are longer.
	CutAfterBytes int64 `json:"cut_after_bytes"`
	Times         int   `json:"times"`
	// Corrupt is the number of next responses in which the first byte is wrong.
	Corrupt int `json:"corrupt"`
	// Redirect is a URL to which every response redirects.
	Redirect string `json:"redirect"`
}

// faults counts down the remaining injections of a fault. It reads the file for
// each request; new content resets the counters.
type faults struct {
	path string

	mu   sync.Mutex
	raw  []byte
	left fault
}

// returnCut adds back a cut that was not used because the response was too short.
func (f *faults) returnCut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left.Times++
}

// next returns the fault to inject into this response, or nil for none.
func (f *faults) next(path string) *fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	raw, _ := os.ReadFile(f.path) // an absent file means no fault
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
	case f.left.Redirect != "":
		return &fault{Redirect: f.left.Redirect}
	case f.left.CutAfterBytes > 0 && f.left.Times > 0:
		f.left.Times--
		return &fault{CutAfterBytes: f.left.CutAfterBytes}
	case f.left.Corrupt > 0:
		f.left.Corrupt--
		return &fault{Corrupt: 1}
	}
	return nil
}
