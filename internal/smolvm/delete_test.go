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

// dying is a command line whose caller dies in the call number left, before or
// after its effect.
type dying struct {
	c     *cli
	left  int
	after bool
}

var errDied = errors.New("the agent died")

func (d *dying) Run(ctx context.Context, cmd runner.Command) (runner.Result, error) {
	d.left--
	switch {
	case d.left > 0:
		return d.c.Run(ctx, cmd)
	case d.left == 0 && d.after:
		_, _ = d.c.Run(ctx, cmd)
	}
	return runner.Result{}, errDied
}

// Wherever the agent dies in a deletion, the next one completes it.
func TestDeletionIsReentrant(t *testing.T) {
	name := specOf("demo").Owner.ID()
	for _, after := range []bool{false, true} {
		for calls := 1; ; calls++ {
			c, d := newCLI(t, "1.32.2")
			c.states[name] = "running"
			dir := d.dataDir(name)
			ok(t, os.MkdirAll(dir, 0o755))
			ok(t, os.WriteFile(filepath.Join(dir, "storage.raw"), nil, 0o600))
			d.runner = &dying{c, calls, after}
			died := d.DeleteMachine(t.Context(), name)
			next := New(d.opts)
			if err := next.DeleteMachine(t.Context(), name); err != nil {
				t.Errorf("after %d calls: got %v, want nil", calls, err)
			}
			if c.states[name] != "" || !absent(dir) {
				t.Errorf("after %d calls: got state %q and the folder gone: %v, want neither", calls, c.states[name], absent(dir))
			}
			if died == nil { // no call was the last
				break
			}
		}
	}
}

// A new machine never gets the disk of one of the same name whose deletion
// broke off.
func TestCreateFindsNothingOfADeletedMachine(t *testing.T) {
	c, d := newCLI(t, "1.32.2")
	dir := d.dataDir(specOf("demo").Owner.ID())
	ok(t, os.MkdirAll(dir, 0o755))
	ok(t, os.WriteFile(filepath.Join(dir, "storage.raw"), []byte("old"), 0o600))
	c.fail = func(words string) (runner.Result, bool) {
		if strings.HasPrefix(words, "machine create") && !absent(dir) {
			t.Error("got the old folder at the create, want it gone")
		}
		return runner.Result{}, false
	}
	ok(t, d.CreateMachine(t.Context(), specOf("demo")))
	// One that is listed keeps its own.
	ok(t, os.MkdirAll(dir, 0o755))
	c.fail = nil
	_ = d.CreateMachine(t.Context(), specOf("demo"))
	if absent(dir) {
		t.Error("got the folder of a listed machine removed, want it kept")
	}
}
