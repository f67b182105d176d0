// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Busybox is the only program in the root of a machine without an image. It must
// be statically linked.
const Busybox = "/bin/busybox"

// Bare returns the root for machines without an image. It makes this folder below
// parent once for each version of busybox.
func Bare(parent string) (string, error) {
	program, err := os.ReadFile(Busybox)
	if err != nil {
		return "", fmt.Errorf("a machine without an image needs %s: %w", Busybox, err)
	}
	sum := sha256.Sum256(program)
	dir := filepath.Join(parent, "bare-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	list, err := exec.Command(Busybox, "--list").Output()
	if err != nil {
		return "", fmt.Errorf("list applets: %w", err)
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(parent, "bare-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	if err := writeRoot(fresh, program, strings.Fields(string(list))); err != nil {
		return "", err
	}
	if err := os.Rename(fresh, dir); err != nil && !os.IsExist(err) {
		if _, statErr := os.Stat(dir); statErr != nil {
			return "", err
		}
	}
	return dir, nil
}

func writeRoot(dir string, program []byte, applets []string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for _, d := range []string{"bin", "sbin", "usr/bin", "usr/sbin", "etc", "root", "var", "workspace"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), program, 0o755); err != nil {
		return err
	}
	for _, a := range applets {
		if a == "busybox" || strings.Contains(a, "/") {
			continue
		}
		if err := os.Symlink("/bin/busybox", filepath.Join(dir, "bin", a)); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"group":  "root:x:0:\nnobody:x:65534:\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
