// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// openDatabase is a database that another program has open.
type openDatabase struct {
	path string
	db   *sql.DB
}

func newDatabase(t *testing.T) *openDatabase {
	t.Helper()
	path := filepath.Join(t.TempDir(), "smolvm.db")
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(wal)&_pragma=wal_autocheckpoint(0)&_pragma=cache_size(2)")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1) // pragmas apply to one connection
	t.Cleanup(func() { db.Close() })
	return &openDatabase{path, db}
}

func (w *openDatabase) exec(t *testing.T, query string, args ...any) {
	t.Helper()
	if _, err := w.db.Exec(query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// file returns the database as one file, without a log.
func (w *openDatabase) file(t *testing.T) string {
	t.Helper()
	w.exec(t, "PRAGMA wal_checkpoint(TRUNCATE)")
	content, err := os.ReadFile(w.path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// machines returns the rows of a snapshot, "" if it has no table, and closes it.
func machines(t *testing.T, s *snapshot) string {
	t.Helper()
	integrity := ""
	if err := s.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&integrity); err != nil || integrity != "ok" {
		t.Errorf("integrity: got %q, %v, want ok", integrity, err)
	}
	found := rows(t, s)
	if err := s.Close(); err != nil {
		t.Errorf("close: got %v, want nil", err)
	}
	return found
}

type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func rows(t *testing.T, q queryer) string {
	t.Helper()
	r, err := q.QueryContext(t.Context(), "SELECT name, data FROM vms ORDER BY name")
	if err != nil && strings.Contains(err.Error(), "no such table") {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all []string
	for r.Next() {
		var name, data string
		if err := r.Scan(&name, &data); err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%s=%d:%.8s", name, len(data), data))
	}
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	return "\n" + strings.Join(all, "\n")
}

// history changes the database in many ways, one transaction each, and calls
// after for each. what is the statement, or "" while a transaction is open.
func (w *openDatabase) history(t *testing.T, after func(what string)) {
	t.Helper()
	do := func(query string, args ...any) {
		t.Helper()
		w.exec(t, query, args...)
		after(query)
	}
	do("CREATE TABLE vms (name TEXT PRIMARY KEY NOT NULL, data BLOB NOT NULL)")
	for i := range 40 {
		do("INSERT INTO vms VALUES (?, ?)", fmt.Sprintf("m%02d", i), strings.Repeat(fmt.Sprintf("%02d", i), 400))
	}
	do("INSERT INTO vms VALUES ('long', ?)", strings.Repeat("x", 50_000))
	do("PRAGMA wal_checkpoint(TRUNCATE)")
	do("UPDATE vms SET data = 'short' WHERE name = 'long'")
	do("PRAGMA wal_checkpoint(RESTART)") // the log keeps frames that are no longer valid
	do("INSERT INTO vms VALUES ('after', 'restart')")
	do("DELETE FROM vms WHERE name LIKE 'm1%'")
	do("VACUUM") // fewer pages
	do("INSERT INTO vms VALUES ('again', ?)", strings.Repeat("y", 90_000))
	tx, err := w.db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	// More than the cache holds, so that the log gets uncommitted frames.
	if _, err := tx.Exec("INSERT INTO vms VALUES ('never', ?)", strings.Repeat("z", 90_000)); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec("UPDATE vms SET data = data || '!'"); err != nil {
		t.Fatal(err)
	}
	after("")
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	do("INSERT INTO vms VALUES ('last', '1')")
}

func TestSnapshotHoldsCommittedData(t *testing.T) {
	w, copies := newDatabase(t), t.TempDir()
	want := ""
	w.history(t, func(what string) {
		if what != "" {
			want = rows(t, w.db) // otherwise a transaction is open
		}
		files := listing(t, filepath.Dir(w.path))
		copied, err := takeSnapshot(copies, w.path)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got := machines(t, copied); got != want {
			t.Errorf("after %q:\ngot  %q,\nwant %q", what, got, want)
		}
		if diff := cmp.Diff(files, listing(t, filepath.Dir(w.path))); diff != "" {
			t.Errorf("after %q: files (-before +after):\n%s", what, diff)
		}
	})
	w.db.Close() // checkpoints and removes the log
	copied, err := takeSnapshot(copies, w.path)
	if err != nil {
		t.Fatal(err)
	}
	if got := machines(t, copied); got != want || !absent(w.path+"-wal") {
		t.Errorf("closed: got %q, want the same without a log", got)
	}
	if left := listing(t, copies); len(left) > 0 {
		t.Errorf("copies: got %q, want none left", left)
	}
}

// Every snapshot of a database that is being written shows the state after one
// transaction.
func TestSnapshotOfABusyDatabase(t *testing.T) {
	w, copies := newDatabase(t), t.TempDir()
	w.exec(t, "PRAGMA wal_autocheckpoint = 50") // the log restarts often
	w.exec(t, "CREATE TABLE vms (name TEXT PRIMARY KEY NOT NULL, data BLOB NOT NULL)")
	for i := range 200 {
		w.exec(t, "INSERT INTO vms VALUES (?, ?)", fmt.Sprintf("m%03d", i), fmt.Sprintf("%08d%03000d", 0, 0))
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	var pause atomic.Int64 // grows until snapshots succeed, even on a slow machine
	pause.Store(int64(time.Millisecond))
	go func() {
		defer close(stopped)
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(pause.Load())):
			}
			if _, err := w.db.Exec("UPDATE vms SET data = ?", fmt.Sprintf("%08d%03000d", n, n)); err != nil {
				t.Errorf("write %d: %v", n, err)
				return
			}
		}
	}()
	seen := map[string]bool{}
	for started := time.Now(); !t.Failed(); {
		if took := time.Since(started); took > 30*time.Second || took > 3*time.Second && len(seen) >= 5 {
			break
		}
		copied, err := takeSnapshot(copies, w.path)
		if errors.Is(err, errChanging) {
			pause.Add(int64(time.Millisecond))
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Split(machines(t, copied), "\n")[1:]
		for i, row := range all {
			if _, number, _ := strings.Cut(row, ":"); i > 0 && !strings.HasSuffix(all[0], ":"+number) {
				t.Errorf("got %s and %s, want rows of one transaction", row, all[0])
				break
			}
		}
		seen[all[0]] = true
	}
	close(stop)
	<-stopped
	if len(seen) < 5 {
		t.Errorf("saw %d transactions, want at least 5", len(seen))
	}
}

func absent(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}

// listing returns every file in dir with its size and modification time.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			all = append(all, fmt.Sprint(e.Name(), " ", info.Size(), " ", info.ModTime()))
		}
	}
	return all
}

