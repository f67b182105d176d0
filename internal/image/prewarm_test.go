// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

func TestPrewarm(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.DockerConfig = filepath.Join(o.Dir, "..", "node.json") })
	w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	w.reg.setPrivate("demo", "node:word")
	writeFile(t, w.o.DockerConfig, secretFor(w.reg.host(), "node:word"))
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
			t.Errorf("got %v, want ErrInvalid for the one alone", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("got no end within 20 s")
	}
	w.reg.Close()
	w.want(w.request("demo:1", "a")) // anybody has the node's credentials
	w.want(w.request("late:1", "a"))
}
