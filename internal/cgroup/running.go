// SPDX-License-Identifier: Apache-2.0

package cgroup

// Running reports whether any machine below the parent has a living process, except one:
// "" excepts none.
func Running(parent, except string) (bool, error) {
	g, err := Open(parent)
	if err != nil {
		return false, err
	}
	return g.Running(except)
}

// Running reports whether any machine but one has a living process; "" excepts none.
func (g *Groups) Running(except string) (bool, error) {
	ids, err := g.List()
	if err != nil {
		return false, err
	}
	for _, id := range ids {
		if id == except {
			continue
		}
		if populated, err := g.Populated(id); err != nil || populated {
			return populated, err
		}
	}
	return false, nil
}
