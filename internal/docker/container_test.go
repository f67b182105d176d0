// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/host"
)

// logDecision writes to the log of the container's first process what the
// built-in bundle would, between lines that are no decisions. dockerd misses a
// line that is written while it begins to follow, until the next one is: the
// last line here is that one.
func logDecision(t *testing.T, c *client.Client, owner host.Owner, d host.Decision) {
	t.Helper()
	line, err := json.Marshal(map[string]any{"decision": d.Verdict, "host": d.Host, "port": d.Port, "reason": d.Reason, "time": "then"})
	if err != nil {
		t.Fatal(err)
	}
	writeLog(t, c, owner, "no decision\n{\"event\":\"rules\"}\n"+strings.Repeat("long", 10_000)+"\n"+string(line)+"\n")
	time.Sleep(250 * time.Millisecond)
	writeLog(t, c, owner, "no decision\n")
}

// writeLog writes to where the container's first process writes.
func writeLog(t *testing.T, c *client.Client, owner host.Owner, text string) {
	t.Helper()
	out, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/1", inspect(t, c, owner).State.Pid), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := out.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func tarFile(path string, data []byte) *tarEntry {
	return &tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(path, "/"), Mode: 0o600, Size: int64(len(data))}, data}
}

func tarLink(path, target string) *tarEntry {
	return &tarEntry{tar.Header{Typeflag: tar.TypeSymlink, Name: strings.TrimPrefix(path, "/"), Linkname: target, Mode: 0o777}, nil}
}

type tarEntry struct {
	tar.Header
	data []byte
}

func putFile(t *testing.T, c *client.Client, owner host.Owner, entry *tarEntry) {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&entry.Header); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(entry.data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := c.CopyToContainer(t.Context(), owner.ID(), client.CopyToContainerOptions{DestinationPath: "/", Content: &archive})
	if err != nil {
		t.Fatal(err)
	}
}
