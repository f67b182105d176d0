// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"bytes"
	"fmt"
	"slices"

	"botbottle.dev/bottle-operator/internal/host"
)

// expected is a wall's filter in normal form.
type expected struct {
	spec  host.WallSpec
	rules []rule
	forms [][]byte
}

func expect(s host.WallSpec) (*expected, error) {
	e := &expected{spec: s, rules: rulesOf(s)}
	e.spec.Ports = slices.Clone(s.Ports)
	for _, r := range e.rules {
		form, err := normalOf(r)
		if err != nil {
			return nil, fmt.Errorf("filter of %s: %w", s.Owner.ID(), err)
		}
		e.forms = append(e.forms, form)
	}
	return e, nil
}

// matches reports whether e is the filter of s.
func (e *expected) matches(s host.WallSpec) bool {
	return e.spec.Owner == s.Owner && e.spec.MachineIP == s.MachineIP && e.spec.BundleIP == s.BundleIP && slices.Equal(e.spec.Ports, s.Ports)
}

// equal reports whether the expected rules equal those that were read.
func (e *expected) equal(read []writtenRule) bool {
	return slices.EqualFunc(e.forms, read, func(want []byte, got writtenRule) bool {
		return got.chain == chainName && bytes.Equal(want, got.normal)
	})
}

// counts returns the packets that the rules counted.
func (e *expected) counts(read []writtenRule) (accepted map[int32]uint64, dropped uint64) {
	accepted = map[int32]uint64{}
	for i, r := range e.rules {
		switch {
		case r.drops:
			dropped += read[i].packets
		case r.port != 0:
			accepted[r.port] = read[i].packets
		}
	}
	return accepted, dropped
}
