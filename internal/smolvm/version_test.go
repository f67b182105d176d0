// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

func TestParseVersion(t *testing.T) {
	tests := map[string]string{ // output of smolvm: version, or "" for an error
		"smolvm 0.8.0\n":           "0.8.0",
		"smolvm 1.32.2\n":          "1.32.2",
		"smolvm 2.0.0-rc1\n":       "2.0.0",
		"smolvm 1.40.0 (abc123)\n": "1.40.0",
		"":                         "",
		"smolvm\n":                 "",
		"smolvm 1.32\n":            "",
		"smolvm 1.32.2.1\n":        "",
		"docker 1.32.2\n":          "",
		"smolvm 99999.1.1\n":       "",
	}
	for in, want := range tests {
		got, err := parseVersion(in)
		if want == "" {
			if err == nil {
				t.Errorf("%q: got %v, want an error", in, got)
			}
			continue
		}
		if err != nil || got.String() != want {
			t.Errorf("%q: got %v, %v, want %s", in, got, err, want)
		}
	}
}

// TestCapabilities lists the capabilities of each release that changed them.
func TestCapabilities(t *testing.T) {
	tests := []struct{ version, words string }{
		{"0.7.9", "older lockedDB fewConnections"},
		{"0.8.0", "lockedDB fewConnections"},
		{"0.8.2", "seccomp lockedDB fewConnections"},
		{"1.0.1", "seccomp lockedDB fewConnections"},
		{"1.0.2", "nameFlag seccomp lockedDB fewConnections"},
		{"1.1.2", "nameFlag seccomp lockedDB fewConnections"},
		{"1.1.3", "images virtio-net nameFlag seccomp lockedDB fewConnections"},
		{"1.2.4", "images virtio-net nameFlag seccomp lockedDB fewConnections"},
		{"1.2.5", "images virtio-net ownUser nameFlag seccomp lockedDB fewConnections"},
		{"1.4.0", "images virtio-net ownUser secrets command nameFlag seccomp landlock lockedDB fewConnections"},
		{"1.7.6", "images virtio-net ownUser secrets command nameFlag seccomp landlock lockedDB fewConnections"},
		{"1.7.7", "images virtio-net ownUser secrets artifacts command nameFlag seccomp landlock lockedDB fewConnections"},
		{"1.8.0", "images virtio-net ownUser secrets labels artifacts artifactPolicy command nameFlag seccomp landlock lockedDB fewConnections"},
		{"1.8.1", "images virtio-net ownUser secrets labels artifacts artifactPolicy command events nameFlag seccomp landlock lockedDB fewConnections"},
		{"1.8.3", "images virtio-net ownUser secrets labels artifacts artifactPolicy command events nameFlag seccomp landlock lockedDB fewConnections"},
		{"1.9.0", "images virtio-net ownUser secrets labels artifacts artifactPolicy command events nameFlag copyMode seccomp landlock lockedDB fewConnections"},
		{"1.18.0", "images virtio-net ownUser secrets labels artifacts artifactPolicy command events nameFlag copyMode seccomp landlock lockedDB fewConnections"},
		{"1.22.0", "images virtio-net ownUser secrets labels artifacts artifactPolicy command events nameFlag copyMode seccomp landlock fewConnections"},
		{"1.29.0", "images virtio-net ownUser secrets labels artifacts artifactPolicy command policy events nameFlag copyMode jsonErrors seccomp landlock fewConnections"},
		{"1.32.2", "images virtio-net ownUser secrets labels artifacts artifactPolicy command policy events nameFlag copyMode jsonErrors seccomp landlock"},
		{"1.32.3", "newer images virtio-net ownUser secrets labels artifacts artifactPolicy command policy events nameFlag copyMode jsonErrors seccomp landlock"},
		{"2.0.0", "newer images virtio-net ownUser secrets labels artifacts artifactPolicy command policy events nameFlag copyMode jsonErrors seccomp landlock"},
	}
	for _, tt := range tests {
		c := capabilitiesFor(t, tt.version)
		if diff := cmp.Diff(strings.Fields(tt.words), words(c)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.version, diff)
		}
		if c.Version != tt.version {
			t.Errorf("version: got %s, want %s", c.Version, tt.version)
		}
	}
}

func capabilitiesFor(t *testing.T, version string) capabilities {
	t.Helper()
	v, err := parseVersion("smolvm " + version + "\n")
	if err != nil {
		t.Fatal(err)
	}
	return capabilitiesOf(v)
}

func words(c capabilities) []string {
	var out []string
	for _, w := range []struct {
		has  bool
		word string
	}{
		{c.Older, "older"}, {c.Newer, "newer"}, {c.LocalImages, "images"}, {c.Backend == "virtio-net", "virtio-net"}, {c.OwnUser, "ownUser"}, {c.SecretFiles, "secrets"}, {c.Labels, "labels"},
		{c.Artifacts, "artifacts"}, {c.ArtifactPolicy, "artifactPolicy"},
		{c.Command, "command"}, {c.PolicyInList, "policy"}, {c.EgressEvents, "events"},
		{c.nameFlag, "nameFlag"}, {c.copyMode, "copyMode"}, {c.jsonErrors, "jsonErrors"}, {c.seccomp, "seccomp"}, {c.landlock, "landlock"},
		{c.lockedDB, "lockedDB"}, {c.fewConnections, "fewConnections"},
	} {
		if w.has {
			out = append(out, w.word)
		}
	}
	return out
}

