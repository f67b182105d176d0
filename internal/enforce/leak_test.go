// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"net/netip"
	"testing"

	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// TestWhatIsALeak checks the rule that defines a leak.
func TestWhatIsALeak(t *testing.T) {
	other := owner()
	other.UID, other.Slug = "99999999-0000-4000-8000-000000000000", "other"
	ours, others := owner().Bridge(), other.Bridge()
	tests := map[string]struct {
		nonce, remote, local, received string
		leaks                          string   // UID
		proofs                         []string // UIDs for which another proof is requested
	}{
		"the nonce of a proof":              {"abc123", "10.9.9.9:1", "10.9.9.8:4711", "eth0", uid, nil},
		"the nonce, through the bundle":     {"abc123", "192.168.44.2:1", "10.9.9.8:4711", ours, uid, nil},
		"the nonce, on another's interface": {"abc123", "192.168.45.3:1", "10.9.9.8:4711", others, uid, nil},
		"the nonce of an earlier proof":     {"0ld0ace", "10.9.9.9:1", "10.9.9.8:4711", "eth0", "", nil},
		"another nonce":                     {"def456", "10.9.9.9:1", "10.9.9.8:4711", "eth0", "", nil},

		"from the machine":                 {"", "192.168.44.3:1", "192.168.44.1:4711", ours, uid, nil},
		"from another address":             {"", "172.16.0.9:1", "192.168.44.1:4711", ours, uid, nil},
		"on the wall's own link":           {"", "192.168.44.3:1", "10.9.9.8:4711", owner().Veth(), uid, nil},
		"from it, as IPv6 writes it":       {"", "[::ffff:192.168.44.3]:1", "192.168.44.1:4711", ours, uid, nil},
		"over IPv6":                        {"", "[fe80::1]:1", "[fe80::2]:4711", ours, uid, nil},
		"from another machine":             {"", "192.168.45.3:1", "192.168.45.1:4711", others, other.UID, nil},
		"from the bundle":                  {"", "192.168.44.2:1", "192.168.44.1:4711", ours, "", []string{uid}},
		"the bundle, as IPv6 writes it":    {"", "[::ffff:192.168.44.2]:1", "192.168.44.1:4711", ours, "", []string{uid}},
		"another's bundle on our network":  {"", "192.168.45.2:1", "192.168.44.1:4711", ours, uid, nil},
		"our machine on another's network": {"", "192.168.44.3:1", "192.168.44.1:4711", others, other.UID, nil},

		// Anyone who may send raw packets can forge these source addresses.
		"the machine's address, from a Pod's interface": {"", "192.168.44.3:1", "10.9.9.8:4711", "cni0", "", nil},
		"the machine's address, from the network":       {"", "192.168.44.3:1", "10.9.9.8:4711", "eth0", "", nil},
		"the machine's address, on the loopback":        {"", "192.168.44.3:1", "192.168.44.1:4711", "lo", "", nil},
		"the machine's address, received nowhere":       {"", "192.168.44.3:1", "192.168.44.1:4711", "", "", nil},
		"the loopback's address, from the network":      {"", "127.0.0.1:1", "10.9.9.8:4711", "eth0", "", nil},

		// If the node sends to a gateway, the kernel reports the gateway's interface.
		"from the node to the gateway":       {"", "10.0.0.5:1", "192.168.44.1:4711", ours, "", []string{uid, other.UID}},
		"from the node's address to its own": {"", "10.0.0.5:1", "10.0.0.5:4711", "eth0", "", []string{uid, other.UID}},
		"from the node by a broadcast":       {"", "10.0.0.5:1", "192.168.44.255:4712", ours, "", []string{uid, other.UID}},
		"from the node":                      {"", "127.0.0.1:1", "127.0.0.1:4711", "lo", "", []string{uid, other.UID}},
		"from the node's address":            {"", "10.9.9.8:1", "10.9.9.8:4711", "lo", "", []string{uid, other.UID}},
		"from elsewhere":                     {"", "10.9.9.9:1", "10.9.9.8:4711", "eth0", "", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.add(other, "45")
			for _, spec := range []host.WallSpec{spec(), specOf(other, "45")} {
				f.enforcer.EnsureProven(subject(spec)) // from now on another proof can be requested
			}
			f.enforcer.Settle()
			f.expect("0ld0ace")
			f.expect("abc123")
			f.hit(host.CanaryHit{Proto: "tcp", Nonce: tt.nonce, Interface: tt.received,
				Remote: netip.MustParseAddrPort(tt.remote), Local: netip.MustParseAddrPort(tt.local)})
			var requested []string
			for _, u := range []string{uid, other.UID} {
				st := f.enforcer.State(u)
				if got := st.Leak != nil; got != (u == tt.leaks) {
					t.Errorf("leak of %s: got %v, want %v", u, got, u == tt.leaks)
				}
				if st.Requested {
					requested = append(requested, u)
				}
			}
			f.wantRuns(tt.leaks != uid)
			if len(requested) != len(tt.proofs) || len(requested) > 0 && requested[0] != tt.proofs[0] {
				t.Errorf("proofs requested: got %q, want %q", requested, tt.proofs)
			}
		})
	}
}

// add makes the wall of another Bottle.
func (f *fixture) add(o host.Owner, third string) {
	f.t.Helper()
	folder, err := f.dir.Folder(o.UID)
	if err == nil {
		err = folder.Ensure(o)
	}
	if err == nil {
		_, err = f.enforcer.EnsureWall(f.t.Context(), specOf(o, third), requestFor("1"))
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func subject(spec host.WallSpec) enforce.Subject {
	return enforce.Subject{Spec: spec, Run: state.Run{PID: 7, StartTime: epoch}, Container: "c1"}
}

// TestForgedAddressesDoNothing repeats an attack that once stopped a machine
// with 28,000 datagrams with forged source addresses.
func TestForgedAddressesDoNothing(t *testing.T) {
	f := newFixture(t)
	f.enforcer.EnsureProven(subject(spec()))
	f.enforcer.Settle()
	f.changed = nil
	for i := range 28000 {
		f.enforcer.RecordHit(host.CanaryHit{Proto: "udp", Interface: "cni0", Local: netip.MustParseAddrPort("10.9.9.8:4712"),
			Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 44, byte(i)}), uint16(i))})
	}
	f.enforcer.Settle()
	f.wantRuns(true)
	if st := f.enforcer.State(uid); st.Leak != nil || st.Requested || len(f.changed) > 0 {
		t.Errorf("got %+v and %d notifications, want neither", st, len(f.changed))
	}
}
