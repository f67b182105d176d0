// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/docker/dockertest"
	"botbottle.dev/bottle-operator/internal/host"
)

// speaks makes a front an Engine that knows the minor versions from lowest to highest
// of API version 1.
func (f *front) speaks(lowest, highest int) {
	f.with(func(w http.ResponseWriter, r *http.Request) bool {
		first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		if first == "_ping" {
			w.Header().Set("Api-Version", fmt.Sprint("1.", highest))
			return refuse(w, http.StatusOK, "OK")
		}
		minor, err := strconv.Atoi(strings.TrimPrefix(first, "v1."))
		switch {
		case err != nil:
			return false // no version
		case minor > highest:
			return refuse(w, http.StatusBadRequest, fmt.Sprintf("client version 1.%d is too new. Maximum supported API version is 1.%d", minor, highest))
		case minor < lowest:
			return refuse(w, http.StatusBadRequest, fmt.Sprintf("client version 1.%d is too old. Minimum supported API version is 1.%d, please upgrade your client to a newer version", minor, lowest))
		}
		return false
	})
}

// highestMinor returns the highest minor version that the real dockerd speaks.
func highestMinor(t *testing.T, c *client.Client) int {
	t.Helper()
	pong, err := c.Ping(t.Context(), client.PingOptions{})
	if err != nil {
		t.Fatal(err)
	}
	minor, err := strconv.Atoi(strings.TrimPrefix(pong.APIVersion, "1."))
	if err != nil {
		t.Fatal(err)
	}
	return minor
}

// TestEngineReplaced replaces the Engine under a running agent by an older release, and
// then by a newer one that does not know the older one's API version.
func TestEngineReplaced(t *testing.T) {
	d := dockertest.Start(t)
	d.LoadForeign(t)
	newest := highestMinor(t, d.Client(t))
	f := newFront(t, d)
	f.speaks(newest-1, newest)
	e := f.engine(t)

	changes := make(chan string, 1000)
	go func() { _ = e.WatchBundles(t.Context(), func(uid string) { changes <- uid }) }()
	use := func(when string) {
		t.Helper()
		for len(changes) > 0 {
			<-changes // from before
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if _, err := e.ListBundles(t.Context()); err != nil {
					t.Errorf("%s: list: got %v, want nil", when, err)
				}
			})
		}
		wg.Wait()
		if err := e.EnsureNetwork(t.Context(), testNetwork); err != nil {
			t.Fatalf("%s: ensure the network: got %v, want nil", when, err)
		}
		spec := testSpec
		spec.Image = dockertest.ForeignImage
		if b, err := e.EnsureBundle(t.Context(), spec); err != nil || !b.Running {
			t.Fatalf("%s: ensure the bundle: got %+v, %v, want it running", when, b, err)
		}
		if err := e.DeleteBundle(t.Context(), testOwner); err != nil {
			t.Fatalf("%s: delete: got %v, want nil", when, err)
		}
		for limit := time.After(time.Minute); ; {
			select {
			case uid := <-changes:
				if uid == testOwner.UID {
					return
				}
			case <-limit:
				t.Fatalf("%s: watch: got no change of the bundle within a minute", when)
			}
		}
	}
	use("before")
	f.speaks(newest-1, newest-1)
	f.restart(t)
	use("rolled back")
	f.speaks(newest, newest)
	f.restart(t)
	use("rolled forward")
	t.Run("a watch alone", func(t *testing.T) { watchAfterRollback(t, d, newest) })
	f.speaks(newest+100, newest+100)
	for call, err := range map[string]error{
		"list": func() error { _, err := e.ListBundles(t.Context()); return err }(),
		"save": func() error { _, err := e.SaveImage(t.Context(), "x"); return err }(),
	} {
		if err == nil || !strings.Contains(err.Error(), "is too old") {
			t.Errorf("no version in common: %s: got %v, want docker's reason", call, err)
		}
	}
	if _, err := e.ListBundles(t.Context()); !errors.Is(err, host.ErrUnavailable) || !strings.Contains(err.Error(), "no API version in common") {
		t.Errorf("no version in common: got %v, want ErrUnavailable with advice", err)
	}
}

// watchAfterRollback checks that a watch negotiates anew by itself: no other call of its
// Engine comes first.
func watchAfterRollback(t *testing.T, d *dockertest.Daemon, newest int) {
	f := newFront(t, d)
	f.speaks(newest-1, newest)
	e := f.engine(t)
	changes := make(chan string, 1000)
	go func() { _ = e.WatchBundles(t.Context(), func(uid string) { changes <- uid }) }()
	if _, err := e.ListBundles(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.speaks(newest-1, newest-1)
	f.restart(t)
	// Another client makes the change.
	direct := newEngine(t, d)
	made := time.NewTicker(time.Second)
	defer made.Stop()
	for limit := time.After(time.Minute); ; {
		select {
		case uid := <-changes:
			if uid == testOwner.UID {
				return
			}
		case <-made.C:
			if err := errors.Join(direct.EnsureNetwork(t.Context(), testNetwork), direct.DeleteNetwork(t.Context(), testOwner)); err != nil {
				t.Fatal(err)
			}
		case <-limit:
			t.Fatal("watch: got no change within a minute of the rollback")
		}
	}
}

func TestVersionRefused(t *testing.T) {
	for text, want := range map[string]bool{
		"Error response from daemon: client version 1.47 is too new. Maximum supported API version is 1.41":                                                true,
		"Error response from daemon: client version 1.40 is too old. Minimum supported API version is 1.44, please upgrade your client to a newer version": true,
		"Error response from daemon: the name is too new":                                                                                                  false,
	} {
		if got := versionRefused(errors.New(text)); got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
	if versionRefused(nil) {
		t.Error("nil: got true, want false")
	}
}
