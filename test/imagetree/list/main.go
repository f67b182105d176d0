// SPDX-License-Identifier: Apache-2.0

// Command list prints the files in a folder, encoded by imagetree. It is static,
// so that a guest needs nothing else to list its own tree.
//
// usage: list FOLDER
package main

import (
	"fmt"
	"os"

	"botbottle.dev/bottle-operator/test/imagetree"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: list FOLDER")
		os.Exit(2)
	}
	tree, err := imagetree.OfFolder(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "list:", err)
		os.Exit(1)
	}
	text, err := tree.Encode()
	if err != nil {
		fmt.Fprintln(os.Stderr, "list:", err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, text)
}
