// SPDX-License-Identifier: Apache-2.0

package dockertest

import (
	"net"
	"os"
	"testing"

	"github.com/moby/moby/client"
)

func TestMain(m *testing.M) { Main(m) }

func TestDaemon(t *testing.T) {
	d := Start(t)
	c := d.Client(t)
	info, err := c.Info(t.Context(), client.InfoOptions{})
	if err != nil {
		t.Fatalf("info: got %v, want nil", err)
	}
	if info.Info.Containers != 0 || info.Info.Images != 0 {
		t.Errorf("new daemon: got %d containers and %d images, want none", info.Info.Containers, info.Info.Images)
	}
	t.Logf("%s, storage driver %s", info.Info.ServerVersion, info.Info.Driver)
	d.Kill(t)
	if _, err := c.Ping(t.Context(), client.PingOptions{}); err == nil {
		t.Error("ping after kill: got nil, want an error")
	}
	d.Restart(t)
	if _, err := c.Ping(t.Context(), client.PingOptions{}); err != nil {
		t.Errorf("ping after restart: got %v, want nil", err)
	}
	d.Stop(t)
}

// TestNoWayOut checks that the namespaces isolate tests from the outside world.
func TestNoWayOut(t *testing.T) {
	Start(t)
	if got := os.Getpid(); got > 100 {
		t.Errorf("pid: got %d, want a small number, as in a PID namespace of its own", got)
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		if i.Name == "eth0" {
			t.Errorf("interfaces: got %v, want none that leads outside", interfaces)
		}
	}
	// No packet can leave, because the kernel has no route.
	conn, err := net.Dial("udp", "203.0.113.1:9")
	if err == nil {
		conn.Close()
		t.Error("dial 203.0.113.1: got a connection, want no route")
	}
}
