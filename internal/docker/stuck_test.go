// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/docker/dockertest"
	"botbottle.dev/bottle-operator/internal/host"
)

// appendOnly is FS_APPEND_FL: entries can be added to the folder, but not removed.
const appendOnly = 0x20

// keepFolders makes dockerd fail to remove containers: their folders cannot be
// removed from the folder dir until allow is called.
func keepFolders(t *testing.T, dir string) (allow func()) {
	t.Helper()
	set := func(flags int) {
		t.Helper()
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags); err != nil {
			t.Fatalf("set the flags of %s: %v", dir, err)
		}
	}
	set(appendOnly)
	t.Cleanup(func() { set(0) })
	return func() { set(0) }
}

// wantStuck wants an ErrStuck that has all of these words.
func wantStuck(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	if !errors.Is(err, host.ErrStuck) {
		t.Errorf("%s: got %v, want ErrStuck", what, err)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%s: got %v, want %q in it", what, err, word)
		}
	}
}

// runningBundle makes the network and a running bundle of a foreign image.
func runningBundle(t *testing.T, e *Engine) (host.BundleSpec, host.Bundle) {
	t.Helper()
	spec := testSpec
	spec.Image = dockertest.ForeignImage
	if err := e.EnsureNetwork(t.Context(), testNetwork); err != nil {
		t.Fatal(err)
	}
	b, err := e.EnsureBundle(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return spec, b
}

// TestStuck has what can keep a bundle or its network from being made or removed.
func TestStuck(t *testing.T) {
	d := dockertest.Start(t)
	d.LoadForeign(t)
	for name, test := range map[string]func(t *testing.T, d *dockertest.Daemon){
		"removal in progress":      removalInProgress,
		"endpoint of a ghost":      endpointOfAGhost,
		"address taken":            addressTakenByAnother,
		"restart policy changed":   restartPolicyChanged,
		"no image or no network":   createWithoutImageOrNetwork,
		"two networks of one name": twoNetworksOfOneName,
	} {
		t.Run(name, func(t *testing.T) {
			test(t, d)
			e := newEngine(t, d)
			if err := errors.Join(e.DeleteBundle(t.Context(), testOwner), e.DeleteNetwork(t.Context(), testOwner)); err != nil {
				t.Errorf("delete: got %v, want nil", err)
			}
		})
	}
}

// TestDeadContainer checks that a container that docker failed to remove is removed
// and made again, and that meanwhile the error says what is wrong.
func TestDeadContainer(t *testing.T) {
	d := dockertest.Start(t)
	d.LoadForeign(t)
	e, c := newEngine(t, d), d.Client(t)
	spec, old := runningBundle(t, e)
	allow := keepFolders(t, d.ContainersDir())
	if _, err := c.ContainerRemove(t.Context(), old.ContainerID, client.ContainerRemoveOptions{Force: true}); err == nil {
		t.Fatal("remove: got nil, want an error, so that the container is dead")
	}
	if got := inspect(t, c, spec.Owner).State; !got.Dead {
		t.Fatalf("state: got %+v, want it dead", got)
	}
	_, err := e.EnsureBundle(t.Context(), spec)
	wantStuck(t, "ensure", err, old.ContainerID[:12], "cannot remove", "not permitted")
	wantStuck(t, "delete", e.DeleteBundle(t.Context(), spec.Owner), old.ContainerID[:12])
	allow()
	b, err := e.EnsureBundle(t.Context(), spec)
	if err != nil || !b.Running || b.ContainerID == old.ContainerID {
		t.Errorf("ensure again: got %+v, %v, want a new container", b, err)
	}
	// A dockerd that was killed while it removed a container also shows it as dead.
	allow = keepFolders(t, d.ContainersDir())
	_, _ = c.ContainerRemove(t.Context(), b.ContainerID, client.ContainerRemoveOptions{Force: true})
	d.Kill(t)
	allow()
	d.Restart(t)
	if b, err = e.EnsureBundle(t.Context(), spec); err != nil || !b.Running {
		t.Errorf("ensure after a restart of dockerd: got %+v, %v, want it running", b, err)
	}
}

// TestNameKeptByAGhost makes dockerd keep a name for a container that it failed to
// create. The node has the image, so that must not be reported as missing.
func TestNameKeptByAGhost(t *testing.T) {
	d := dockertest.Start(t)
	e, c, spec := foreignBundle(t, d)
	allow := keepFolders(t, d.ContainersDir())
	_, err := c.ContainerCreate(t.Context(), client.ContainerCreateOptions{
		Name: spec.Owner.ID(),
		// Docker finds out only after it has made the container's folder that it
		// cannot mount a volume over a file.
		Config: &container.Config{Image: dockertest.ForeignImage, Volumes: map[string]struct{}{"/bin/busybox": {}}},
	})
	if err == nil {
		t.Fatal("create with a volume over a file: got nil, want an error")
	}
	ids, err := os.ReadDir(d.ContainersDir())
	if err != nil || len(ids) != 1 {
		t.Fatalf("folders left: got %v, %v, want one", ids, err)
	}
	_, err = e.EnsureBundle(t.Context(), spec)
	wantStuck(t, "ensure", err, ids[0].Name()[:12], "docker rm", "restart docker")
	if errors.Is(err, host.ErrNotFound) {
		t.Errorf("ensure: got %v, want no ErrNotFound, which means a missing image", err)
	}
	if err := e.DeleteBundle(t.Context(), spec.Owner); err != nil {
		t.Errorf("delete: got %v, want nil: there is no container", err)
	}
	allow()
	d.Stop(t)
	d.Restart(t) // the advice
	if b, err := e.EnsureBundle(t.Context(), spec); err != nil || !b.Running {
		t.Errorf("ensure after the restart: got %+v, %v, want it running", b, err)
	}
}

// removalInProgress checks that EnsureBundle waits for a removal that somebody else
// began, but not for ever.
func removalInProgress(t *testing.T, d *dockertest.Daemon) {
	f := newFront(t, d)
	e := f.engine(t)
	spec, old := runningBundle(t, e)
	var refusals atomic.Int32
	f.with(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "/containers/") && refusals.Add(-1) >= 0 {
			return refuse(w, http.StatusConflict, "removal of container "+old.ContainerID+" is already in progress")
		}
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/containers/"+spec.Owner.ID()+"/json") {
			return false
		}
		return f.change(w, r, func(c map[string]any) {
			if c["Id"] == old.ContainerID {
				s := c["State"].(map[string]any)
				s["Status"], s["Running"] = "removing", false
			}
		})
	})
	e.removalPatience = 0
	refusals.Store(1000)
	_, err := e.EnsureBundle(t.Context(), spec)
	wantStuck(t, "while docker removes it", err, old.ContainerID[:12], "starts again when it is gone", "restart docker")
	e.removalPatience = time.Minute
	refusals.Store(3)
	b, err := e.EnsureBundle(t.Context(), spec)
	if err != nil || !b.Running || b.ContainerID == old.ContainerID {
		t.Errorf("after the removal: got %+v, %v, want a new container", b, err)
	}
}

