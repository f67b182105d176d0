// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/docker/dockertest"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/require"
)

// TestLogIsBounded: a guest that is denied without end fills no disk, and who
// follows is told of the last denial though the log was replaced under it.
func TestLogIsBounded(t *testing.T) {
	require.Full(t, "writes 60 MB of log")
	d := dockertest.Start(t)
	d.LoadForeign(t)
	e, c := newEngine(t, d), d.Client(t)
	spec := testSpec
	spec.Image = dockertest.ForeignImage
	if err := e.EnsureNetwork(t.Context(), testNetwork); err != nil {
		t.Fatal(err)
	}
	if _, err := e.EnsureBundle(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- e.FollowDecisions(ctx, spec.Owner, time.Time{}, func(d host.Decision) {
			if d.Port == 2 {
				told <- d.Host
			}
		})
	}()
	line := `{"decision":"deny","host":"` + strings.Repeat("x", 60) + `","port":1,"reason":"` + strings.Repeat("y", 100) + `"}` + "\n"
	batch := strings.Repeat(line, 1000)
	for written := 0; written < 60<<20; written += len(batch) {
		writeLog(t, c, spec.Owner, batch)
	}
	writeLog(t, c, spec.Owner, `{"decision":"deny","host":"last.example.com","port":2}`+"\n")
	select {
	case got := <-told:
		if got != "last.example.com" {
			t.Errorf("told: got %q, want the last", got)
		}
	case err := <-ended:
		t.Errorf("follow: ended with %v", err)
	case <-time.After(30 * time.Second):
		t.Error("follow: got nothing of the last denial within 30 s")
	}
	var size int64
	files, err := filepath.Glob(inspect(t, c, spec.Owner).LogPath + "*")
	if err != nil || len(files) == 0 {
		t.Fatalf("log files: got %v, %v", files, err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if most := int64(21 << 20); size > most {
		t.Errorf("log on disk: got %d bytes in %v, want at most %d", size, files, most)
	}
}
