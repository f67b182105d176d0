// SPDX-License-Identifier: Apache-2.0

package subnet_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/big"
	"net/netip"
	"slices"
	"testing"

	"botbottle.dev/bottle-operator/internal/subnet"
)

// prefixesFrom reads five bytes per prefix. It keeps host bits.
func prefixesFrom(data []byte) []netip.Prefix {
	var out []netip.Prefix
	for ; len(data) >= 5 && len(out) < 300; data = data[5:] {
		out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte(data)), int(data[4]%33)))
	}
	return out
}

// FuzzPick compares Pick with a simple implementation of its contract: list all
// candidates, start at the first choice, and take the first free one.
func FuzzPick(f *testing.F) {
	at := func(third, bits byte) []byte { return []byte{192, 168, third, 0, bits} }
	f.Add("demo", uint32(0xc0a80000), 16, 24, slices.Concat(at(17, 24), at(255, 24)), at(109, 24))
	f.Add("agent", uint32(0xc0a80000), 16, 24, slices.Concat(at(17, 24), at(255, 24)), slices.Concat(at(253, 24), at(254, 24), at(0, 20)))
	f.Add("demo", uint32(0xc0a80000), 16, 24, []byte{}, []byte{0, 0, 0, 0, 0})
	f.Add("x", uint32(0x0a400000), 20, 28, []byte{10, 64, 0, 1, 32}, []byte{10, 64, 0, 0, 21})
	f.Add("", uint32(0xdfffff00), 24, 29, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, slug string, base uint32, poolBits, bits int, excludeData, occupiedData []byte) {
		if poolBits < 0 || poolBits > 32 || bits-poolBits > 10 {
			return // more than 1024 networks are slow to list
		}
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], base)
		pool := netip.PrefixFrom(netip.AddrFrom4(b), poolBits).Masked()
		var exclude []netip.Prefix
		for _, x := range prefixesFrom(excludeData) {
			exclude = append(exclude, x.Masked())
		}
		p, err := subnet.New(pool, bits, exclude)
		if err != nil {
			return // TestParseRefuses tests what is refused
		}
		occupied := prefixesFrom(occupiedData)

		candidates := checkedCandidates(t, p, pool, bits, exclude)
		want, free := plainPick(slug, candidates, occupied)
		got, err := p.Pick(slug, occupied, nil)
		switch {
		case free && (err != nil || got.Subnet != want):
			t.Fatalf("got %s, %v, want %s", got.Subnet, err, want)
		case !free && !errors.Is(err, subnet.ErrExhausted):
			t.Fatalf("got %s, %v, want %v", got.Subnet, err, subnet.ErrExhausted)
		case !free:
			return
		}
		slices.Reverse(occupied)
		if again, err := p.Pick(slug, occupied, nil); err != nil || again != got {
			t.Fatalf("occupied in another order: got %v, %v, want %v", again, err, got)
		}
		for _, a := range []netip.Addr{got.Gateway, got.BundleIP, got.MachineIP} {
			if !got.Subnet.Contains(a) || !got.Subnet.Contains(a.Next()) || !got.Subnet.Contains(a.Prev()) {
				t.Fatalf("address %s is outside %s or at its edge", a, got.Subnet)
			}
		}
	})
}

func checkedCandidates(t *testing.T, p *subnet.Pool, pool netip.Prefix, bits int, exclude []netip.Prefix) []netip.Prefix {
	candidates := slices.Collect(p.Candidates())
	if len(candidates) != p.Len() || len(candidates) == 0 {
		t.Fatalf("candidates: got %d, want %d and at least one", len(candidates), p.Len())
	}
	want := 0
	for i, c := range candidates {
		if c.Bits() != bits || !pool.Overlaps(c) || c.Masked() != c || overlapsAny(c, exclude) {
			t.Fatalf("candidate %s is outside %s, excluded, or not a network of length %d", c, pool, bits)
		}
		if i > 0 && !candidates[i-1].Addr().Less(c.Addr()) {
			t.Fatalf("candidate %s follows %s", c, candidates[i-1])
		}
	}
	addr := pool.Addr()
	for range 1 << (bits - pool.Bits()) {
		if !overlapsAny(netip.PrefixFrom(addr, bits), exclude) {
			want++
		}
		n := binary.BigEndian.Uint32(addr.AsSlice()) + 1<<(32-bits)
		addr = netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
	}
	if want != len(candidates) {
		t.Fatalf("candidates: got %d, want %d", len(candidates), want)
	}
	return candidates
}

func plainPick(slug string, candidates, occupied []netip.Prefix) (netip.Prefix, bool) {
	digest := sha256.Sum256([]byte(slug))
	n := new(big.Int).SetBytes(digest[:])
	first := int(n.Mod(n, big.NewInt(int64(len(candidates)))).Int64())
	for i := range candidates {
		if c := candidates[(first+i)%len(candidates)]; !overlapsAny(c, occupied) {
			return c, true
		}
	}
	return netip.Prefix{}, false
}

func overlapsAny(p netip.Prefix, others []netip.Prefix) bool {
	return slices.ContainsFunc(others, p.Overlaps)
}