// endpointOfAGhost checks that an endpoint that a vanished container left in the
// network is removed by its name, and that docker's refusal to remove the network says
// what to do.
func endpointOfAGhost(t *testing.T, d *dockertest.Daemon) {
	f := newFront(t, d)
	e := f.engine(t)
	if err := e.EnsureNetwork(t.Context(), testNetwork); err != nil {
		t.Fatal(err)
	}
	var tried []string
	gone := false
	f.with(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, "/disconnect"):
			var body network.DisconnectRequest
			_ = json.NewDecoder(r.Body).Decode(&body)
			tried = append(tried, body.Container)
			if body.Container != "ghost" || !body.Force {
				return refuse(w, http.StatusNotFound, "No such container: "+body.Container)
			}
			gone = true
			return refuse(w, http.StatusOK, "")
		case r.Method == http.MethodDelete && !gone:
			return refuse(w, http.StatusForbidden, "error while removing network: network "+testOwner.ID()+" id 1234 has active endpoints")
		case r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/networks/") && !gone:
			return f.change(w, r, func(n map[string]any) {
				n["Containers"] = map[string]any{"ep-628cadb8bcb9": map[string]any{"Name": "ghost", "IPv4Address": "192.168.44.2/24"}}
			})
		}
		return false
	})
	if err := e.DeleteNetwork(t.Context(), testOwner); err != nil {
		t.Errorf("delete: got %v, want nil", err)
	}
	if want := []string{"ep-628cadb8bcb9", "ghost"}; !slices.Equal(tried, want) {
		t.Errorf("disconnected: got %v, want %v", tried, want)
	}
	f.with(func(w http.ResponseWriter, r *http.Request) bool {
		return r.Method == http.MethodDelete && refuse(w, http.StatusForbidden, "error while removing network: network "+testOwner.ID()+" id 1234 has active endpoints")
	})
	if err := e.EnsureNetwork(t.Context(), testNetwork); err != nil {
		t.Fatal(err)
	}
	wantStuck(t, "delete while docker refuses", e.DeleteNetwork(t.Context(), testOwner), testOwner.ID(), "restart docker")
}

