// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/cmdline"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/fault"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
)

// list implements `ls`.
func (a *app) list(args *cmdline.Args) error {
	time.Sleep(time.Duration(a.faults.SlowListMS) * time.Millisecond)
	recs, err := a.allMachines()
	if err != nil {
		return err
	}
	if args.Has("quiet") && !args.Has("json") {
		for _, r := range recs {
			fmt.Fprintln(a.stdout, r.Name)
		}
		return nil
	}
	for _, r := range recs {
		a.resolve(r)
	}
	if args.Has("json") {
		views := make([]map[string]any, 0, len(recs))
		for _, r := range recs {
			views = append(views, a.view(r))
		}
		return a.printJSON(views)
	}
	if len(recs) == 0 {
		fmt.Fprintln(a.stdout, "No machines found")
		return nil
	}
	a.table(recs, args)
	return nil
}

// allMachines returns the records of all machines in the order that the release
// lists them: random up to 1.17, then by name.
func (a *app) allMachines() ([]*machine.Record, error) {
	all, err := a.store.Load()
	if err != nil {
		return nil, err
	}
	if a.faults.ImageSeedMachine {
		r := &machine.Record{Name: "image-seed-0f3c9a1be27d4458-4711", State: machine.Created, CPUs: 4, MemoryMiB: 8192, RestartPolicy: "never", CreatedAt: time.Now().Unix(), Network: true}
		all[r.Name] = r
	}
	var recs []*machine.Record
	for _, n := range all.Names() {
		recs = append(recs, all[n])
	}
	if !a.rel.AtLeast("1.18.0") {
		rand.Shuffle(len(recs), func(i, j int) { recs[i], recs[j] = recs[j], recs[i] })
	}
	return recs, nil
}

// view returns the machine's JSON object, modified by the injected faults.
func (a *app) view(r *machine.Record) map[string]any {
	v := r.View(a.rel)
	if fault.Matches(a.faults.UnknownState, r.Name) {
		v["state"] = "hibernating"
	}
	if a.faults.JSONExtraKeys {
		v["zz_future"] = map[string]any{"nested": []int{1, 2}, "note": "a key of a future release"}
		v["attestation"] = nil
	}
	return v
}

func (a *app) printJSON(v any) error {
	s, err := machine.FormatJSON(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(a.stdout, s)
	return err
}

func (a *app) table(recs []*machine.Record, args *cmdline.Args) {
	width := 20
	if a.rel.AtLeast("1.14.0") {
		width = 4
		for _, r := range recs {
			width = max(width, len(r.Name))
		}
	}
	head := fmt.Sprintf("%-*s %-12s %5s %10s %7s %7s", width, "NAME", "STATE", "CPUS", "MEMORY", "MOUNTS", "PORTS")
	for _, disk := range machine.AllDisks {
		head += fmt.Sprintf(" %8s", strings.ToUpper(disk.Name))
	}
	branched := a.rel.AtLeast("1.14.0")
	if branched {
		head += "  BRANCHED FROM"
	}
	rule := len(head)
	if !branched {
		rule += 4 // these releases print a wider rule
	}
	fmt.Fprintf(a.stdout, "%s\n%s\n", head, strings.Repeat("-", rule))
	for _, r := range recs {
		row := fmt.Sprintf("%-*s %-12s %5d %6d MiB %7d %7d", width, r.Name, r.State, r.CPUs, r.MemoryMiB, len(r.Mounts), len(r.Ports))
		for _, disk := range machine.AllDisks {
			row += fmt.Sprintf(" %4d GiB", disk.GiB(&r.Disks))
		}
		if branched {
			row += fmt.Sprintf("  %-13s", "-")
		}
		fmt.Fprintln(a.stdout, row)
		if args.Has("verbose") {
			a.details(r)
		}
	}
}

// details prints what `ls --verbose` adds. Like smolvm it prints the environment
// in clear text and does not print the policy.
func (a *app) details(r *machine.Record) {
	for _, m := range r.Mounts {
		mode := ""
		if m.ReadOnly {
			mode = " (ro)"
		}
		fmt.Fprintf(a.stdout, "  Mount: %s -> %s%s\n", m.Source, m.Target, mode)
	}
	for _, p := range r.Ports {
		host, to, _ := strings.Cut(p, ":")
		fmt.Fprintf(a.stdout, "  Port: %s -> %s\n", host, to)
	}
	if r.Network {
		fmt.Fprintln(a.stdout, "  Network: enabled")
	}
	for _, c := range r.Init {
		fmt.Fprintf(a.stdout, "  Init: %s\n", c)
	}
	for _, kv := range r.Env {
		fmt.Fprintf(a.stdout, "  Env: %s=%s\n", kv[0], kv[1])
	}
	if r.Workdir != "" {
		fmt.Fprintf(a.stdout, "  Workdir: %s\n", r.Workdir)
	}
	fmt.Fprintf(a.stdout, "  Created: %s\n\n", time.Unix(r.CreatedAt, 0).UTC().Format("2006-01-02T15:04:05Z"))
}

func (a *app) status(args *cmdline.Args) error {
	name := target(args)
	r, err := a.find(name)
	if args.Has("json") {
		time.Sleep(time.Duration(a.faults.SlowListMS) * time.Millisecond)
		if isNotFound(err) {
			return configError("machine status", "machine '%s' not found", name)
		}
		if err != nil {
			return err
		}
		a.resolve(r)
		return a.printJSON(a.view(r))
	}
	if err != nil {
		if !isNotFound(err) {
			return err
		}
		a.leaveFolder(name)
		if name == "default" && !args.Has("name") {
			fmt.Fprintln(a.stdout, "Machine 'default': not running")
			return nil
		}
		return err
	}
	a.leaveFolder(name)
	a.resolve(r)
	switch {
	case r.State == machine.Running:
		fmt.Fprintf(a.stdout, "Machine '%s': running (PID: %d)\n", name, r.PID)
	case !a.rel.AtLeast("1.4.0"):
		fmt.Fprintf(a.stdout, "Machine '%s': not running\n", name)
	default:
		fmt.Fprintf(a.stdout, "Machine '%s': %s\n", name, r.State)
	}
	return nil
}
