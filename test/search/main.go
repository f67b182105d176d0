// SPDX-License-Identifier: Apache-2.0

// Command search looks for a value in the memory, the environment and the command lines
// of processes, and in files. It reads the value from standard input, so that it appears
// in no command line, and it looks for it as it is, in base64 and in hexadecimal.
//
// usage: search PLACE… <VALUE
//
// A place is mem=PID (all readable memory of a process), env=PID (its environment and
// command line), tree=FOLDER (all regular files below it) or not=PATH (a folder or file
// that the search of a tree leaves out). The output is the number of bytes searched, and a line for
// each hit.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const chunk = 1 << 20

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "search:", err)
		os.Exit(1)
	}
}

// pattern is one form of the value.
type pattern struct {
	name string
	text []byte
}

// patterns returns the forms of a value. Of base64, each has only the characters that
// the value determines, because the value may be in the middle of a longer text.
func patterns(value []byte) []pattern {
	all := []pattern{
		{"plain", value},
		{"hex", []byte(hex.EncodeToString(value))},
		{"HEX", bytes.ToUpper([]byte(hex.EncodeToString(value)))},
	}
	for offset := range 3 {
		encoded := base64.StdEncoding.EncodeToString(append(make([]byte, offset), value...))
		end := (offset + len(value)) * 8 / 6
		all = append(all, pattern{fmt.Sprintf("base64+%d", offset), []byte(encoded[(offset*8+5)/6 : end])})
	}
	return all
}

// search counts what was searched, and prints hits.
type search struct {
	patterns []pattern
	overlap  int
	bytes    int64
	out      io.Writer
}

func run(places []string, in io.Reader, out io.Writer) error {
	value, err := io.ReadAll(io.LimitReader(in, 4096))
	if err != nil {
		return err
	}
	if len(value) < 12 {
		return errors.New("want a value of at least 12 bytes on standard input")
	}
	s := &search{patterns: patterns(value), out: out}
	for _, p := range s.patterns {
		s.overlap = max(s.overlap, len(p.text))
	}
	var skipped []string
	for _, p := range places {
		if path, ok := strings.CutPrefix(p, "not="); ok {
			skipped = append(skipped, filepath.Clean(path))
		}
	}
	for _, p := range places {
		kind, what, _ := strings.Cut(p, "=")
		switch kind {
		case "mem":
			err = s.memory(what)
		case "env":
			err = errors.Join(s.file("/proc/"+what+"/environ"), s.file("/proc/"+what+"/cmdline"))
		case "tree":
			err = s.tree(what, skipped)
		case "not":
		default:
			err = fmt.Errorf("place %q: want mem=, env=, tree= or not=", p)
		}
		if err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(out, "searched %d bytes\n", s.bytes)
	return err
}

// look searches from offset to the end of what at reads, and prints at most one hit
// of each form. An error of reading ends the search.
func (s *search) look(where string, at io.ReaderAt, offset, end int64) error {
	buffer := make([]byte, chunk+s.overlap)
	var found []string
	for ; offset < end; offset += chunk {
		n, err := at.ReadAt(buffer[:min(int64(len(buffer)), end-offset)], offset)
		s.bytes += int64(min(n, chunk))
		for _, p := range s.patterns {
			if i := bytes.Index(buffer[:n], p.text); i >= 0 && !slices.Contains(found, p.name) {
				found = append(found, p.name)
				fmt.Fprintf(s.out, "hit: %s, at %#x, %s\n", where, offset+int64(i), p.name)
			}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

// memory searches all readable memory of a process that is still running.
func (s *search) memory(pid string) error {
	maps, err := os.ReadFile("/proc/" + pid + "/maps")
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	mem, err := os.Open("/proc/" + pid + "/mem")
	if err != nil {
		return err
	}
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[1][0] != 'r' || slices.Contains([]string{"[vvar]", "[vsyscall]", "[vvar_vclock]"}, f[len(f)-1]) {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		first, err1 := strconv.ParseInt(from, 16, 64)
		last, err2 := strconv.ParseInt(to, 16, 64)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		err := s.look("memory of "+pid+" "+f[len(f)-1], mem, first, last)
		// A mapping may be of a device, past the end of a file, or gone by now.
		if err != nil && !errors.Is(err, unix.EIO) && !errors.Is(err, unix.EFAULT) && !gone(err) {
			return err
		}
	}
	return nil
}

// file searches a file of /proc.
func (s *search) file(path string) error {
	text, err := os.ReadFile(path)
	// Outside a user namespace there are processes that even root may not read.
	if gone(err) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return errors.Join(err, s.look(path, bytes.NewReader(text), 0, int64(len(text))))
}

// gone reports that a process or a file ended meanwhile.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// tree searches the regular files below a folder.
func (s *search) tree(root string, skipped []string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case gone(err):
			return nil
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(skipped, path):
			return fs.SkipDir
		case !d.Type().IsRegular() || slices.Contains(skipped, path):
			return nil
		}
		f, err := os.Open(path)
		if gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		return s.data(path, f)
	})
}

// data searches a file without its holes: the disk of a machine is mostly a hole.
func (s *search) data(path string, f *os.File) error {
	for end := int64(0); ; {
		start, err := unix.Seek(int(f.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := s.look(path, f, start, end); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
}
