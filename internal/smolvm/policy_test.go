// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
)

func TestRecord(t *testing.T) {
	_, d := newCLI(t, "1.9.1")
	const name = "bottle-demo-1a2b3c4d"
	if _, err := d.record(t.Context(), name); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("no database: got %v, want ErrNotFound", err)
	}
	put := func(content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(d.database()), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(d.database(), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("garbage that is not a database")
	if _, err := d.record(t.Context(), name); !errors.Is(err, host.ErrUnsupported) {
		t.Errorf("garbage: got %v, want ErrUnsupported", err)
	}
	w := newDatabase(t)
	w.exec(t, "CREATE TABLE machines (id INTEGER)")
	put(w.file(t))
	if _, err := d.record(t.Context(), name); !errors.Is(err, host.ErrUnsupported) {
		t.Errorf("another layout: got %v, want ErrUnsupported", err)
	}
	w.exec(t, "CREATE TABLE vms (name TEXT PRIMARY KEY NOT NULL, data BLOB NOT NULL)")
	w.exec(t, "INSERT INTO vms VALUES ('bottle-other-1a2b3c4d', '{}')")
	put(w.file(t))
	if _, err := d.record(t.Context(), name); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("another machine: got %v, want ErrNotFound", err)
	}
	put("")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := d.record(ctx, name); !errors.Is(err, host.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("empty: got %v, want ErrUnavailable and DeadlineExceeded", err)
	}
}

func TestDecodePolicy(t *testing.T) {
	one := []string{"192.168.44.2/32"}
	for what, tt := range map[string]struct {
		record string
		want   host.Policy
		kind   error
	}{
		"1.9.1": {`{"name":"m","network":true,"allowed_cidrs":["192.168.44.2/32"],"ports":[],"published_sockets":[],"ssh_agent":false,
			"docker_socket":false,"storage_gb":null,"ephemeral":false,"image":null}`, host.Policy{AllowedCIDRs: one}, nil},
		"all keys of 1.32.2": {`{"allowed_cidrs":["192.168.44.2/32"],"block_private":["10.0.0.0/8"],"ports":[[8080,80]],"network_backend":"tsi",
			"egress_rules":[{"cidr":"1.1.1.1/32","action":"deny"}],"dns":"1.1.1.1","dns_filter_hosts":["*.x.com"],"guest_subnet":"10.0.0.0/30",
			"external_interceptor_required":true,"checkpoint_head":"x","host_uid_owner":3}`,
			host.Policy{AllowedCIDRs: one, Extra: []string{"block_private", "dns", "dns_filter_hosts", "egress_rules",
				"external_interceptor_required", "guest_subnet", "network_backend", "ports"}}, nil},
		"all private networks blocked": {`{"allowed_cidrs":null,"block_private":[]}`, host.Policy{Extra: []string{"block_private"}}, nil},
		"a key of a future release":    {`{"allowed_cidrs":[],"allowed_peers":{"x":1}}`, host.Policy{AllowedCIDRs: []string{}, Extra: []string{"allowed_peers"}}, nil},
		"no policy":                    {`{"allowed_cidrs":null,"network":true}`, host.Policy{}, nil},
		"missing key":                  {`{"network":true}`, host.Policy{}, host.ErrUnsupported},
		"another type":                 {`{"allowed_cidrs":"1.1.1.1/32"}`, host.Policy{}, host.ErrUnsupported},
		"not an object":                {`[1]`, host.Policy{}, host.ErrUnsupported},
		"not JSON":                     {"\x00", host.Policy{}, host.ErrUnsupported},
	} {
		got, err := decodePolicy([]byte(tt.record))
		if diff := cmp.Diff(tt.want, got); diff != "" || !errors.Is(err, tt.kind) {
			t.Errorf("%s: %v, want %v (-want +got):\n%s", what, err, tt.kind, diff)
		}
	}
}

// A future release may keep its records elsewhere; a known release does not.
func TestPolicyWithoutADatabase(t *testing.T) {
	const name = "bottle-demo-1a2b3c4d"
	for version, want := range map[string]error{"1.9.1": host.ErrNotFound, "1.32.2": host.ErrNotFound, "1.33.0": nil} {
		c, d := newCLI(t, version)
		c.states[name] = "created"
		if got, err := d.Policy(t.Context(), name); !errors.Is(err, want) {
			t.Errorf("%s: got %+v, %v, want %v", version, got, err, want)
		}
		delete(c.states, name)
		if got, err := d.Policy(t.Context(), name); !errors.Is(err, host.ErrNotFound) {
			t.Errorf("%s, not listed: got %+v, %v, want ErrNotFound", version, got, err)
		}
	}
}
