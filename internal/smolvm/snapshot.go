// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// maxDatabase bounds what is read of one file: a machine takes about 1 KiB,
// the log is folded back every 4 MiB.
const maxDatabase = 64 << 20

// errUnsteady is a database that was being written as it was read.
var errUnsteady = errors.New("smolvm is writing its database")

// snapshot returns the database of path as one file without a log. SQLite
// itself, even told to read only, makes the log and its index when nobody else
// has them open, and takes locks on them, which releases before 1.22.0 do not
// wait for. This only reads, and what it read counts if it was twice the same:
// every writing changes the log, or the file where there is none.
func snapshot(path string) ([]byte, error) {
	type files struct{ log, db []byte }
	var read [2]files
	for i := range read {
		var err error
		// Each file whole and both twice, so that there was an instant, between
		// the two rounds, when they were so together.
		if read[i].log, err = readBounded(path + "-wal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if read[i].db, err = readBounded(path); err != nil {
			return nil, err
		}
	}
	if !bytes.Equal(read[0].log, read[1].log) || !bytes.Equal(read[0].db, read[1].db) {
		return nil, errUnsteady
	}
	if _, err := os.Lstat(path + "-journal"); !errors.Is(err, fs.ErrNotExist) {
		return nil, errUnsteady
	}
	return foldLog(read[0].db, read[0].log), nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDatabase+1))
	if err == nil && len(b) > maxDatabase {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxDatabase)
	}
	return b, err
}

// Sizes and places of SQLite's write-ahead log and file header, as in
// https://sqlite.org/fileformat2.html.
const (
	logHeader   = 32
	frameHeader = 24
	logMagic    = 0x377f0682 // the last bit says that checksums are big-endian
	versionsAt  = 18         // write and read version: 2 needs a log, 1 does not
	fileHeader  = 100
)

// foldLog returns db with all that the log commits. What does not belong to it
// any more, or is not whole, is left out, as SQLite does.
func foldLog(db, log []byte) []byte {
	if len(db) < fileHeader {
		return db
	}
	db = withFrames(db, log)
	db[versionsAt], db[versionsAt+1] = 1, 1
	return db
}

func withFrames(db, log []byte) []byte {
	if len(log) < logHeader || binary.BigEndian.Uint32(log)&^1 != logMagic {
		return db
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if log[3]&1 == 1 {
		order = binary.BigEndian
	}
	var sum checksum
	sum.add(order, log[:24])
	if !sum.is(log[24:logHeader]) {
		return db
	}
	page, salts := int(binary.BigEndian.Uint32(log[8:])), log[16:24]
	if page < 512 || page > 65536 {
		return db
	}
	pending := map[int][]byte{} // of the transaction that is being read
	for rest := log[logHeader:]; len(rest) >= frameHeader+page; rest = rest[frameHeader+page:] {
		head, content := rest[:frameHeader], rest[frameHeader:frameHeader+page]
		sum.add(order, head[:8])
		sum.add(order, content)
		if !bytes.Equal(head[8:16], salts) || !sum.is(head[16:24]) {
			break
		}
		pending[int(binary.BigEndian.Uint32(head))] = content
		size := int(binary.BigEndian.Uint32(head[4:])) // in pages, of a commit
		if size == 0 {
			continue
		}
		if size > maxDatabase/page {
			break
		}
		db = append(db, make([]byte, max(0, size*page-len(db)))...)[:size*page]
		for number, content := range pending {
			if number >= 1 && number <= size {
				copy(db[(number-1)*page:], content)
			}
		}
		clear(pending)
	}
	return db
}

// checksum is that of SQLite's log, which goes on from frame to frame.
type checksum [2]uint32

func (s *checksum) add(order binary.ByteOrder, b []byte) {
	for ; len(b) >= 8; b = b[8:] {
		s[0] += order.Uint32(b) + s[1]
		s[1] += order.Uint32(b[4:]) + s[0]
	}
}

func (s *checksum) is(b []byte) bool {
	return s[0] == binary.BigEndian.Uint32(b) && s[1] == binary.BigEndian.Uint32(b[4:])
}