// Wherever the log is cut off, the snapshot holds what was committed before.
func TestSnapshotOfATornLog(t *testing.T) {
	w := newDatabase(t)
	states := []string{""}
	w.exec(t, "PRAGMA user_version = 1") // creates the file
	w.exec(t, "PRAGMA wal_checkpoint(TRUNCATE)")
	w.exec(t, "CREATE TABLE vms (name TEXT PRIMARY KEY NOT NULL, data BLOB NOT NULL)")
	states = append(states, rows(t, w.db))
	for i := range 6 {
		w.exec(t, "INSERT INTO vms VALUES (?, ?)", fmt.Sprint("m", i), strings.Repeat("x", 3000))
		states = append(states, rows(t, w.db))
	}
	db, err := os.ReadFile(w.path)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(w.path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	path, copies := filepath.Join(t.TempDir(), "db"), t.TempDir()
	readWith := func(log []byte) string {
		t.Helper()
		ok(t, os.WriteFile(path, db, 0o600))
		ok(t, os.WriteFile(path+"-wal", log, 0o600))
		copied, err := takeSnapshot(copies, path)
		if err != nil {
			t.Fatal(err)
		}
		return machines(t, copied)
	}
	reached := 0
	for cut := 0; cut <= len(log); cut += 509 {
		got := slices.Index(states, readWith(log[:cut]))
		if got < reached {
			t.Fatalf("cut at %d: got state %d after state %d, want the same or a later one", cut, got, reached)
		}
		reached = got
	}
	for at := 0; at < len(log); at += 997 {
		broken := slices.Clone(log)
		broken[at] ^= 0x10
		if got := slices.Index(states, readWith(broken)); got < 0 || got == len(states)-1 {
			t.Errorf("byte %d flipped: got state %d, want an earlier one", at, got)
		}
	}
	if got := readWith(log); got != states[len(states)-1] {
		t.Errorf("complete log: got %q, want the last state", got)
	}
}

// Snapshots are as secret as the database, and are removed after use.
func TestSnapshotIsPrivate(t *testing.T) {
	w, copies := newDatabase(t), t.TempDir()
	w.exec(t, "CREATE TABLE vms (name TEXT PRIMARY KEY NOT NULL, data BLOB NOT NULL)")
	s, err := takeSnapshot(copies, w.path)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(copies)
	if err != nil || len(entries) != 1 {
		t.Fatalf("copies: got %v, %v, want one folder", entries, err)
	}
	if info, err := entries[0].Info(); err != nil || info.Mode() != os.ModeDir|0o700 {
		t.Errorf("folder: got %v, %v, want mode 0700", info.Mode(), err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: got %v, want nil", err)
	}
	if left := listing(t, copies); len(left) > 0 {
		t.Errorf("closed: got %q, want nothing left", left)
	}

	_, d := newCLI(t, "1.32.2")
	left := filepath.Join(d.opts.Home, snapshotPrefix+"1")
	ok(t, os.MkdirAll(left, 0o700))
	ok(t, os.WriteFile(filepath.Join(left, "db"), nil, 0o600))
	if _, err := d.Version(t.Context()); err != nil || !absent(left) {
		t.Errorf("snapshot of a crashed agent: got %v, removed: %v, want it removed", err, absent(left))
	}
}

func TestSnapshotOfPlantedFiles(t *testing.T) {
	for what, plant := range planted {
		t.Run(what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "smolvm.db")
			ok(t, os.WriteFile(path, []byte("x"), 0o600))
			plant(t, path+"-wal")
			done := make(chan error, 1)
			go func() { _, err := takeSnapshot(t.TempDir(), path); done <- err }()
			select {
			case err := <-done:
				if err == nil {
					t.Error("got nil, want an error")
				}
			case <-time.After(30 * time.Second):
				t.Error("got no answer in 30 s, want one immediately")
			}
		})
	}
}
