// SPDX-License-Identifier: Apache-2.0

// Command images writes the two small images that the development cluster and
// the tests run on, in the form that `docker save` writes: guest.tar, the
// guest's default root file system, and foreign-bundle.tar, a sidecar that is
// not this project's. Both are busybox and a few files, made with nothing but
// archive/tar; the same busybox gives the same bytes.
//
// It needs no Docker, pulls nothing and runs nothing but `busybox --list`. It
// does not build the product's own bundle image.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

func main() {
	busybox := flag.String("busybox", "busybox", "the statically linked busybox that goes into the images: a path or a name on PATH")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: images [-busybox FILE] OUTDIR\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*busybox, flag.Arg(0)); err != nil {
		fmt.Fprintf(os.Stderr, "images: %v\n", err)
		os.Exit(1)
	}
}

func run(busybox, dir string) error {
	box, err := readBusybox(busybox)
	if err != nil {
		return err
	}
	// Readable by others: each machine's VMM runs as a user of its own.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the output folder: %w", err)
	}
	for _, img := range []struct {
		file  string
		image image
	}{
		{"guest.tar", guestImage(box)},
		{"foreign-bundle.tar", foreignBundleImage(box)},
	} {
		begin := time.Now()
		content, err := img.image.archive()
		if err != nil {
			return fmt.Errorf("build %s: %w", img.file, err)
		}
		wrote, err := replaceFile(filepath.Join(dir, img.file), content)
		if err != nil {
			return err
		}
		said := "unchanged"
		if wrote {
			said = "written"
		}
		fmt.Printf("images  %-18s %s (%s), %d KiB, %d ms\n",
			img.file, said, img.image.tag, len(content)/1024, time.Since(begin).Milliseconds())
	}
	return nil
}

// replaceFile makes path hold content with mode 0644 and says whether it had
// to write. It replaces by rename, never in place: smolvm hard-links an image
// archive into a cache by content, where a later write would show.
func replaceFile(path string, content []byte) (bool, error) {
	have, err := os.ReadFile(path)
	switch {
	case err == nil && bytes.Equal(have, content):
		return false, os.Chmod(path, 0o644)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("look at the old archive: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return false, fmt.Errorf("make a temporary file: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already once it was renamed
	_, err = tmp.Write(content)
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return false, fmt.Errorf("write %s: %w", path, err)
	}
	return true, nil
}
