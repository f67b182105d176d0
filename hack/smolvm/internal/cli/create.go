// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/cmdline"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/smoltoml"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/state"
)

// draft is a record under construction, from the Smolfile and then the flags.
type draft struct {
	*app
	args *cmdline.Args
	file *smoltoml.File
	rec  *machine.Record
}

// draftSteps run in this order because smolvm reports errors in this order.
var draftSteps = []func(*draft) error{
	(*draft).loadSmolfile, (*draft).setSecrets, (*draft).setLabels, (*draft).setResources, (*draft).setHealth, (*draft).setPolicy,
	(*draft).setVolumes, (*draft).setPorts, (*draft).setProgram, (*draft).setImage,
}

func (a *app) create(args *cmdline.Args) error {
	d := &draft{app: a, args: args, file: &smoltoml.File{}, rec: &machine.Record{
		State: machine.Created, CreatedAt: time.Now().Unix(), RestartPolicy: "never",
		Env: [][2]string{}, Mounts: []machine.Mount{}, Ports: []string{},
	}}
	d.rec.Name = args.Get("name")
	if len(args.Positional) > 0 {
		d.rec.Name = args.Positional[0]
	} else if !args.Has("name") {
		d.rec.Name = randomName()
	}
	if args.Has("from") {
		return d.createFrom(args.Get("from"))
	}
	for _, step := range draftSteps {
		if err := step(d); err != nil {
			return err
		}
	}
	if err := machine.CheckName(d.rec.Name); err != nil {
		return configError("create machine", "%w", err)
	}
	if err := a.store.Change(d.insert); err != nil {
		return err
	}
	a.printCreated(d.rec)
	return nil
}

func randomName() string {
	var b [4]byte
	_, _ = rand.Read(b[:])
	return "vm-" + hex.EncodeToString(b[:])
}

func (d *draft) insert(all state.Records) error {
	if _, exists := all[d.rec.Name]; exists {
		text := "machine '%s' already exists or is being created"
		if !d.rel.AtLeast("1.4.0") {
			text = "machine '%s' already exists"
		}
		return configError("create machine", text, d.rec.Name)
	}
	all[d.rec.Name] = d.rec
	return nil
}

func (a *app) printCreated(r *machine.Record) {
	fmt.Fprintf(a.stdout, "Created machine: %s\n  CPUs: %d, Memory: %d MiB\n", r.Name, r.CPUs, r.MemoryMiB)
	for _, n := range []struct {
		what  string
		count int
	}{{"Mounts", len(r.Mounts)}, {"Ports", len(r.Ports)}, {"Init commands", len(r.Init)}} {
		if n.count > 0 {
			fmt.Fprintf(a.stdout, "  %s: %d\n", n.what, n.count)
		}
	}
	fmt.Fprintf(a.stdout, "\nUse 'smolvm machine start --name %s' to start the machine\n", r.Name)
	fmt.Fprintf(a.stdout, "Then use 'smolvm machine exec --name %s -- <command>' to run commands\n", r.Name)
}

func (d *draft) loadSmolfile() error {
	if !d.args.Has("smolfile") {
		return nil
	}
	f, err := smoltoml.Load(d.args.Get("smolfile"))
	if err != nil {
		return configError("load smolfile", "%w", err)
	}
	d.file = f
	return nil
}

func (d *draft) setSecrets() error {
	refs, err := secretFlags(d.args)
	d.rec.SecretRefs = refs
	return err
}

func (d *draft) setLabels() error {
	for _, kv := range d.args.All("label") {
		name, value, err := splitFlag("--label", "label key cannot be empty (in '%s')", kv)
		if err != nil {
			return err
		}
		if d.rec.Labels == nil {
			d.rec.Labels = map[string]string{}
		}
		d.rec.Labels[name] = value
	}
	return nil
}

