// SPDX-License-Identifier: Apache-2.0

package smolvm_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/require"
)

// TestPolicyDoesNotDisturbSmolvm reads policies without a pause while the real
// command line writes. No call of smolvm may fail (1.9.1 does not wait for
// locks), every policy must be right, and no files may be left that smolvm did
// not create.
func TestPolicyDoesNotDisturbSmolvm(t *testing.T) {
	for _, version := range realReleases() {
		t.Run(version, func(t *testing.T) {
			dir := filepath.Join(pathFromEnv(t, "SMOLVM_VERSIONS_DIR", "bin/smolvm"), version)
			require.File(t, filepath.Join(dir, "smolvm"), "make smolvm smolvm-older")
			w := newWorld(t, dir, nil)
			const name = "bottle-demo-1a2b3c4d"
			create := func(name string, extra ...string) {
				w.call(t, append([]string{"machine", "create", "--name=" + name, "--allow-cidr=10.0.0.2/32"}, extra...)...)
			}
			if _, err := w.driver.Version(t.Context()); err != nil {
				t.Fatal(err)
			}
			create(name)
			w.call(t, "machine", "ls", "--json")
			files := w.databaseFiles(t)
			done := make(chan struct{})
			var reads, starved atomic.Int64
			var reader sync.WaitGroup
			reader.Go(func() {
				for want := (host.Policy{AllowedCIDRs: []string{"10.0.0.2/32"}}); ; reads.Add(1) {
					got, err := w.driver.Policy(t.Context(), name)
					for errors.Is(err, host.ErrUnavailable) && starved.Add(1) < 20 { // the writer below pauses longer each time
						got, err = w.driver.Policy(t.Context(), name)
					}
					if diff := cmp.Diff(want, got); err != nil || diff != "" {
						t.Errorf("policy: %v (-want +got):\n%s", err, diff)
						return
					}
					select {
					case <-done:
						return
					default:
					}
				}
			})
			for i := 0; (i < 40 || reads.Load() < 20) && !t.Failed(); i++ {
				create(fmt.Sprintf("bottle-x%d-1a2b3c4d", i))
				w.call(t, "machine", "ls", "--json")
				<-time.After(time.Duration(starved.Load()) * 100 * time.Millisecond)
			}
			close(done)
			reader.Wait()
			if diff := cmp.Diff(files, w.databaseFiles(t)); diff != "" {
				t.Errorf("files of the database (-before the reads +after):\n%s", diff)
			}
			create("bottle-wide-1a2b3c4d", "--dns=1.1.1.1", "--net-backend=virtio-net", "--port=8080:80")
			got, err := w.driver.Policy(t.Context(), "bottle-wide-1a2b3c4d")
			if want := []string{"dns", "network_backend", "ports"}; err != nil || !slices.Equal(got.Extra, want) {
				t.Errorf("extra keys: got %q, %v, want %q", got.Extra, err, want)
			}
		})
	}
}

// databaseFiles returns the names of the files that the database consists of.
// Some releases keep the write-ahead log between calls.
func (w *world) databaseFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(w.database()))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
