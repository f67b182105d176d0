// SPDX-License-Identifier: Apache-2.0

package state

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
)

func open(t *testing.T, env map[string]string) *Store {
	t.Helper()
	s, err := Open("", func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPaths(t *testing.T) {
	s := open(t, map[string]string{"HOME": "/h"})
	for got, want := range map[string]string{
		s.Database():  "/h/.local/share/smolvm/server/smolvm.db",
		s.Dir("m1"):   "/h/.cache/smolvm/vms/ca0df2c95aa144c1", // the same as in the real smolvm
		s.Dir("nope"): "/h/.cache/smolvm/vms/ca3704aa0b06f595",
		s.Archives():  "/h/.cache/smolvm-image-archives",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	s = open(t, map[string]string{"HOME": "/h", "XDG_DATA_HOME": "/d", "XDG_CACHE_HOME": "/c"})
	if got := s.Database(); got != "/d/smolvm/server/smolvm.db" {
		t.Errorf("with XDG_DATA_HOME: got %s", got)
	}
	if got := s.VMs(); got != "/c/smolvm/vms" {
		t.Errorf("with XDG_CACHE_HOME: got %s", got)
	}
}

func TestConcurrentChanges(t *testing.T) {
	env := map[string]string{"HOME": t.TempDir()}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			name := fmt.Sprintf("m%d", i)
			err := open(t, env).Change(func(r Records) error {
				r[name] = &machine.Record{Name: name}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	got, err := open(t, env).Load()
	if err != nil || len(got) != 20 {
		t.Errorf("got %d records, %v, want 20", len(got), err)
	}
}

func TestChangeWritesNothingOnError(t *testing.T) {
	s := open(t, map[string]string{"HOME": t.TempDir()})
	refused := errors.New("refused")
	err := s.Change(func(r Records) error {
		r["x"] = &machine.Record{Name: "x"}
		return refused
	})
	if !errors.Is(err, refused) {
		t.Errorf("got %v, want %v", err, refused)
	}
	if got, err := s.Load(); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v, want no records", got, err)
	}
}

// TestChangeIsMirrored checks that the database always holds the same records as
// the JSON file.
func TestChangeIsMirrored(t *testing.T) {
	s := open(t, map[string]string{"HOME": t.TempDir()})
	for _, names := range [][]string{{"a"}, {"a", "b"}, {"b"}, {}} {
		err := s.Change(func(r Records) error {
			clear(r)
			for _, n := range names {
				r[n] = &machine.Record{Name: n, CPUs: len(names), AllowedCIDRs: []string{"10.0.0.2/32"}}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		db, err := sql.Open("sqlite", "file:"+s.Database()+"?mode=ro&immutable=1")
		if err != nil {
			t.Fatal(err)
		}
		got, err := readRows(db)
		db.Close()
		if err != nil || len(got) != len(names) {
			t.Fatalf("got %d rows, %v, want %d", len(got), err, len(names))
		}
		for _, n := range names {
			want := fmt.Sprintf(`"cpus":%d`, len(names))
			if !strings.Contains(string(got[n]), want) || !strings.Contains(string(got[n]), `"allowed_cidrs":["10.0.0.2/32"]`) {
				t.Errorf("%s: got %s, want %s and its policy", n, got[n], want)
			}
		}
	}
}

func TestDatabaseErrors(t *testing.T) {
	home := t.TempDir()
	s := open(t, map[string]string{"HOME": home})
	if _, err := s.Load(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Database(), []byte("garbage"), 0o644); err != nil {
		t.Fatal(err)
	}
	const garbage = "database operation failed: configure pragmas: file is not a database"
	if _, err := s.Load(); err == nil || err.Error() != garbage {
		t.Errorf("got %v, want %s", err, garbage)
	}
	file := filepath.Join(home, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	const blocked = "database operation failed: create directory: Not a directory (os error 20)"
	if _, err := open(t, map[string]string{"HOME": file}).Load(); err == nil || err.Error() != blocked {
		t.Errorf("got %v, want %s", err, blocked)
	}
}

func TestRust(t *testing.T) {
	err := Rust(fmt.Errorf("x: %w", syscall.ENOENT))
	if got, want := err.Error(), "No such file or directory (os error 2)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if !errors.Is(err, syscall.ENOENT) {
		t.Errorf("got %v, want an error that wraps ENOENT", err)
	}
}
