// SPDX-License-Identifier: Apache-2.0

// Package state keeps the stand-in's machines where smolvm keeps its own:
// below $HOME/.local/share/smolvm and $HOME/.cache/smolvm.
//
// smolvm's database is SQLite. What the stand-in goes by is a JSON file beside
// it, replaced by rename and written under a lock: reads need no lock, never
// block on a writer, and cost no start of a database in each of a thousand
// calls. Every change is mirrored into a database of smolvm's name and layout,
// for those who read that one; nothing is ever read from it here.
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

// Store is one user's world.
type Store struct {
	data  string // …/.local/share/smolvm
	cache string // …/.cache
}

// Open names the places; nothing is created yet. override is --state-dir or
// $SMOLVM_DATA_DIR: it acts as another HOME.
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

// Database is the SQLite file with every record, for others.
func (s *Store) Database() string { return filepath.Join(s.data, "server/smolvm.db") }

// records is the file with every record that counts.
func (s *Store) records() string { return filepath.Join(s.data, "server/standin.json") }

// AgentRootfs is where smolvm looks for its guest files by default.
func (s *Store) AgentRootfs() string { return filepath.Join(s.data, "agent-rootfs") }

// Archives is the cache of image archives by content.
func (s *Store) Archives() string { return filepath.Join(s.cache, "smolvm-image-archives") }

// Layers is the cache of unpacked images by content.
func (s *Store) Layers() string { return filepath.Join(s.cache, "smolvm-standin-rootfs") }

// VMs is the folder of all machines' folders.
func (s *Store) VMs() string { return filepath.Join(s.cache, "smolvm/vms") }

// Dir is the folder of one machine: a hash, so that the name's length and
// letters do not matter.
func (s *Store) Dir(name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(s.VMs(), hex.EncodeToString(sum[:])[:16])
}

// Records is what the database holds, by name.
type Records map[string]*machine.Record

// Load reads every record.
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

// Change loads, lets f edit and writes back, all under the database's lock.
// Nothing is written when f fails.
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

// Names of all records, sorted.
func (r Records) Names() []string {
	names := make([]string, 0, len(r))
	for n := range r {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Lock takes a flock on path, which it creates. It waits, unless how has
// LOCK_NB.
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

// writeFile replaces path in one rename.
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