// change forwards a request and changes the object in the answer.
func (f *front) change(w http.ResponseWriter, r *http.Request, change func(object map[string]any)) bool {
	answer := httptest.NewRecorder()
	f.next.ServeHTTP(answer, r)
	var object map[string]any
	if answer.Code == http.StatusOK && json.Unmarshal(answer.Body.Bytes(), &object) == nil {
		change(object)
		text, err := json.Marshal(object)
		if err == nil {
			answer.Body = bytes.NewBuffer(text)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(answer.Code)
	_, _ = io.Copy(w, answer.Body)
	return true
}

// addressTakenByAnother checks that a container that somebody connected to the bundle's
// network, and that got the bundle's address, does not keep the bundle from starting.
func addressTakenByAnother(t *testing.T, d *dockertest.Daemon) {
	e, c := newEngine(t, d), d.Client(t)
	spec, _ := runningBundle(t, e)
	if _, err := c.ContainerKill(t.Context(), spec.Owner.ID(), client.ContainerKillOptions{Signal: "KILL"}); err != nil {
		t.Fatal(err)
	}
	other, err := c.ContainerCreate(t.Context(), client.ContainerCreateOptions{
		Name: "other", Config: &container.Config{Image: dockertest.ForeignImage},
		HostConfig: &container.HostConfig{NetworkMode: container.NetworkMode(spec.Owner.ID())},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerStart(t.Context(), other.ID, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	in, err := c.ContainerInspect(t.Context(), other.ID, client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := in.Container.NetworkSettings.Networks[spec.Owner.ID()].IPAddress; got != spec.IP {
		t.Fatalf("address of the other container: got %s, want the bundle's %s", got, spec.IP)
	}
	b, err := e.EnsureBundle(t.Context(), spec)
	if err != nil || !b.Running || b.IP != spec.IP {
		t.Errorf("ensure: got %+v, %v, want it running at its address", b, err)
	}
	if in, err = c.ContainerInspect(t.Context(), other.ID, client.ContainerInspectOptions{}); err != nil || !in.Container.State.Running {
		t.Errorf("the other container: got %v, want it to run on without the network", err)
	}
}

// restartPolicyChanged checks that a restart policy that somebody gave to the
// container is taken away again, without replacing the container.
func restartPolicyChanged(t *testing.T, d *dockertest.Daemon) {
	e, c := newEngine(t, d), d.Client(t)
	spec, b := runningBundle(t, e)
	_, err := c.ContainerUpdate(t.Context(), b.ContainerID, client.ContainerUpdateOptions{
		RestartPolicy: &container.RestartPolicy{Name: container.RestartPolicyAlways},
	})
	if err != nil {
		t.Fatal(err)
	}
	again, err := e.EnsureBundle(t.Context(), spec)
	if err != nil || again.ContainerID != b.ContainerID || !again.Running {
		t.Errorf("ensure: got %+v, %v, want the same container", again, err)
	}
	if got := inspect(t, c, spec.Owner).HostConfig.RestartPolicy.Name; got != container.RestartPolicyDisabled {
		t.Errorf("restart policy: got %q, want %q", got, container.RestartPolicyDisabled)
	}
}

// createWithoutImageOrNetwork checks that only a missing image is reported as one.
func createWithoutImageOrNetwork(t *testing.T, d *dockertest.Daemon) {
	e := newEngine(t, d)
	spec := testSpec
	spec.Image = dockertest.ForeignImage
	if _, err := e.EnsureBundle(t.Context(), spec); err == nil || errors.Is(err, host.ErrNotFound) {
		t.Errorf("without the network: got %v, want an error other than ErrNotFound", err)
	}
	spec.Image = "example.test/absent:1"
	if _, err := e.EnsureBundle(t.Context(), spec); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("without the image: got %v, want ErrNotFound", err)
	}
}

// twoNetworksOfOneName checks that a second network with the name and labels of a
// Bottle's, of which docker could choose neither, is removed before the bundle starts.
func twoNetworksOfOneName(t *testing.T, d *dockertest.Daemon) {
	e, c := newEngine(t, d), d.Client(t)
	if err := e.EnsureNetwork(t.Context(), testNetwork); err != nil {
		t.Fatal(err)
	}
	_, err := c.NetworkCreate(t.Context(), testOwner.ID(), client.NetworkCreateOptions{Driver: "bridge", Labels: labelsOf(testOwner)})
	if refuses := dockertest.Release(t) >= 25; (err != nil) != refuses {
		t.Fatalf("second network: got %v, want an error: %v", err, refuses)
	}
	spec := testSpec
	spec.Image = dockertest.ForeignImage
	b, err := e.EnsureBundle(t.Context(), spec)
	if err != nil || !b.Running {
		t.Errorf("ensure: got %+v, %v, want it running", b, err)
	}
	if ours, _, err := e.findNetworks(t.Context(), testOwner); err != nil || len(ours) != 1 || networkOf(ours[0]) != testNetwork {
		t.Errorf("networks: got %v, %v, want one", ours, err)
	}
}
