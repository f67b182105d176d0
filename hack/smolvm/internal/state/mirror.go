// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"

	_ "modernc.org/sqlite" // registers the driver
)

// mirror makes the database hold exactly these records. As in releases before
// 1.22.0, its write-ahead log exists only during a write.
func mirror(path string, all Records) error {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(wal)&_pragma=synchronous(off)&_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1)
	if err := writeRows(db, all); err != nil {
		return fmt.Errorf("database operation failed: update vms: %w", err)
	}
	return db.Close()
}

func writeRows(db *sql.DB, all Records) error {
	if _, err := db.Exec("CREATE TABLE IF NOT EXISTS vms (name TEXT PRIMARY KEY NOT NULL, data BLOB NOT NULL)"); err != nil {
		return err
	}
	old, err := readRows(db)
	if err != nil {
		return err
	}
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	for name, r := range all {
		data, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if !bytes.Equal(old[name], data) {
			if _, err := tx.Exec("INSERT OR REPLACE INTO vms VALUES (?, ?)", name, data); err != nil {
				return err
			}
		}
		delete(old, name)
	}
	for name := range maps.Keys(old) {
		if _, err := tx.Exec("DELETE FROM vms WHERE name = ?", name); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func readRows(db *sql.DB) (map[string][]byte, error) {
	rows, err := db.Query("SELECT name, data FROM vms")
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	found := map[string][]byte{}
	for rows.Next() {
		var name string
		var data []byte
		if err := rows.Scan(&name, &data); err != nil {
			return nil, err
		}
		found[name] = data
	}
	return found, rows.Err()
}

// checkHeader rejects a file that is not a database, with smolvm's error text.
func checkHeader(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("database operation failed: open: %w", Rust(err))
	}
	defer f.Close()
	const magic = "SQLite format 3\x00"
	head := make([]byte, len(magic))
	if n, _ := io.ReadFull(f, head); n > 0 && string(head) != magic {
		return fmt.Errorf("database operation failed: configure pragmas: file is not a database")
	}
	return nil
}
