// SPDX-License-Identifier: Apache-2.0

// Package state stores the stand-in's machines in the same places as smolvm:
// below $HOME/.local/share/smolvm and $HOME/.cache/smolvm.
//
// smolvm's database is SQLite. The stand-in instead uses a JSON file next to it,
// which it writes under a lock and replaces by rename. Reads therefore need no
// lock, never wait for a writer, and need not open a database, which matters over
// thousands of calls. Every change is mirrored into a database with smolvm's name
// and layout, for programs that read it. The stand-in itself never reads records
// from that database.
package state

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
)

// Store gives access to the machines of one user.
type Store struct {
	data  string // …/.local/share/smolvm
	cache string // …/.cache
}

// Open determines the paths; it creates nothing. override is --state-dir or
// $SMOLVM_DATA_DIR, which replaces HOME if it is not empty.
func Open(override string, getenv func(string) string) (*Store, error) {
	home := override
	if home != "" {
		abs, err := filepath.Abs(home)
		if err != nil {
			return nil, err
		}
		return &Store{filepath.Join(abs, ".local/share/smolvm"), filepath.Join(abs, ".cache")}, nil
	}
	if home = getenv("HOME"); home == "" {
		if home = passwdHome(os.Getuid()); home == "" {
			return nil, fmt.Errorf("database not available: could not determine local data directory")
		}
	}
	s := &Store{filepath.Join(home, ".local/share/smolvm"), filepath.Join(home, ".cache")}
	if x := getenv("XDG_DATA_HOME"); filepath.IsAbs(x) {
		s.data = filepath.Join(x, "smolvm")
	}
	if x := getenv("XDG_CACHE_HOME"); filepath.IsAbs(x) {
		s.cache = x
	}
	return s, nil
}

// Database returns the path of the SQLite file with every record, for other
// programs.
func (s *Store) Database() string { return filepath.Join(s.data, "server/smolvm.db") }

// records returns the path of the authoritative JSON file.
func (s *Store) records() string { return filepath.Join(s.data, "server/standin.json") }

// AgentRootfs returns the default folder of smolvm's guest files.
func (s *Store) AgentRootfs() string { return filepath.Join(s.data, "agent-rootfs") }

// Archives returns the folder of the content-addressed cache of image archives.
func (s *Store) Archives() string { return filepath.Join(s.cache, "smolvm-image-archives") }

// Layers returns the folder of the content-addressed cache of unpacked images.
func (s *Store) Layers() string { return filepath.Join(s.cache, "smolvm-standin-rootfs") }

// VMs returns the folder that holds the folders of all machines.
func (s *Store) VMs() string { return filepath.Join(s.cache, "smolvm/vms") }

// Dir returns the folder of a machine. Its name is a hash, so that the length and
// characters of the machine's name do not matter.
func (s *Store) Dir(name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(s.VMs(), hex.EncodeToString(sum[:])[:16])
}

// Records are the records of all machines, by name.
type Records map[string]*machine.Record

// Load reads all records.
func (s *Store) Load() (Records, error) {
	if err := os.MkdirAll(filepath.Dir(s.Database()), 0o755); err != nil {
		return nil, fmt.Errorf("database operation failed: create directory: %w", Rust(err))
	}
	if err := checkHeader(s.Database()); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(s.records())
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(b) == 0 {
		return Records{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("database operation failed: open: %w", Rust(err))
	}
	all := Records{}
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("smolvm stand-in: %s: %w", s.records(), err)
	}
	return all, nil
}

// Change loads the records, calls f to edit them and writes them back, while
// holding the database's lock. If f fails, Change writes nothing and returns f's
// error.
func (s *Store) Change(f func(Records) error) error {
	if err := os.MkdirAll(filepath.Dir(s.Database()), 0o755); err != nil {
		return fmt.Errorf("database operation failed: create directory: %w", Rust(err))
	}
	unlock, err := Lock(s.records()+".lock", unix.LOCK_EX)
	if err != nil {
		return fmt.Errorf("database operation failed: lock: %w", Rust(err))
	}
	defer unlock()
	all, err := s.Load()
	if err != nil {
		return err
	}
	if err := f(all); err != nil {
		return err
	}
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if err := writeFile(s.records(), b); err != nil {
		return err
	}
	return mirror(s.Database(), all)
}

// Names returns the names of all records, sorted.
func (r Records) Names() []string {
	names := make([]string, 0, len(r))
	for n := range r {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Lock takes a flock on path and creates the file if necessary. It waits for the
// lock unless how contains LOCK_NB.
func Lock(path string, how int) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// writeFile replaces path atomically by rename.
func writeFile(path string, b []byte) error {
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return fmt.Errorf("database operation failed: write: %w", Rust(err))
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("database operation failed: write: %w", Rust(err))
	}
	return nil
}
