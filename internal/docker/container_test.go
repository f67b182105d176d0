// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/host"
)

// logDecision writes a decision to the log of the container's first process, as
// the built-in bundle would, between lines that are not decisions. On a busy
// machine text that is written soon after the container's start may be lost, so
// logDecision writes it again until it is in the log. A line that is written just
// as dockerd starts to follow the log is not delivered until the next line is
// written, and dockerd may miss that one too. So logDecision keeps writing lines
// for a while.
func logDecision(t *testing.T, c *client.Client, owner host.Owner, d host.Decision) {
	t.Helper()
	marker := fmt.Sprint("marker-", time.Now().UnixNano())
	line, err := json.Marshal(map[string]any{"decision": d.Verdict, "host": d.Host, "port": d.Port, "reason": d.Reason, "cause": d.Cause, "address": d.Address, "leftOut": d.LeftOut, "time": marker})
	if err != nil {
		t.Fatal(err)
	}
	for attempt := 1; ; attempt++ {
		writeLog(t, c, owner, "no decision\n{\"event\":\"rules\"}\n"+strings.Repeat("long", 10_000)+"\n"+string(line)+"\n")
		if logged(t, c, owner, marker) {
			break
		}
		if attempt == 3 {
			t.Fatalf("log: lost the text although it was written %d times", attempt)
		}
	}
	pid, ctx := inspect(t, c, owner).State.Pid, t.Context()
	go func() {
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for range 60 {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if writeTo(pid, "no decision\n") != nil {
				return // it has ended
			}
		}
	}()
}

// logged waits briefly for the text to appear in the container's log, and reports
// whether it did.
func logged(t *testing.T, c *client.Client, owner host.Owner, text string) bool {
	t.Helper()
	for range 100 {
		r, err := c.ContainerLogs(t.Context(), owner.ID(), client.ContainerLogsOptions{ShowStdout: true})
		if err != nil {
			t.Fatal(err)
		}
		log, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(log, []byte(text)) {
			return true
		}
		time.Sleep(50 * time.Millisecond)
	}
	return false
}

// writeLog writes to the standard output of the container's first process.
func writeLog(t *testing.T, c *client.Client, owner host.Owner, text string) {
	t.Helper()
	if err := writeTo(inspect(t, c, owner).State.Pid, text); err != nil {
		t.Fatal(err)
	}
}

func writeTo(pid int, text string) error {
	out, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/1", pid), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = out.WriteString(text)
	return errors.Join(err, out.Close())
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
