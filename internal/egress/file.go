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

// MaxFile is the maximum size of a rules file in bytes. It holds all rules that fit into
// an object of the API.
const MaxFile = 4 << 20

// The versions of the rules file. Releases that only know the first one refuse a file of
// the second one, and so never tunnel to an opened host.
const (
	fileVersion       = 1
	fileVersionOpened = 2 // there are opened hosts
)

// file is the rules file. Releases that do not know closed and refused ignore them:
// what is refused is not in allow either.
type file struct {
	Version int      `json:"version"`
	Allow   []string `json:"allow"`
	// Closed are the networks that the platform closes.
	Closed map[ClosedBy][]netip.Prefix `json:"closed,omitempty"`
	// Refused are the rules that the platform refuses.
	Refused []string `json:"refused,omitempty"`
	// HTTP are the rules for requests to opened hosts.
	HTTP []fileHTTP `json:"http,omitempty"`
	// Opened are the opened hosts. They are in Allow too, as far as they are allowed.
	Opened []string `json:"opened,omitempty"`
}

// EncodeFile returns the rules file of a set. It is JSON and contains each rule
// once, in its canonical spelling, and what the platform closes and refuses. The
// same set gives the same bytes.
func EncodeFile(s Set) ([]byte, error) {
	f := file{Version: fileVersion, Allow: append([]string{}, texts(s.Rules())...), Refused: texts(s.refusedRules())}
	for _, c := range s.platform {
		if f.Closed == nil {
			f.Closed = map[ClosedBy][]netip.Prefix{}
		}
		f.Closed[c.By] = append(f.Closed[c.By], c.Network)
	}
	if s.opened != nil {
		f.Version = fileVersionOpened
		f.HTTP, f.Opened = httpToFile(s.opened.rules), texts(s.opened.hosts.Rules())
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
	if f.Version != fileVersion && f.Version != fileVersionOpened {
		return Set{}, fmt.Errorf("egress rules file: version %d: want %d or %d", f.Version, fileVersion, fileVersionOpened)
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
	if f.Version == fileVersionOpened {
		if s, err = f.open(s); err != nil {
			return Set{}, fmt.Errorf("egress rules file: %w", err)
		}
	}
	return s.refuse(refused.Rules()), nil
}
