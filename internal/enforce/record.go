// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"fmt"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// save writes what is known about the wall to its file, unless it is there. The caller holds
// m.lock and nothing else: a slow disk must not delay the guard.
func (r *registry) save(m *machine, folder state.Folder) error {
	r.mu.Lock()
	wall, unsaved := m.wall, m.unsaved && !m.gone
	m.unsaved = false
	r.mu.Unlock()
	if !unsaved {
		return nil
	}
	err := folder.WriteWall(wall)
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		m.unsaved = true
	}
	return err
}

// specOf returns the present spec of a machine's wall; zero if it has none.
func (r *registry) specOf(m *machine) host.WallSpec {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.gone {
		return host.WallSpec{}
	}
	return m.wall.Spec
}

func (r *registry) setGone(m *machine, gone bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.gone = gone
}

// checkGeneration returns ErrSuperseded if a newer generation is known.
func (r *registry) checkGeneration(m *machine, generation int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return m.checkGeneration(generation)
}

// checkGeneration is the same for a caller that holds registry.mu.
func (m *machine) checkGeneration(generation int64) error {
	if generation < m.newest {
		return fmt.Errorf("generation %d: %w", generation, ErrSuperseded)
	}
	return nil
}
