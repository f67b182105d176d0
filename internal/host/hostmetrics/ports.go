// SPDX-License-Identifier: Apache-2.0

package hostmetrics

import (
	"context"
	"net/netip"

	"botbottle.dev/bottle-operator/internal/host"
)

// Networks returns n with its calls measured.
func (m *Metrics) Networks(n host.Networks) host.Networks { return networks{n, m} }

// Bundles returns b with its calls measured, except those that run for long:
// FollowDecisions and WatchBundles. ReadFile is not measured either.
func (m *Metrics) Bundles(b host.Bundles) host.Bundles { return bundles{b, m} }

// Machines returns v with its calls measured, except those whose duration depends
// on the guest (Exec and Copy), and WatchExit.
func (m *Metrics) Machines(v host.Machines) host.Machines { return machines{v, m} }

func measure[T any](m *Metrics, name string, f func() (T, error)) (out T, err error) {
	err = m.call(name, func() (err error) {
		out, err = f()
		return err
	})
	return out, err
}

type networks struct {
	host.Networks
	m *Metrics
}

func (n networks) InspectNetwork(ctx context.Context, o host.Owner) (host.Network, error) {
	return measure(n.m, "InspectNetwork", func() (host.Network, error) { return n.Networks.InspectNetwork(ctx, o) })
}

func (n networks) OccupiedPrefixes(ctx context.Context, o host.Owner) ([]netip.Prefix, error) {
	return measure(n.m, "OccupiedPrefixes", func() ([]netip.Prefix, error) { return n.Networks.OccupiedPrefixes(ctx, o) })
}

func (n networks) EnsureNetwork(ctx context.Context, want host.Network) error {
	return n.m.call("EnsureNetwork", func() error { return n.Networks.EnsureNetwork(ctx, want) })
}

func (n networks) DeleteNetwork(ctx context.Context, o host.Owner) error {
	return n.m.call("DeleteNetwork", func() error { return n.Networks.DeleteNetwork(ctx, o) })
}

func (n networks) ListNetworks(ctx context.Context) ([]host.Network, error) {
	return measure(n.m, "ListNetworks", func() ([]host.Network, error) { return n.Networks.ListNetworks(ctx) })
}

type bundles struct {
	host.Bundles
	m *Metrics
}

func (b bundles) InspectBundle(ctx context.Context, o host.Owner) (host.Bundle, error) {
	return measure(b.m, "InspectBundle", func() (host.Bundle, error) { return b.Bundles.InspectBundle(ctx, o) })
}

func (b bundles) EnsureBundle(ctx context.Context, spec host.BundleSpec) (host.Bundle, error) {
	return measure(b.m, "EnsureBundle", func() (host.Bundle, error) { return b.Bundles.EnsureBundle(ctx, spec) })
}

func (b bundles) StopBundle(ctx context.Context, o host.Owner) error {
	return b.m.call("StopBundle", func() error { return b.Bundles.StopBundle(ctx, o) })
}

func (b bundles) DeleteBundle(ctx context.Context, o host.Owner) error {
	return b.m.call("DeleteBundle", func() error { return b.Bundles.DeleteBundle(ctx, o) })
}

func (b bundles) ListBundles(ctx context.Context) ([]host.Bundle, error) {
	return measure(b.m, "ListBundles", func() ([]host.Bundle, error) { return b.Bundles.ListBundles(ctx) })
}

func (b bundles) UnansweredPorts(ctx context.Context, o host.Owner, ip netip.Addr, ports []int32) ([]int32, error) {
	return measure(b.m, "UnansweredPorts", func() ([]int32, error) { return b.Bundles.UnansweredPorts(ctx, o, ip, ports) })
}

func (b bundles) Folders(ctx context.Context, o host.Owner) (rules, secrets string, err error) {
	err = b.m.call("Folders", func() (err error) {
		rules, secrets, err = b.Bundles.Folders(ctx, o)
		return err
	})
	return rules, secrets, err
}

type machines struct {
	host.Machines
	m *Metrics
}

func (v machines) Version(ctx context.Context) (host.SmolvmVersion, error) {
	return measure(v.m, "Version", func() (host.SmolvmVersion, error) { return v.Machines.Version(ctx) })
}

func (v machines) ListMachines(ctx context.Context) ([]host.Machine, error) {
	return measure(v.m, "ListMachines", func() ([]host.Machine, error) { return v.Machines.ListMachines(ctx) })
}

func (v machines) CreateMachine(ctx context.Context, spec host.MachineSpec) error {
	return v.m.call("CreateMachine", func() error { return v.Machines.CreateMachine(ctx, spec) })
}

func (v machines) StartMachine(ctx context.Context, name, netns string) error {
	return v.m.call("StartMachine", func() error { return v.Machines.StartMachine(ctx, name, netns) })
}

func (v machines) StopMachine(ctx context.Context, name string) error {
	return v.m.call("StopMachine", func() error { return v.Machines.StopMachine(ctx, name) })
}

func (v machines) DeleteMachine(ctx context.Context, name string) error {
	return v.m.call("DeleteMachine", func() error { return v.Machines.DeleteMachine(ctx, name) })
}

func (v machines) KillMachine(ctx context.Context, name string) error {
	return v.m.call("KillMachine", func() error { return v.Machines.KillMachine(ctx, name) })
}

func (v machines) Policy(ctx context.Context, name string) (host.Policy, error) {
	return measure(v.m, "Policy", func() (host.Policy, error) { return v.Machines.Policy(ctx, name) })
}

func (v machines) Denials(ctx context.Context, name string) ([]host.Denial, error) {
	return measure(v.m, "Denials", func() ([]host.Denial, error) { return v.Machines.Denials(ctx, name) })
}

func (v machines) VMMs(ctx context.Context, names []string) ([]host.VMM, error) {
	return measure(v.m, "VMMs", func() ([]host.VMM, error) { return v.Machines.VMMs(ctx, names) })
}

func (v machines) Lives(ctx context.Context, name string) (bool, error) {
	return measure(v.m, "Lives", func() (bool, error) { return v.Machines.Lives(ctx, name) })
}
