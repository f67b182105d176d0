// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/release"
)

func TestCheckName(t *testing.T) {
	for _, ok := range []string{"a", "A", "Caps", "a_b", "a_", "1", "default", "help", "all", strings.Repeat("x", 128), "bottle-demo-1a2b3c4d"} {
		if err := CheckName(ok); err != nil {
			t.Errorf("%q: got %v, want no error", ok, err)
		}
	}
	for name, want := range map[string]string{
		"":                       "machine name cannot be empty",
		strings.Repeat("x", 129): "machine name too long: 129 characters (max 128)",
		"a--b":                   "machine name cannot contain consecutive hyphens",
		"a-":                     `machine name cannot end with a hyphen (got: "a-")`,
		"_a":                     `machine name must start with a letter or digit (got: "_a")`,
		".a":                     `machine name must start with a letter or digit (got: ".a")`,
		"ü":                      `machine name must start with a letter or digit (got: "ü")`,
		"-a":                     `machine name must start with a letter or digit (got: "-a")`,
		"../x":                   `machine name must start with a letter or digit (got: "../x")`,
		"a.b":                    "machine name contains invalid character: '.'",
		"a b":                    "machine name contains invalid character: ' '",
		"a=b":                    "machine name contains invalid character: '='",
		"a\nb":                   "machine name contains invalid character: '\n'",
		"a/b":                    "machine name cannot contain path separators",
	} {
		if err := CheckName(name); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %q", name, err, want)
		}
	}
}

// keys080 are the 25 JSON keys of the oldest release.
var keys080 = strings.Fields(`cmd cpus created_at entrypoint ephemeral gpu gpu_vram_mib health_cmd health_interval_secs health_retries
	health_startup_grace_secs health_timeout_secs image memory_mib mounts name network overlay_gb pid ports restart_count
	restart_max_retries restart_policy state storage_gb`)

func TestViewKeysByRelease(t *testing.T) {
	added191 := strings.Fields("cuda cuda_fork_pool_size cuda_vram_limit_mib forkable forkpoint_held labels")
	added1322 := strings.Fields(`block_io branchable branchpoint_held cuda_branch_pool_size detached disk_durability disks
		parent_machine state_reason`)
	for version, want := range map[string][]string{
		"0.8.0":  keys080,
		"1.4.0":  keys080,
		"1.9.1":  slices.Concat(keys080, added191),
		"1.32.2": slices.Concat(keys080, added191, added1322),
	} {
		r := &Record{Name: "m", State: Created}
		got := slices.Sorted(maps.Keys(r.View(release.MustParse(version))))
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: keys (-want +got)\n%s", version, diff)
		}
	}
}

func TestViewShowsPolicyByRelease(t *testing.T) {
	r := &Record{Name: "m", AllowedCIDRs: []string{"192.168.44.2/32"}, DNS: "1.1.1.1", Env: [][2]string{{"A", "secret"}}}
	for version, want := range map[string]bool{"0.8.0": false, "1.9.1": false, "1.29.0": true, "1.32.2": true} {
		v := r.View(release.MustParse(version))
		if _, got := v["allowed_cidrs"]; got != want {
			t.Errorf("%s: has allowed_cidrs: got %v, want %v", version, got, want)
		}
		if _, got := v["dns"]; got != want {
			t.Errorf("%s: has dns: got %v, want %v", version, got, want)
		}
		if text, err := FormatJSON(v); err != nil || strings.Contains(text, "secret") {
			t.Errorf("%s: got %s, %v, want no environment in it", version, text, err)
		}
	}
}

func TestFormatJSON(t *testing.T) {
	r := &Record{Name: "m", State: Created, Labels: map[string]string{"a/b": "<&>"}}
	got, err := FormatJSON(r.View(release.MustParse("1.32.2")))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"{\n  \"block_io\": \"sync\",\n", `  "cmd": [],` + "\n", `"a/b": "<&>"`, `"image": null,`, "\n}\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %s\nwant %q in it", got, want)
		}
	}
	if !json.Valid([]byte(got)) {
		t.Errorf("got %s, want valid JSON", got)
	}
	if got, _ := FormatJSON([]map[string]any{}); got != "[]\n" {
		t.Errorf("empty list: got %q, want []", got)
	}
}
