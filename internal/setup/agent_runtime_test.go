// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestTheEarlierClientIsClosed checks that a second connection to the container runtime
// leaves nothing of the first one behind.
func TestTheEarlierClientIsClosed(t *testing.T) {
	o := &AgentOptions{NodeName: "node-a", Runtime: RuntimeOptions{CRISocket: "unix://" + filepath.Join(t.TempDir(), "s"), KubeletDir: t.TempDir()}}
	r := &runtimes{}
	if err := r.connect(o, ""); err != nil {
		t.Fatal(err)
	}
	first := r.cri.Load()
	if err := r.connect(o, "cluster-1"); err != nil {
		t.Fatal(err)
	}
	second := r.cri.Load()
	t.Cleanup(func() { _ = second.Close() })
	if second == first {
		t.Error("got the same client, want another one")
	}
	if err := first.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "closing") {
		t.Errorf("the first: got %v, want an error that says that it is closed", err)
	}
}
