// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func write(t *testing.T, text string) (home string) {
	t.Helper()
	home = t.TempDir()
	if err := os.MkdirAll(filepath.Dir(Path(home)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(Path(home), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return home
}

func TestRead(t *testing.T) {
	f, err := Read(t.TempDir())
	if err != nil || f.NoKVM || f.BootFailures != 0 {
		t.Errorf("no file: got %+v, %v, want no faults", f, err)
	}
	f, err = Read(write(t, `{"no_kvm": true, "unreachable": ["a", "b"]}`))
	if err != nil || !f.NoKVM || !Matches(f.Unreachable, "b") || Matches(f.Unreachable, "c") || Matches(f.StopStuck, "a") {
		t.Errorf("got %+v, %v, want no_kvm and two names", f, err)
	}
	if !Matches([]string{"*"}, "any") {
		t.Error(`"*": got no match, want a match for every name`)
	}
	for _, bad := range []string{`{"no_kvn": true}`, `{`, `{"boot_failures": "2"}`} {
		if f, err := Read(write(t, bad)); err == nil {
			t.Errorf("%s: got %+v, want an error", bad, f)
		}
	}
}

func TestTakeGivesEachFaultOnce(t *testing.T) {
	home := write(t, `{"boot_failures": 3, "slow_ls_ms": 7}`)
	var taken atomic.Int32
	var all sync.WaitGroup
	for range 12 {
		all.Go(func() {
			ok, err := Take(home, func(f *Faults) *int { return &f.BootFailures })
			if err != nil {
				t.Error(err)
			}
			if ok {
				taken.Add(1)
			}
		})
	}
	all.Wait()
	f, err := Read(home)
	if err != nil || taken.Load() != 3 || f.BootFailures != 0 || f.SlowListMS != 7 {
		t.Errorf("got %d taken, %+v left, %v, want 3 taken and the rest unchanged", taken.Load(), f, err)
	}
}
