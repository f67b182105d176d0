// SPDX-License-Identifier: Apache-2.0

// Package cluster has long tests that share a cluster of two stand-in nodes.
package cluster

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/require"
	"botbottle.dev/bottle-operator/test/story"
)

// running returns a Bottle that runs.
func running(t *testing.T, name string) (*story.Cluster, *v1alpha1.Bottle) {
	c := story.Connect(t, 5*time.Minute)
	b := builders.MakeBottle(name).Namespace(c.Namespace(t)).Slug(name).Pin("node-1").Obj()
	c.Apply(t, b)
	c.WaitRunning(t, b)
	return c, b
}

// TestLongPluginCopiesATree is TestPluginCopies with the size of a large project.
func TestLongPluginCopiesATree(t *testing.T) {
	require.Long(t)
	c, b := running(t, "long-cp")
	c.CopyTree(t, b, story.TreeSize{Files: 5000, Bytes: 200 << 20})
}

// TestLongPluginCarriesAGiB sends 1 GiB through a command's input to its output.
func TestLongPluginCarriesAGiB(t *testing.T) {
	require.Long(t)
	c, b := running(t, "long-stream")
	const size = 1 << 30
	sent, got := sha256.New(), &counter{Hash: sha256.New()}
	cmd := c.Plugin(t.Context(), t, "exec", b.Name, "-n", b.Namespace, "-i", "--", "cat")
	cmd.Stdin = io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{3}), size), sent)
	var words strings.Builder
	cmd.Stdout, cmd.Stderr = got, &words
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, words.String())
	}
	if got.n != size || string(got.Sum(nil)) != string(sent.Sum(nil)) {
		t.Errorf("got %d bytes back, want %d unchanged", got.n, size)
	}
}

// counter counts what it hashes.
type counter struct {
	hash.Hash
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.Hash.Write(p)
}

// TestLongPluginExecutesOften runs 100 commands one after the other, then 6 at a time, and
// leaves no process in the guest and no file descriptor of the agent open.
func TestLongPluginExecutesOften(t *testing.T) {
	require.Long(t)
	c, b := running(t, "long-often")
	open := func() string {
		return c.Exec(t, "node-1", "sh", "-c", `for pid in $(pgrep -f 'bottle-operator agent'); do ls /proc/$pid/fd; done | wc -l`)
	}
	one := func() error {
		got := c.Bottle(t, nil, "exec", b.Name, "-n", b.Namespace, "--", "sh", "-c", "echo out; exit 7")
		if got.Code != 7 || got.Stdout != "out\n" {
			return fmt.Errorf("got %+v", got)
		}
		return nil
	}
	if err := one(); err != nil { // what stays open after the first one may stay open
		t.Fatal(err)
	}
	processes := strings.Count(c.Guest(t, b, "ps"), "\n")
	var before, after int
	if _, err := fmt.Sscan(open(), &before); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := one(); err != nil {
			t.Fatal(err)
		}
	}
	errs := make(chan error)
	for range 6 {
		go func() { errs <- one() }()
	}
	for range 6 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	c.Eventually(t, "that nothing is left", func() (string, bool) {
		ps, fds := c.Guest(t, b, "ps"), open()
		_, err := fmt.Sscan(fds, &after)
		// The agent has other work, so that a few descriptors come and go.
		return fmt.Sprintf("%s%s open descriptors of the agent, %d before", ps, fds, before), err == nil && strings.Count(ps, "\n") <= processes && after <= before+10
	})
}

// TestLongSilentSessions stay alive for more than five minutes.
func TestLongSilentSessions(t *testing.T) {
	require.Long(t)
	c, b := running(t, "long-silent")
	logs := c.Plugin(t.Context(), t, "logs", "-f", b.Name, "-n", b.Namespace)
	ended := make(chan error, 1)
	go func() { ended <- logs.Run() }()
	if got := c.Bottle(t, nil, "exec", b.Name, "-n", b.Namespace, "--", "sh", "-c", "sleep 310; echo awake; exit 5"); got.Code != 5 || got.Stdout != "awake\n" {
		t.Errorf("got %+v from a silent command", got)
	}
	select {
	case err := <-ended:
		t.Errorf("the silent log has ended: %v", err)
	default:
	}
	c.DeleteAndWait(t, b)
	var exit *exec.ExitError
	if err := <-ended; err != nil && !errors.As(err, &exit) {
		t.Error(err)
	}
}
