// SPDX-License-Identifier: Apache-2.0

// Command images writes the small images that the development cluster and the
// tests use, in the format of `docker save`: guest.tar, the default root file
// system of guests; foreign-bundle.tar, a sidecar image from outside this project;
// and pause.tar, which keeps the namespaces of Pods. The first two consist of a
// shell, busybox, a small HTTP client and a few files. All are made with
// archive/tar alone. The same programs give the same bytes.
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
	var from sources
	flag.StringVar(&from.shell, "shell", "bash-static", "statically linked shell: a path, or a name to find on PATH")
	flag.StringVar(&from.busybox, "busybox", "busybox", "statically linked busybox: a path, or a name to find on PATH")
	flag.StringVar(&from.wget, "wget", "", "the HTTP client, built from hack/images/wget: a path (required)")
	flag.StringVar(&from.pause, "pause", "", "the pause program, built from hack/images/pause: a path (required)")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: images [-shell FILE] [-busybox FILE] -wget FILE -pause FILE OUTDIR\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 || from.wget == "" || from.pause == "" {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(from, flag.Arg(0)); err != nil {
		fmt.Fprintf(os.Stderr, "images: %v\n", err)
		os.Exit(1)
	}
}

func run(from sources, dir string) error {
	programs, err := readPrograms(from)
	if err != nil {
		return err
	}
	// Others must be able to read it: each machine's VMM runs as a separate user.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the output folder: %w", err)
	}
	for _, img := range []struct {
		file  string
		image image
	}{
		{"guest.tar", guestImage(programs)},
		{"foreign-bundle.tar", foreignBundleImage(programs)},
		{"pause.tar", pauseImage(programs)},
	} {
		start := time.Now()
		content, err := img.image.archive()
		if err != nil {
			return fmt.Errorf("build %s: %w", img.file, err)
		}
		wrote, err := replaceFile(filepath.Join(dir, img.file), content)
		if err != nil {
			return err
		}
		result := "unchanged"
		if wrote {
			result = "written"
		}
		fmt.Printf("images  %-18s %s (%s), %d KiB, %d ms\n",
			img.file, result, img.image.tag, len(content)/1024, time.Since(start).Milliseconds())
	}
	return nil
}

// replaceFile makes path hold content with mode 0644 and reports whether it had
// to write. It replaces the file by rename, never in place: smolvm hard-links
// image archives into a content-addressed cache, which an in-place write would
// corrupt.
func replaceFile(path string, content []byte) (bool, error) {
	have, err := os.ReadFile(path)
	switch {
	case err == nil && bytes.Equal(have, content):
		return false, os.Chmod(path, 0o644)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("read the old archive: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return false, fmt.Errorf("make a temporary file: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // fails if it was renamed
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
