// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/test/require"
)

const value = "the-value-7d1f0c2b9e"

func find(t *testing.T, places ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := run(places, strings.NewReader(value), &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestFiles(t *testing.T) {
	for name, content := range map[string]string{
		"plain":            "a" + value + "b",
		"hex":              hex.EncodeToString([]byte("a" + value)),
		"HEX":              strings.ToUpper(hex.EncodeToString([]byte("a" + value))),
		"base64+0":         base64.StdEncoding.EncodeToString([]byte("abc" + value + "d")),
		"base64+1":         base64.StdEncoding.EncodeToString([]byte("abcd" + value + "d")),
		"base64+2":         base64.RawURLEncoding.EncodeToString([]byte("ab" + value)),
		"across two reads": strings.Repeat("x", chunk-3) + value,
	} {
		parent := t.TempDir()
		dir := filepath.Join(parent, "d")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		form := name
		if name == "across two reads" {
			form = "plain"
		}
		if got := find(t, "tree="+dir); !strings.Contains(got, "hit: "+filepath.Join(dir, "f")) || !strings.Contains(got, form+"\n") {
			t.Errorf("%s: got %q, want a hit", name, got)
		}
		if got := find(t, "tree="+parent, "not="+dir); strings.Contains(got, "hit:") {
			t.Errorf("%s, left out: got %q, want no hit", name, got)
		}
	}
}

func TestFileWithHoles(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 36); err != nil {
		t.Fatal(err)
	}
	if got := find(t, "tree="+dir); got != "searched 0 bytes\n" {
		t.Errorf("an empty disk: got %q", got)
	}
	if _, err := f.WriteAt([]byte(value), 1<<35); err != nil {
		t.Fatal(err)
	}
	if got := find(t, "tree="+dir); !strings.Contains(got, fmt.Sprintf("at %#x, plain", 1<<35)) {
		t.Errorf("got %q, want a hit", got)
	}
}

func TestProcess(t *testing.T) {
	require.Root(t)
	// The value is in the environment of a process, and therefore in its memory.
	cmd := exec.Command("/bin/sleep", "600")
	cmd.Env = []string{"V=" + value}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	pid := fmt.Sprint(cmd.Process.Pid)
	for _, place := range []string{"mem=" + pid, "env=" + pid} {
		if got := find(t, place); !strings.Contains(got, "plain\n") {
			t.Errorf("%s: got %q, want a hit", place, got)
		}
	}
	// The value in the memory of this process comes from what it computed.
	held := []byte(strings.ToUpper(strings.ToLower(value)))
	held = bytes.ToLower(held)
	if got := find(t, fmt.Sprintf("mem=%d", os.Getpid())); !strings.Contains(got, "plain\n") {
		t.Errorf("own memory: got %q, want a hit", got)
	}
	runtime.KeepAlive(held)
	if got := find(t, "mem=999999999"); got != "searched 0 bytes\n" {
		t.Errorf("a process that does not exist: got %q", got)
	}
}
