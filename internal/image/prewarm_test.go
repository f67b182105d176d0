// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/await"
)

func TestPrewarm(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.DockerConfig = filepath.Join(o.Dir, "..", "node.json") })
	w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	w.reg.setPrivate("demo", "node:word")
	writeFile(t, w.o.DockerConfig, secretFor(w.reg.host(), "node:word").Content)
	late := w.request("late:1", "").Reference
	done := make(chan error, 1)
	go func() {
		done <- w.Prewarm(t.Context(), []string{w.request("demo:1", "").Reference, late, "NO SUCH"})
	}()
	for w.reg.count("/v2/late/manifests/1") == 0 || !w.clock.HasWaiters() {
		time.Sleep(5 * time.Millisecond)
	}
	w.reg.push(t, "late:1", newImage(t, "amd64", "two"))
	w.clock.Step(firstBackoff)
	select {
	case err := <-done:
		if !errors.Is(err, host.ErrInvalid) || strings.Contains(err.Error(), "late") {
			t.Errorf("got %v, want ErrInvalid for only the invalid one", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("got no end within 20 s")
	}
	w.reg.Close()
	w.want(w.request("demo:1", "a")) // every Bottle may use the node's credentials
	w.want(w.request("late:1", "a"))
}

// The node's credentials and files appear, or are repaired, after the agent
// started.
func TestPrewarmRereadsFiles(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.json")
	w := newWorld(t, func(o *Options) { o.DockerConfig = config })
	w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	w.reg.setPrivate("demo", "node:word")
	done := make(chan error, 1)
	go func() {
		done <- w.Prewarm(t.Context(), []string{w.request("demo:1", "").Reference, "file:late.tar", "NO SUCH"})
	}()
	waiters := func() bool { return w.clock.Waiters() == 2 }
	await.True(t, "both to wait", waiters)
	writeFile(t, config, []byte("{"))
	w.clock.Step(firstBackoff)
	await.True(t, "both to wait again", waiters)
	writeFile(t, config, secretFor(w.reg.host(), "node:word").Content)
	w.put("late.tar", saved(t, newImage(t, "amd64", "two")))
	await.True(t, "Prewarm to return", func() bool {
		w.clock.Step(firstBackoff)
		return len(done) > 0
	})
	err := <-done
	if !errors.Is(err, host.ErrInvalid) || strings.Contains(err.Error(), "demo") || strings.Contains(err.Error(), "late") {
		t.Errorf("got %v, want ErrInvalid for only the invalid one", err)
	}
	w.reg.Close()
	w.want(w.request("demo:1", "a"))
}
