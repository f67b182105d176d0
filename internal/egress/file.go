// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
)

// MaxFile is the maximum size of a rules file in bytes.
const MaxFile = 1 << 20

// fileVersion is the only version of the rules file.
const fileVersion = 1

// file is the rules file. Releases that do not know closed and refused ignore them:
// what is refused is not in allow either.
type file struct {
	Version int      `json:"version"`
	Allow   []string `json:"allow"`
	// Closed are the networks that the platform closes.
	Closed map[ClosedBy][]netip.Prefix `json:"closed,omitempty"`
	// Refused are the rules that the platform refuses.
	Refused []string `json:"refused,omitempty"`
}

// EncodeFile returns the rules file of a set. It is JSON and contains each rule
// once, in its canonical spelling, and what the platform closes and refuses. The
// same set gives the same bytes.
func EncodeFile(s Set) ([]byte, error) {
	f := file{Version: fileVersion, Allow: []string{}}
	for _, r := range s.Rules() {
		f.Allow = append(f.Allow, r.String())
	}
	for _, r := range s.refusedRules() {
		f.Refused = append(f.Refused, r.String())
	}
	for _, c := range s.platform {
		if f.Closed == nil {
			f.Closed = map[ClosedBy][]netip.Prefix{}
		}
		f.Closed[c.By] = append(f.Closed[c.By], c.Network)
	}
	out, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("egress rules file: %w", err)
	}
	out = append(out, '\n')
	if len(out) > MaxFile {
		return nil, fmt.Errorf("egress rules file: %d bytes, more than the limit of %d; use fewer rules", len(out), MaxFile)
	}
	return out, nil
}

// DecodeFile reads a rules file of at most MaxFile bytes. It ignores unknown
// fields and refuses unknown versions. If it returns an error, the set is empty:
// a file with one invalid rule is not partly applied.
func DecodeFile(r io.Reader) (Set, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	if err != nil {
		return Set{}, fmt.Errorf("egress rules file: %w", err)
	}
	if len(data) > MaxFile {
		return Set{}, fmt.Errorf("egress rules file: more than %d bytes", MaxFile)
	}
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return Set{}, fmt.Errorf("egress rules file: %w", err)
	}
	if f.Version != fileVersion {
		return Set{}, fmt.Errorf("egress rules file: version %d: want %d", f.Version, fileVersion)
	}
	if f.Allow == nil {
		return Set{}, errors.New("egress rules file: no allow list; an empty list allows nothing")
	}
	s, err := ParseSet(f.Allow)
	if err != nil {
		return Set{}, fmt.Errorf("egress rules file: %w", err)
	}
	refused, err := ParseSet(f.Refused)
	if err != nil {
		return Set{}, fmt.Errorf("egress rules file: refused: %w", err)
	}
	for _, by := range slices.Sorted(maps.Keys(f.Closed)) {
		for _, n := range f.Closed[by] {
			if !n.IsValid() || n.Addr().Is4In6() {
				return Set{}, errors.New("egress rules file: closed: a network is not valid")
			}
			s.platform = append(s.platform, Closed{n.Masked(), by})
		}
	}
	return s.refuse(refused.Rules()), nil
}