var demo = host.Owner{UID: "1a2b3c4d-0000", Namespace: "team-a", Name: "my-demo", Slug: "demo", Cluster: "c1", Node: "node-1"}

func TestCreateArgs(t *testing.T) {
	full := host.MachineSpec{
		Owner: demo, Size: machinesize.Size{CPUs: 1, MemoryMiB: 256, StorageGiB: 3, OverlayGiB: 2}, Image: "/i/guest.tar", Smolfile: "/b/Smolfile",
		Secrets: []host.SecretFile{{Name: "A", Path: "/b/a"}, {Name: "B", Path: "/b/b"}}, Command: []string{"sh", "-c", "x y"},
		Mounts: []host.Mount{{Source: "/b/ca", Target: "/run/ca"}, {Source: "/b/out", Target: "/run/out", Writable: true}},
	}
	minimal := host.MachineSpec{Owner: demo, Smolfile: "/b/Smolfile"}
	artifact := host.MachineSpec{
		Owner: demo, Size: machinesize.Size{CPUs: 1}, Artifact: "/i/a.smolmachine", Env: []string{"A=1", "B=x y\n"}, AllowCIDR: netip.MustParsePrefix("192.168.44.2/32"),
		Mounts: []host.Mount{{Source: "/b/ca", Target: "/run/ca"}},
	}
	const id = "bottle-demo-1a2b3c4d"
	tests := map[string]struct {
		spec host.MachineSpec
		want []string
	}{
		"1.18.0": {artifact, []string{
			"machine", "create", "--name=" + id, "--cpus=1",
			"--label=botbottle.dev/uid=1a2b3c4d-0000", "--label=botbottle.dev/namespace=team-a", "--label=botbottle.dev/name=my-demo",
			"--label=botbottle.dev/slug=demo", "--label=botbottle.dev/cluster=c1", "--label=botbottle.dev/node=node-1",
			"--from=/i/a.smolmachine", "--env=A=1", "--env=B=x y\n", "--allow-cidr=192.168.44.2/32", "--volume=/b/ca:/run/ca:ro",
		}},
		"1.7.7": {artifact, []string{
			"machine", "create", "--name=" + id, "--cpus=1",
			"--from=/i/a.smolmachine", "--env=A=1", "--env=B=x y\n", "--net", "--volume=/b/ca:/run/ca:ro",
		}},
		"1.32.2": {full, []string{
			"machine", "create", "--error-format=json", "--name=" + id, "--cpus=1", "--mem=256", "--storage=3", "--overlay=2",
			"--label=botbottle.dev/uid=1a2b3c4d-0000", "--label=botbottle.dev/namespace=team-a", "--label=botbottle.dev/name=my-demo",
			"--label=botbottle.dev/slug=demo", "--label=botbottle.dev/cluster=c1", "--label=botbottle.dev/node=node-1",
			"--image=/i/guest.tar", "--smolfile=/b/Smolfile", "--secret-file=A=/b/a", "--secret-file=B=/b/b", "--volume=/b/ca:/run/ca:ro", "--volume=/b/out:/run/out", "--", "sh", "-c", "x y",
		}},
		"1.4.0": {full, []string{
			"machine", "create", "--name=" + id, "--cpus=1", "--mem=256", "--storage=3", "--overlay=2",
			"--image=/i/guest.tar", "--smolfile=/b/Smolfile", "--secret-file=A=/b/a", "--secret-file=B=/b/b", "--volume=/b/ca:/run/ca:ro", "--volume=/b/out:/run/out", "--", "sh", "-c", "x y",
		}},
		"1.0.2": {minimal, []string{"machine", "create", "--name=" + id, "--smolfile=/b/Smolfile"}},
		"0.8.0": {minimal, []string{"machine", "create", id, "--smolfile=/b/Smolfile"}},
	}
	for version, tt := range tests {
		got, err := capabilitiesFor(t, version).createArgs(tt.spec)
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", version, err, diff)
		}
	}
}

func TestOtherArgs(t *testing.T) {
	const id = "bottle-demo-1a2b3c4d"
	req := host.ExecRequest{Command: []string{"ls", "-l"}, Timeout: 1500e6}
	for version, want := range map[string][]string{
		"1.32.2": {
			"machine ls --error-format=json --json",
			"machine start --error-format=json --name=" + id,
			"machine stop --error-format=json --name=" + id,
			"machine delete --error-format=json --force --name=" + id,
			"machine exec --error-format=json --name=" + id + " --interactive --timeout=1500ms -- ls -l",
			"machine cp --error-format=json --mode=755 /f " + id + ":/t",
		},
		"0.8.0": {
			"machine ls --json",
			"machine start --name=" + id,
			"machine stop --name=" + id,
			"machine delete --force " + id,
			"machine exec --name=" + id + " --interactive --timeout=1500ms -- ls -l",
			"machine cp /f " + id + ":/t",
		},
	} {
		c := capabilitiesFor(t, version)
		var got []string
		for _, args := range [][]string{
			c.listArgs(), c.startArgs(id), c.stopArgs(id), c.deleteArgs(id), c.execArgs(id, req), c.copyArgs(id, "/f", "/t"),
		} {
			got = append(got, strings.Join(args, " "))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", version, diff)
		}
	}
}
