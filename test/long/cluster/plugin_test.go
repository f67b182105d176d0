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
	"path/filepath"
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
	t.Parallel()
	c, b := running(t, "long-cp")
	c.CopyTree(t, b, story.TreeSize{Files: 5000, Bytes: 200 << 20})
}

// TestLongPluginCarriesAGiB sends 1 GiB through a command's input to its output.
func TestLongPluginCarriesAGiB(t *testing.T) {
	require.Long(t)
	t.Parallel()
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

// TestLongPluginExecutesOften runs 100 commands one after the other, then 6 at a time. It
// leaves no process in the guest, and neither the agent nor a manager keeps a goroutine or
// a file descriptor. It runs alone, because the sessions of other tests would be counted.
func TestLongPluginExecutesOften(t *testing.T) {
	require.Long(t)
	c, b := running(t, "long-often")
	one := func() error {
		got := c.Bottle(t, nil, "exec", b.Name, "-n", b.Namespace, "--", "sh", "-c", "echo out; exit 7")
		if got.Code != 7 || got.Stdout != "out\n" {
			return fmt.Errorf("got %+v", got)
		}
		return nil
	}
	// Both managers have served, so that what they keep for later calls is there.
	for range 10 {
		if err := one(); err != nil {
			t.Fatal(err)
		}
	}
	before, processes := held(t, c), guestProcesses(t, c, b)
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
	t.Logf("before: %v and %d processes in the guest", before, processes)
	c.Eventually(t, "that nothing is left", func() (string, bool) {
		after, left := held(t, c), guestProcesses(t, c, b)
		t.Logf("after: %v and %d processes", after, left)
		for what, n := range after {
			// They have other work, so that a few come and go; 106 sessions that each
			// left one would be far more.
			if n > before[what]+10 {
				return fmt.Sprintf("%s: %v, before %v", what, n, before[what]), false
			}
		}
		return fmt.Sprintf("%d processes in the guest, before %d", left, processes), left <= processes
	})
}

// guestProcesses returns how many processes run in the guest of b.
func guestProcesses(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle) int {
	return strings.Count(c.Guest(t, b, "ps"), "\n")
}

// held returns the goroutines and open file descriptors of the agent of node-1 and of each
// manager.
func held(t *testing.T, c *story.Cluster) map[string]float64 {
	t.Helper()
	get := []string{"busybox", "wget", "-qO-"}
	pages := map[string]string{"agent": c.Exec(t, "node-1", append(get, "http://127.0.0.1:8080/metrics")...)}
	for _, number := range []string{"1", "2"} {
		out, err := exec.Command(filepath.Join(c.Dir, "control-exec"), append(get, "http://127.0.0.1:808"+number+"/metrics")...).Output()
		if err != nil {
			t.Fatalf("metrics of manager %s: %v", number, err)
		}
		pages["manager "+number] = string(out)
	}
	out := map[string]float64{}
	for who, page := range pages {
		for _, metric := range []string{"go_goroutines", "process_open_fds"} {
			var n float64
			_, rest, found := strings.Cut(page, "\n"+metric+" ")
			if _, err := fmt.Sscan(rest, &n); !found || err != nil {
				t.Fatalf("metrics of %s: got no %s", who, metric)
			}
			out[who+" "+metric] = n
		}
	}
	return out
}

// TestLongSilentSessions stay alive for more than five minutes.
func TestLongSilentSessions(t *testing.T) {
	require.Long(t)
	t.Parallel()
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
