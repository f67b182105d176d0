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

// TestLogIsBounded checks that a guest with endless denials does not fill the
// disk, and that a follower gets the last denial although the log file was
// rotated meanwhile.
func TestLogIsBounded(t *testing.T) {
	require.Full(t, "writes 60 MB of log")
	d := dockertest.Start(t)
	d.LoadForeign(t)
	e, c := newEngine(t, d), d.Client(t)
	e.logBytes = 16 << 20 // so that the test does not take minutes
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
	decided, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- e.FollowDecisions(ctx, spec.Owner, time.Time{}, func(d host.Decision) {
			if d.Port == 2 {
				decided <- d.Host
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
	case got := <-decided:
		if got != "last.example.com" {
			t.Errorf("decision: got host %q, want last.example.com", got)
		}
	case err := <-ended:
		t.Errorf("follow: ended with %v", err)
	case <-time.After(30 * time.Second):
		t.Error("follow: did not get the last denial within 30 s")
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
