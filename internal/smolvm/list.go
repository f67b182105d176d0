// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
)

// ListMachines implements host.Machines.
func (d *Driver) ListMachines(ctx context.Context) ([]host.Machine, error) {
	c, err := d.supported(ctx)
	if err != nil {
		return nil, err
	}
	return d.list(ctx, c)
}

// find returns the machine with this name. The error is ErrNotFound if there is
// none. It costs the same however many machines there are.
func (d *Driver) find(ctx context.Context, c capabilities, name string) (host.Machine, error) {
	m, _, err := d.inspect(ctx, c, name)
	return m, err
}

// inspect returns the machine that find returns, and all that smolvm shows of it.
func (d *Driver) inspect(ctx context.Context, c capabilities, name string) (host.Machine, object, error) {
	what := "inspect machine " + name
	res, err := d.run(ctx, call{what: what, args: c.statusArgs(name), timeout: listTimeout})
	if err != nil {
		return host.Machine{}, nil, err
	}
	var view object
	found, err := d.decode(slices.Concat([]byte("["), res.Stdout, []byte("]")))
	if err == nil && (res.Truncated || len(found) != 1 || found[0].Name != name) {
		err = errors.New("smolvm described another machine")
	}
	if err == nil {
		err = json.Unmarshal(res.Stdout, &view)
	}
	if err != nil {
		return host.Machine{}, nil, fmt.Errorf("%s: %w: %w", what, host.ErrUnavailable, err)
	}
	return found[0], view, nil
}

func (d *Driver) list(ctx context.Context, c capabilities) ([]host.Machine, error) {
	res, err := d.run(ctx, call{what: "list machines", args: c.listArgs(), timeout: listTimeout})
	if err != nil {
		return nil, err
	}
	if res.Truncated {
		return nil, fmt.Errorf("list machines: %w: smolvm's list is too long", host.ErrUnavailable)
	}
	machines, err := d.decode(res.Stdout)
	if err != nil {
		return nil, fmt.Errorf("list machines: %w: %w", host.ErrUnavailable, err)
	}
	for _, m := range machines {
		d.keepLimits(m)
	}
	return machines, nil
}

// decode decodes a list of machines and corrects it by the node's processes.
func (d *Driver) decode(list []byte) ([]host.Machine, error) {
	all, err := decodeList(list)
	if err != nil {
		return nil, err
	}
	machines := make([]host.Machine, 0, len(all))
	for _, l := range all {
		m := l.machine()
		d.observe(&m, l.pid())
		machines = append(machines, m)
	}
	slices.SortFunc(machines, func(a, b host.Machine) int { return cmp.Compare(a.Name, b.Name) })
	return machines, nil
}

// observe corrects a listed machine by the node's processes: it sets PID and
// StartTime of a VMM that is alive and belongs to the machine, and the state of
// one that is dead. smolvm reports a dead VMM that init has not reaped yet as
// unreachable.
func (d *Driver) observe(m *host.Machine, listed int) {
	if m.State != host.MachineRunning && m.State != host.MachineUnreachable {
		return
	}
	p, alive, err := d.vmm(m.Name, listed)
	switch {
	case err != nil:
	case !alive:
		m.State = host.MachineStopped
	case m.State == host.MachineRunning && d.owns(m.Name, p):
		m.PID, m.StartTime = p.pid, d.booted.at(p.ticks)
	}
}

// listed holds the keys that are read from one object of `machine ls --json`.
// So far, new releases have only added keys.
type listed struct {
	Name         string            `json:"name"`
	State        string            `json:"state"`
	PID          *int              `json:"pid"`
	CPUs         int32             `json:"cpus"`
	MemoryMiB    int64             `json:"memory_mib"`
	Labels       map[string]string `json:"labels"`
	Image        *string           `json:"image"`
	AllowedCIDRs []string          `json:"allowed_cidrs"`
	LastExit     json.RawMessage   `json:"last_exit"`
}

// decodeList decodes the list. If a key of a machine has an unexpected type,
// the machine is still listed by its name, in state unknown: a list that hides
// machines would be worse.
func decodeList(b []byte) ([]listed, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return nil, fmt.Errorf("smolvm's output is not a list: %w", err)
	}
	out := make([]listed, 0, len(raw))
	for _, r := range raw {
		var l listed
		if err := json.Unmarshal(r, &l); err != nil {
			var named struct {
				Name string `json:"name"`
			}
			if json.Unmarshal(r, &named) != nil {
				named.Name = ""
			}
			l = listed{Name: named.Name}
		}
		if l.Name == "" {
			return nil, errors.New("smolvm listed a machine without a name")
		}
		out = append(out, l)
	}
	return out, nil
}

func (l listed) pid() int {
	if l.PID == nil {
		return 0
	}
	return *l.PID
}

func (l listed) machine() host.Machine {
	m := host.Machine{
		Name:         l.Name,
		UID:          l.Labels[v1alpha1.LabelUID],
		State:        stateOf(l.State),
		CPUs:         l.CPUs,
		MemoryMiB:    l.MemoryMiB,
		AllowedCIDRs: l.AllowedCIDRs,
		LastExit:     lastExit(l.LastExit),
	}
	if l.Image != nil {
		m.Image = *l.Image
	}
	return m
}

func stateOf(word string) host.MachineState {
	switch s := host.MachineState(word); s {
	case host.MachineCreated, host.MachineRunning, host.MachineStopped,
		host.MachineFailed, host.MachineUnreachable, host.MachineFrozen:
		return s
	}
	return host.MachineUnknown
}

// lastExit describes how the VMM ended; "" if smolvm does not report it.
func lastExit(raw json.RawMessage) string {
	var e struct {
		Cause    string `json:"cause"`
		ExitCode *int   `json:"exit_code"`
		Signal   *int   `json:"signal"`
	}
	if len(raw) == 0 || json.Unmarshal(raw, &e) != nil {
		return ""
	}
	switch {
	case e.Signal != nil:
		return fmt.Sprintf("ended by signal %d", *e.Signal)
	case e.ExitCode != nil:
		return fmt.Sprintf("ended with exit code %d", *e.ExitCode)
	}
	return clean(e.Cause)
}
