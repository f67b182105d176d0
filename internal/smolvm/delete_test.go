// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/runner"
)

// crashing is a command line whose caller crashes. It completes left-1 calls.
// The caller crashes during the next one: after the call takes effect if after is
// set, and otherwise before.
type crashing struct {
	c     *cli
	left  int
	after bool
}

var errCrashed = errors.New("the agent crashed")

func (d *crashing) Run(ctx context.Context, cmd runner.Command) (runner.Result, error) {
	d.left--
	switch {
	case d.left > 0:
		return d.c.Run(ctx, cmd)
	case d.left == 0 && d.after:
		_, _ = d.c.Run(ctx, cmd)
	}
	return runner.Result{}, errCrashed
}

// Wherever the agent crashes during a deletion, the next deletion completes it.
func TestDeletionCompletesAfterCrash(t *testing.T) {
	name := specOf("demo").Owner.ID()
	for _, after := range []bool{false, true} {
		for calls := 1; ; calls++ {
			c, d := newCLI(t, "1.32.2")
			c.states[name] = "running"
			dir := d.dataDir(name)
			ok(t, os.MkdirAll(dir, 0o755))
			ok(t, os.WriteFile(filepath.Join(dir, "storage.raw"), nil, 0o600))
			d.runner = &crashing{c, calls, after}
			crashed := d.DeleteMachine(t.Context(), name)
			next := New(d.opts)
			if err := next.DeleteMachine(t.Context(), name); err != nil {
				t.Errorf("after %d calls: got %v, want nil", calls, err)
			}
			if c.states[name] != "" || !absent(dir) {
				t.Errorf("after %d calls: got state %q, folder removed: %v; want no machine and no folder", calls, c.states[name], absent(dir))
			}
			if crashed == nil { // the deletion needs fewer calls
				break
			}
		}
	}
}

// A new machine never gets the disk of a machine of the same name whose deletion
// was interrupted.
func TestCreateRemovesLeftoversOfDeletedMachine(t *testing.T) {
	c, d := newCLI(t, "1.32.2")
	dir := d.dataDir(specOf("demo").Owner.ID())
	ok(t, os.MkdirAll(dir, 0o755))
	ok(t, os.WriteFile(filepath.Join(dir, "storage.raw"), []byte("old"), 0o600))
	c.fail = func(args string) (runner.Result, bool) {
		if strings.HasPrefix(args, "machine create") && !absent(dir) {
			t.Error("the old folder exists during create, want it removed before")
		}
		return runner.Result{}, false
	}
	ok(t, d.CreateMachine(t.Context(), specOf("demo")))
	// A machine that is still listed keeps its folder.
	ok(t, os.MkdirAll(dir, 0o755))
	c.fail = nil
	_ = d.CreateMachine(t.Context(), specOf("demo"))
	if absent(dir) {
		t.Error("the folder of a listed machine was removed, want it kept")
	}
}
