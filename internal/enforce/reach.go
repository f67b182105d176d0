// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// Reach is the most that a Bottle's spec lets its guest reach.
type Reach struct {
	// Generation of the spec.
	Generation int64
	// Ports of the bundle.
	Ports []int32
	// Rules of the built-in bundle.
	Rules egress.Set
}

// narrow implements Enforcement.Narrow. What it leaves is never more than what
// is in force, nor more than reach.
func (w *walls) narrow(ctx context.Context, owner host.Owner, reach Reach) error {
	m, folder, err := w.watched.ensure(owner.UID)
	if err != nil {
		return err
	}
	m.act.Lock()
	defer m.act.Unlock()
	w.watched.mu.Lock()
	m.newest = max(m.newest, reach.Generation)
	w.watched.mu.Unlock()
	if err := w.current(m, reach.Generation); err != nil {
		return nil // whoever narrows to the newest generation does it
	}
	return errors.Join(w.narrowPorts(ctx, m, folder, reach.Ports), narrowRules(folder, reach.Rules))
}

// current returns ErrSuperseded if generation is not the newest that is known.
func (w *walls) current(m *machine, generation int64) error {
	w.watched.mu.Lock()
	defer w.watched.mu.Unlock()
	if generation < m.newest {
		return fmt.Errorf("generation %d: %w", generation, ErrSuperseded)
	}
	return nil
}

// narrowPorts closes the wall's ports that are not among ports; m.act is held.
func (w *walls) narrowPorts(ctx context.Context, m *machine, folder state.Folder, ports []int32) error {
	spec := m.wall.Spec
	if spec.Owner.UID == "" {
		return nil // there is no wall yet
	}
	kept := slices.DeleteFunc(slices.Clone(spec.Ports), func(p int32) bool { return !slices.Contains(ports, p) })
	if len(kept) == len(spec.Ports) {
		return nil
	}
	spec.Ports = kept
	if err := w.setSpec(m, folder, spec); err != nil {
		return err
	}
	_, err := w.raise(ctx, m, folder)
	return err
}

// narrowRules removes from the rules that the bundle reads what rules does not
// allow.
func narrowRules(folder state.Folder, rules egress.Set) error {
	data, err := folder.Rules()
	if err != nil || data == nil {
		return err
	}
	// Rules that cannot be read allow nothing that is known.
	now, err := egress.DecodeFile(bytes.NewReader(data))
	if err != nil {
		now = egress.Set{}
	}
	return writeRules(folder, now.Intersect(rules))
}

// openRules implements Enforcement.OpenRules.
func (w *walls) openRules(owner host.Owner, generation int64, rules egress.Set) error {
	m, folder, err := w.watched.ensure(owner.UID)
	if err != nil {
		return err
	}
	m.act.Lock()
	defer m.act.Unlock()
	if err := w.current(m, generation); err != nil {
		return err
	}
	return writeRules(folder, rules)
}

func writeRules(folder state.Folder, rules egress.Set) error {
	data, err := egress.EncodeFile(rules)
	if err != nil {
		return err
	}
	_, err = folder.WriteRules(data)
	return err
}
