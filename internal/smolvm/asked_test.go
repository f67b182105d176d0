// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

// viewed and recorded are what 1.32.2 shows and stores for a machine with one
// address, one mount and one secret.
const (
	viewed = `{"allowed_cidrs":["192.168.44.2/32"],"block_io":"sync","branchable":false,"branchpoint_held":false,"cmd":["/x"],"cpus":2,"created_at":1,
"cuda":false,"cuda_branch_pool_size":null,"cuda_fork_pool_size":null,"cuda_vram_limit_mib":null,"detached":false,"disk_durability":"full","disks":[],
"entrypoint":[],"ephemeral":false,"forkable":false,"forkpoint_held":false,"gpu":false,"gpu_vram_mib":null,"health_cmd":null,"health_interval_secs":null,
"health_retries":null,"health_startup_grace_secs":null,"health_timeout_secs":null,"image":"example.test/packed:1","labels":{"gpu":"x"},"memory_mib":512,
"mounts":1,"name":"m","network":true,"overlay_gb":null,"parent_machine":null,"pid":null,"ports":0,"restart_count":0,"restart_max_retries":0,
"restart_policy":"never","state":"created","state_reason":null,"storage_gb":3}`
	recorded = `{"allowed_cidrs":["192.168.44.2/32"],"block_io":"sync","cmd":["/x"],"cpus":2,"cuda":false,"disk_durability":"full","docker_socket":false,
"env":[["GPU","1"]],"gpu":null,"gpu_vram_mib":null,"health_cmd":null,"init":[],"init_completed":false,"mem":512,"mounts":[{"source":"/a","target":"/b"}],
"nested_virt":null,"network":true,"overlay_gb":null,"ports":[],"published_sockets":[],"remote_volumes":[],
"restart":{"max_backoff_secs":0,"max_retries":0,"policy":"never"},"rosetta":null,"runtime_managed":false,"secret_refs":{"TOKEN":{"from_file":"/s/TOKEN"}},
"source_smolmachine":"/a","ssh_agent":false,"staged_mounts":[],"staged_mounts_detached_from":null,"storage_gb":3,"user":"bob"}`
)

