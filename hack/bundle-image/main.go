// SPDX-License-Identifier: Apache-2.0

// Command bundle-image writes the default bundle's image as an archive for
// docker load, for sites that scan or mirror images. Agents do not need this
// file: each agent makes and loads the image from bottle-bundle.
//
// usage: go run ./hack/bundle-image EXECUTABLE ARCHIVE
package main

import (
	"fmt"
	"os"

	"botbottle.dev/bottle-operator/internal/bundleimage"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: bundle-image EXECUTABLE ARCHIVE")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "bundle-image:", err)
		os.Exit(1)
	}
}

func write(executable, archive string) error {
	image, err := bundleimage.New(executable)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(".", ".bundle-*.tar")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := image.WriteArchive(f); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Chmod(f.Name(), 0o644); err != nil {
		return err
	}
	fmt.Println(image.Reference())
	return os.Rename(f.Name(), archive)
}
