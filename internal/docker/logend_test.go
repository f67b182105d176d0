// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// writeContainer writes docker's answer to an inspection of the owner's
// container.
func writeContainer(t *testing.T, w http.ResponseWriter, owner host.Owner, id, state, started string) {
	t.Helper()
	err := json.NewEncoder(w).Encode(map[string]any{
		"Id": id, "Config": map[string]any{"Labels": labelsOf(owner)}, "HostConfig": map[string]any{}, "NetworkSettings": map[string]any{},
		"State": map[string]any{"Status": state, "Running": state == "running", "StartedAt": started},
	})
	if err != nil {
		t.Error(err)
	}
}

// TestFollowEnds checks that the container's state after the end of the log
// decides whether the run ended or the log was lost.
func TestFollowEnds(t *testing.T) {
	const start = "2026-01-02T03:04:05Z"
	foreign := testOwner
	foreign.Cluster = "cluster-2"
	for name, tt := range map[string]struct {
		then func(w http.ResponseWriter)
		want error
	}{
		"removed":       {func(w http.ResponseWriter) { http.Error(w, `{"message":"No such container"}`, http.StatusNotFound) }, nil},
		"taken over":    {func(w http.ResponseWriter) { writeContainer(t, w, foreign, "b", "running", start) }, nil},
		"replaced":      {func(w http.ResponseWriter) { writeContainer(t, w, testOwner, "b", "running", start) }, nil},
		"stopped":       {func(w http.ResponseWriter) { writeContainer(t, w, testOwner, "a", "exited", start) }, nil},
		"started again": {func(w http.ResponseWriter) { writeContainer(t, w, testOwner, "a", "running", "2026-01-02T03:04:06Z") }, nil},
		"lost":          {func(w http.ResponseWriter) { writeContainer(t, w, testOwner, "a", "running", start) }, host.ErrUnavailable},
		"docker down":   {func(w http.ResponseWriter) { http.Error(w, "{}", http.StatusServiceUnavailable) }, host.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			var inspections atomic.Int32
			e := engineOn(t, func(w http.ResponseWriter, r *http.Request) {
				switch {
				case strings.HasSuffix(r.URL.Path, "/_ping"):
					hangAfterPing(w, r)
				case strings.HasSuffix(r.URL.Path, "/logs"):
					_, _ = io.WriteString(w, "\x01\x00\x00\x00\x00\x00\x00\x10half of it")
				case inspections.Add(1) == 1:
					writeContainer(t, w, testOwner, "a", "running", start)
				default:
					tt.then(w)
				}
			})
			err := e.FollowDecisions(t.Context(), testOwner, time.Time{}, func(host.Decision) { t.Error("got a decision, want none") })
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// TestFollowOfHangingDocker checks that FollowDecisions ends when dockerd hangs,
// although a hanging dockerd does not close its streams.
func TestFollowOfHangingDocker(t *testing.T) {
	var silent atomic.Bool
	e := engineOn(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/logs"):
			_ = http.NewResponseController(w).Flush()
			silent.Store(true)
			hang(w, r)
		case strings.HasSuffix(r.URL.Path, "/_ping") && silent.Load():
			http.Error(w, "{}", http.StatusServiceUnavailable)
		case strings.HasSuffix(r.URL.Path, "/_ping"):
			hangAfterPing(w, r)
		default:
			writeContainer(t, w, testOwner, "a", "running", "2026-01-02T03:04:05Z")
		}
	})
	e.streamCheck = 50 * time.Millisecond
	ended := make(chan error, 1)
	go func() { ended <- e.FollowDecisions(t.Context(), testOwner, time.Time{}, func(host.Decision) {}) }()
	select {
	case err := <-ended:
		if !errors.Is(err, host.ErrUnavailable) || errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("did not end within 20 s")
	}
}