// TestUnasked changes one thing at a time of a machine that is as it was asked for.
func TestUnasked(t *testing.T) {
	for _, tt := range []struct {
		in, old, new string
		want         string // "" means accepted
	}{
		{"", "", "", ""},
		{"view", `"gpu":false`, `"gpu":true`, "gpu: true"},
		{"view", `"gpu_vram_mib":null`, `"gpu_vram_mib":4096`, "gpu_vram_mib: 4096"},
		{"view", `"cuda":false`, `"cuda":true`, "cuda: true"},
		{"view", `"cuda_fork_pool_size":null`, `"cuda_fork_pool_size":2`, "cuda_fork_pool_size: 2"},
		{"view", `"forkable":false`, `"forkable":true`, "forkable: true"},
		{"view", `"branchable":false`, `"branchable":true`, "branchable: true"},
		{"view", `"parent_machine":null`, `"parent_machine":"other"`, "parent_machine: set"},
		{"view", `"disks":[]`, `"disks":["/dev/sda"]`, "disks: set"},
		{"view", `"ports":0`, `"ports":1`, "ports: got 1, want 0"},
		{"view", `"mounts":1`, `"mounts":2`, "mounts: got 2, want 1"},
		{"view", `"mounts":1`, `"mounts":0`, "mounts: got 0, want 1"},
		{"view", `"cpus":2`, `"cpus":3`, "cpus: got 3, want 2"},
		{"view", `"cpus":2`, `"cpus":null`, "cpus: got none, want 2"},
		{"view", `"memory_mib":512`, `"memory_mib":99999999`, "memory_mib: got 99999999, want 512"},
		{"view", `"storage_gb":3`, `"storage_gb":300`, "storage_gb: got 300, want 3"},
		{"view", `"storage_gb":3`, `"storage_gb":null`, "storage_gb: got none, want 3"},
		{"view", `"overlay_gb":null`, `"overlay_gb":99`, "overlay_gb: got 99, want at most smolvm's default"},
		{"view", `"restart_policy":"never"`, `"restart_policy":"always"`, "restart_policy: always"},
		{"view", `"ephemeral":false`, `"ephemeral":true`, "ephemeral: true"},
		{"view", `"state":"created"`, `"state":"created","usb_devices":["1-1"]`, "usb_devices: set"},
		{"record", `"gpu":null`, `"gpu":true`, "gpu: true"},
		{"record", `"docker_socket":false`, `"docker_socket":true`, "docker_socket: true"},
		{"record", `"ssh_agent":false`, `"ssh_agent":true`, "ssh_agent: true"},
		{"record", `"nested_virt":null`, `"nested_virt":true`, "nested_virt: true"},
		{"record", `"rosetta":null`, `"rosetta":true`, "rosetta: true"},
		{"record", `"published_sockets":[]`, `"published_sockets":["/a"]`, "published_sockets: set"},
		{"record", `"remote_volumes":[]`, `"remote_volumes":["s3://a"]`, "remote_volumes: set"},
		{"record", `"staged_mounts":[]`, `"staged_mounts":["/a"]`, "staged_mounts: set"},
		{"record", `"ports":[]`, `"ports":[[80,80]]`, "ports: got 1, want 0"},
		{"record", `"mounts":[{`, `"mounts":[{"source":"/root"},{`, "mounts: got 2, want 1"},
		{"record", `"init":[]`, `"init":["x"]`, "init: set"},
		{"record", `"health_cmd":null`, `"health_cmd":["x"]`, "health_cmd: set"},
		{"record", `{"from_file":"/s/TOKEN"}`, `{"from_file":"/etc/shadow"}`, "secret_refs"},
		{"record", `{"from_file":"/s/TOKEN"}`, `{"from_env":"HOME"}`, "secret_refs"},
		{"record", `"TOKEN":{`, `"OTHER":{"from_file":"/etc/shadow"},"TOKEN":{`, "secret_refs"},
		{"record", `{"from_file":"/s/TOKEN"}`, `{"from_file":"/s/TOKEN","from_env":null}`, ""},
		{"record", `"user":"bob"`, `"user":null`, ""},
	} {
		v, r := viewed, recorded
		if tt.in == "view" {
			v = strings.Replace(v, tt.old, tt.new, 1)
		} else {
			r = strings.Replace(r, tt.old, tt.new, 1)
		}
		if tt.in != "" && v == viewed && r == recorded {
			t.Fatalf("%s: nothing to replace", tt.old)
		}
		spec := host.MachineSpec{
			Size:    machinesize.Size{CPUs: 2, MemoryMiB: 512, StorageGiB: 3},
			Mounts:  []host.Mount{{Source: "/a", Target: "/b"}},
			Secrets: []host.SecretFile{{Name: "TOKEN", Path: "/s/TOKEN"}},
		}
		err := refuse(differences(objectOf(t, v), objectOf(t, r), spec), artifactMakes, packAnew)
		if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, host.ErrInvalid) || !strings.Contains(err.Error(), "("+tt.want+")")) {
			t.Errorf("%s with %s: got %v, want %q", tt.in, tt.new, err, tt.want)
		}
	}
}

// TestSizesNotAsked checks that a machine for which no size was asked has at most
// what smolvm gives a machine that asks for nothing.
func TestSizesNotAsked(t *testing.T) {
	for text, want := range map[string][]string{
		`{"cpus":4,"memory_mib":8192,"storage_gb":null,"overlay_gb":null}`: nil,
		`{"cpus":1,"memory_mib":64}`:                                       nil,
		`{"cpus":5,"memory_mib":8193,"storage_gb":1,"overlay_gb":1}`:       {"cpus", "memory_mib", "overlay_gb", "storage_gb"},
	} {
		var got []string
		for _, s := range otherSizes(objectOf(t, text), host.MachineSpec{}) {
			key, _, _ := strings.Cut(s, ":")
			got = append(got, key)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

func objectOf(t *testing.T, text string) object {
	t.Helper()
	var o object
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}
