// SPDX-License-Identifier: Apache-2.0

package subnet

import (
	"cmp"
	"slices"
)

// span is a run of blocks, both ends included.
type span struct{ lo, hi uint64 }

// spans is a set of blocks. All methods except merged require it to be sorted
// and disjoint, as merged returns it.
type spans []span

// merged returns the same set, sorted, with no two spans adjacent or overlapping.
func (s spans) merged() spans {
	s = slices.Clone(s)
	slices.SortFunc(s, func(a, b span) int { return cmp.Compare(a.lo, b.lo) })
	out := s[:0]
	for _, x := range s {
		if n := len(out); n > 0 && x.lo <= out[n-1].hi+1 {
			out[n-1].hi = max(out[n-1].hi, x.hi)
			continue
		}
		out = append(out, x)
	}
	return out
}

// size returns the number of blocks in the set.
func (s spans) size() uint64 {
	var n uint64
	for _, x := range s {
		n += x.hi - x.lo + 1
	}
	return n
}

// nthFree returns the block that is outside the set and has exactly n such blocks
// before it.
func (s spans) nthFree(n uint64) uint64 {
	for _, x := range s {
		if n < x.lo {
			break
		}
		n += x.hi - x.lo + 1
	}
	return n
}

// nextFree returns the first block from lo on, and below end, that is outside the
// set; false if there is none.
func (s spans) nextFree(lo, end uint64) (uint64, bool) {
	i, _ := slices.BinarySearchFunc(s, lo, func(x span, lo uint64) int { return cmp.Compare(x.hi, lo) })
	if i < len(s) && s[i].lo <= lo {
		lo = s[i].hi + 1
	}
	return lo, lo < end
}
