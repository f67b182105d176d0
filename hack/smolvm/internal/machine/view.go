// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bytes"
	"encoding/json"
	"strings"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/release"
)

// viewKeys lists the keys that each release added to the 25 keys of 0.8.0. No
// release removed any.
var viewKeys = []struct {
	since string
	keys  map[string]any
}{
	{"1.7.7", map[string]any{"forkpoint_held": false}},
	{"1.8.0", map[string]any{"cuda": false, "cuda_fork_pool_size": nil, "cuda_vram_limit_mib": nil, "forkable": false}},
	{"1.14.0", map[string]any{"branchable": false, "branchpoint_held": false, "cuda_branch_pool_size": nil, "parent_machine": nil}},
	{"1.18.0", map[string]any{"block_io": "sync", "disks": []string{}}},
	{"1.22.0", map[string]any{"detached": false}},
	{"1.26.1", map[string]any{"disk_durability": "full"}},
	{"1.32.2", map[string]any{"state_reason": nil}},
}

// View returns the object that `status --json` prints and `ls --json` lists, with
// the keys of the given release. FormatJSON marshals it.
func (r *Record) View(rel release.Release) map[string]any {
	v := map[string]any{
		"name": r.Name, "state": r.State, "created_at": r.CreatedAt,
		"cpus": r.CPUs, "memory_mib": r.MemoryMiB,
		"mounts": len(r.Mounts), "ports": len(r.Ports), "network": r.Network,
		"image": orNil(r.Image), "entrypoint": orEmpty(r.Entrypoint), "cmd": orEmpty(r.Cmd),
		"pid": nil, "ephemeral": false, "gpu": r.GPU != nil && *r.GPU, "gpu_vram_mib": nil,
		"restart_count": 0, "restart_max_retries": r.RestartMaxRetries, "restart_policy": r.RestartPolicy,
		"health_cmd": orNil(healthText(r.HealthCmd)), "health_interval_secs": r.HealthInterval,
		"health_timeout_secs": r.HealthTimeout, "health_retries": r.HealthRetries, "health_startup_grace_secs": r.HealthGrace,
	}
	for _, disk := range AllDisks {
		v[disk.Name+"_gb"] = *disk.Size(&r.Disks)
	}
	if r.PID != 0 {
		v["pid"] = r.PID
	}
	for _, added := range viewKeys {
		if rel.AtLeast(added.since) {
			for k, d := range added.keys {
				v[k] = d
			}
		}
	}
	if rel.AtLeast("1.8.0") {
		v["labels"] = map[string]string{}
		if r.Labels != nil {
			v["labels"] = r.Labels
		}
	}
	if rel.AtLeast("1.29.0") {
		r.addConditional(v)
	}
	return v
}

// addConditional adds the keys that are absent instead of null when unset.
func (r *Record) addConditional(v map[string]any) {
	if r.AllowedCIDRs != nil {
		v["allowed_cidrs"] = r.AllowedCIDRs
	}
	if r.DNS != "" {
		v["dns"] = r.DNS
	}
	if r.LastExit != nil {
		v["last_exit"] = r.LastExit
	}
}

// FormatJSON returns v as JSON with sorted keys, indented by two spaces, without
// HTML escaping.
func FormatJSON(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return "", err
	}
	return b.String(), nil
}

func healthText(argv []string) string {
	if len(argv) == 3 && argv[0] == "sh" && argv[1] == "-c" {
		return argv[2]
	}
	return strings.Join(argv, " ")
}

func orNil(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
