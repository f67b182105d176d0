// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/docker/dockertest"
	"botbottle.dev/bottle-operator/internal/host"
)

// TestBundleMAC checks that the bundle has the MAC address to which the wall lets
// frames pass, and that a container with another one is replaced.
func TestBundleMAC(t *testing.T) {
	d := dockertest.Start(t)
	e, c, spec := foreignBundle(t, d)
	ensure := func(t *testing.T) (id string) {
		t.Helper()
		b, err := e.EnsureBundle(t.Context(), spec)
		if err != nil || !b.Running {
			t.Fatalf("ensure: got %+v, %v, want it running", b, err)
		}
		got := net.HardwareAddr(inspect(t, c, spec.Owner).NetworkSettings.Networks[spec.Owner.ID()].MacAddress)
		if want := host.BundleMAC(spec.IP); !bytes.Equal(got, want) {
			t.Errorf("MAC address: got %s, want %s", got, want)
		}
		return b.ContainerID
	}
	if first, second := ensure(t), ensure(t); first != second {
		t.Errorf("ensure again: got container %s, want the same %s", second, first)
	}
	for name, started := range map[string]bool{"running": true, "created": false} {
		t.Run(name, func(t *testing.T) {
			if err := e.DeleteBundle(t.Context(), spec.Owner); err != nil {
				t.Fatal(err)
			}
			other := createWithMAC(t, d, spec, "02:42:00:00:00:09")
			if started {
				if _, err := c.ContainerStart(t.Context(), other, client.ContainerStartOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			if got := ensure(t); got == other {
				t.Errorf("container: got %s, which was created with another MAC address, want it replaced", got)
			}
		})
	}
}

// createWithMAC creates the container of spec, but with another MAC address. It
// uses version 1.40 of the Engine's API, which all releases accept.
func createWithMAC(t *testing.T, d *dockertest.Daemon, spec host.BundleSpec, mac string) (id string) {
	t.Helper()
	options, err := createOptions(spec, spec.Image)
	if err != nil {
		t.Fatal(err)
	}
	options.NetworkingConfig.EndpointsConfig[options.Name].MacAddress = nil
	text, err := json.Marshal(options.Config)
	if err != nil {
		t.Fatal(err)
	}
	var body map[string]any
	if err := json.Unmarshal(text, &body); err != nil {
		t.Fatal(err)
	}
	body["MacAddress"], body["HostConfig"], body["NetworkingConfig"] = mac, options.HostConfig, options.NetworkingConfig
	if text, err = json.Marshal(body); err != nil {
		t.Fatal(err)
	}
	socket := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(d.Host, "unix://"))
	}}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://docker/v1.40/containers/create?name="+options.Name, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := socket.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err = io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusCreated {
		t.Fatalf("create: got %s %s, %v, want a container", answer.Status, text, err)
	}
	var created struct {
		ID string `json:"Id"`
	}
	if err := json.Unmarshal(text, &created); err != nil {
		t.Fatal(err)
	}
	return created.ID
}