func (d *draft) setResources() error {
	cpus, memory := uint64(machine.DefaultCPUs), uint64(machine.DefaultMemoryMiB)
	if d.file.CPUs != nil {
		cpus = uint64(*d.file.CPUs)
	}
	if d.file.Memory != nil {
		memory = uint64(*d.file.Memory)
	}
	// Old releases treat a flag with the default value like a missing flag.
	if n, ok := d.number("cpus"); ok && (n != machine.DefaultCPUs || d.rel.AtLeast("1.29.0")) {
		cpus = n
	}
	if n, ok := d.number("mem"); ok && (n != machine.DefaultMemoryMiB || d.rel.AtLeast("1.29.0")) {
		memory = n
	}
	d.rec.CPUs, d.rec.MemoryMiB = int(cpus), uint32(memory)
	d.rec.Disks = d.file.Disks
	for _, disk := range machine.AllDisks {
		if n, ok := d.number(disk.Name); ok {
			*disk.Size(&d.rec.Disks) = &n
		}
	}
	return d.checkResources()
}

func (d *draft) checkResources() error {
	const op = "validate resources"
	r := d.rec
	switch {
	case r.CPUs < 1:
		return configError(op, "CPU count must be at least 1")
	case r.MemoryMiB < 64:
		return configError(op, "memory must be at least 64 MiB (got %d MiB)", r.MemoryMiB)
	}
	for _, disk := range machine.AllDisks {
		if n := *disk.Size(&r.Disks); n != nil && *n == 0 {
			return configError(op, "%s disk size must be greater than 0 GiB", disk.Name)
		}
	}
	if r.CPUs > 16 {
		fmt.Fprintf(d.stderr, "warning: requested %d vCPUs but the hypervisor supports at most 16; the VM will run with 16 vCPUs\n", r.CPUs)
	}
	return nil
}

// number returns a flag's value and whether it was given. The parser has already
// checked its format.
func (d *draft) number(flag string) (uint64, bool) {
	if !d.args.Has(flag) {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(d.args.Get(flag), "+"), 10, 64)
	return n, err == nil
}

// setPolicy sets the network and the allow-list. An allow-list enables the network,
// even if the Smolfile has `net = false`.
func (d *draft) setPolicy() error {
	for _, s := range d.file.Network.AllowCIDRs {
		c, err := parseCIDR(s)
		if err != nil {
			return configError("smolfile [network] allow_cidrs", "%w", err)
		}
		d.rec.AllowedCIDRs = append(d.rec.AllowedCIDRs, c)
	}
	if len(d.file.Network.AllowHosts) > 0 {
		return configError("smolfile [network] allow_hosts", "the stand-in does not resolve names")
	}
	for _, s := range d.args.All("allow-cidr") {
		c, _ := parseCIDR(s) // the parser has validated it
		d.rec.AllowedCIDRs = append(d.rec.AllowedCIDRs, c)
	}
	if d.args.Has("outbound-localhost-only") {
		d.rec.AllowedCIDRs = append(d.rec.AllowedCIDRs, "127.0.0.0/8", "::1/128")
	}
	d.rec.DNS = d.args.Get("dns")
	d.rec.Network = d.args.Has("net") || d.file.Net != nil && *d.file.Net || d.rec.AllowedCIDRs != nil || d.rec.DNS != ""
	d.rec.NetworkBackend = d.args.Get("net-backend")
	return d.checkBackend()
}

func (d *draft) checkBackend() error {
	if d.rec.AllowedCIDRs == nil {
		return nil
	}
	switch modern := d.rel.AtLeast("1.1.3"); {
	case modern && d.rec.NetworkBackend == "tsi":
		flags := "--allow-cidr/--allow-host/--outbound-localhost-only"
		if d.rel.AtLeast("1.29.0") {
			flags += "/--block-private"
		}
		return configError("egress", "egress policy (%s) requires the virtio-net backend; TSI does not enforce it. Remove --net-backend tsi or set it to virtio-net", flags)
	case !d.rel.AtLeast("1.0.2") && d.rec.NetworkBackend == "virtio-net":
		return configError("--net-backend", "allow-cidr/allow-host policies are not supported by the current virtio-net implementation")
	}
	return nil
}

// devOrTop returns the list in [dev] if it is not empty, and otherwise the top-level
// list, followed by the values of the flag.
func (d *draft) devOrTop(top, dev []string, flag string) []string {
	if len(dev) > 0 {
		top = dev
	}
	return slices.Concat(top, d.args.All(flag))
}
