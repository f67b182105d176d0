// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"slices"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// wantRunning calls EnsureBundle, and wants both its result and InspectBundle to
// show that the bundle runs.
func wantRunning(t *testing.T, f BundlesFixture, spec host.BundleSpec) host.Bundle {
	t.Helper()
	if f.Run != nil {
		f.Run(t, spec)
	}
	b, err := f.Bundles.EnsureBundle(t.Context(), spec)
	mustDo(t, "ensure", err)
	inspected, err := f.Bundles.InspectBundle(t.Context(), spec.Owner)
	mustDo(t, "inspect", err)
	if b != inspected {
		t.Errorf("ensure: got %+v, want the same as inspect: %+v", b, inspected)
	}
	image := spec.Image
	if image == "" {
		image = b.Image
	}
	want := host.Bundle{Owner: spec.Owner, ContainerID: b.ContainerID, Image: image, IP: spec.IP, Running: true, State: "running", StartedAt: b.StartedAt}
	if b != want || b.ContainerID == "" || time.Since(b.StartedAt).Abs() > time.Hour {
		t.Errorf("bundle: got %+v, want %+v", b, want)
	}
	return b
}

func wantPorts(t *testing.T, f BundlesFixture, spec host.BundleSpec, ports, want []int32) {
	t.Helper()
	var got []int32
	// A running container may need a moment until it listens.
	ok := within(30*time.Second, func() bool {
		var err error
		got, err = f.Bundles.UnansweredPorts(t.Context(), spec.Owner, spec.IP, ports)
		mustDo(t, "unanswered ports", err)
		return slices.Equal(got, want)
	})
	if !ok {
		t.Errorf("unanswered of %v: got %v, want %v", ports, got, want)
	}
}

func wantUID(t *testing.T, uids <-chan string, what, want string) {
	t.Helper()
	limit := time.After(30 * time.Second)
	var others []string
	for {
		select {
		case uid := <-uids:
			if uid == want {
				return
			}
			others = append(others, uid)
		case <-limit:
			t.Fatalf("%s: got changes of %q, want one of %q", what, others, want)
		}
	}
}

func drain(uids <-chan string) {
	for {
		select {
		case <-uids:
		case <-time.After(200 * time.Millisecond):
			return
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if !within(20*time.Second, ok) {
		t.Fatalf("%s: did not happen within 20 s", what)
	}
}

func within(limit time.Duration, ok func() bool) bool {
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(50 * time.Millisecond)
	}
	return true
}
