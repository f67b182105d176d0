// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestAFileThatCouldNotBeReadIsReadAgain: a guest that uses up the descriptors of the
// bundle must not make it keep what the agent has taken away.
func TestAFileThatCouldNotBeReadIsReadAgain(t *testing.T) {
	b := newBroker(t.TempDir(), newDecisionLog(io.Discard))
	if err := os.WriteFile(filepath.Join(b.dir, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	var state fileState
	reads := 0
	next := []error{&fs.PathError{Op: "open", Path: "file", Err: syscall.EMFILE}, errors.New("no such form"), nil}
	read := func(string) error { reads++; return next[reads-1] }
	for _, want := range []int{1, 2, 2} { // what is not understood is read again only when it has changed
		if b.pollFile("file", &state, read); reads != want {
			t.Errorf("got %d reads, want %d", reads, want)
		}
	}
}
