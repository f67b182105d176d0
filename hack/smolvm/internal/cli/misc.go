// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/cmdline"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/guest"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/state"
)

func (a *app) dataDir(args *cmdline.Args) error {
	name := target(args)
	if a.rel.AtLeast("0.8.1") {
		if _, err := a.find(name); err != nil {
			return err
		}
	}
	fmt.Fprintln(a.stdout, a.store.Dir(name))
	return nil
}

// logs prints the workload's output, even if the machine is stopped.
func (a *app) logs(args *cmdline.Args) error {
	name := target(args)
	if _, err := a.find(name); err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(a.store.Dir(name), guest.WorkloadLog))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if args.Has("tail") {
		if err := a.tail(f, number(args, "tail")); err != nil {
			return err
		}
	}
	if _, err := io.Copy(a.stdout, f); err != nil || !args.Has("follow") {
		return err
	}
	for {
		time.Sleep(50 * time.Millisecond)
		if _, err := io.Copy(a.stdout, f); err != nil {
			return err
		}
		if r, err := a.find(name); err != nil || r.State != machine.Running || !alive(r.PID, r.PIDStartTime) {
			_, err := io.Copy(a.stdout, f)
			return err
		}
	}
}

func (a *app) tail(f *os.File, n int) error {
	b, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	lines := strings.SplitAfter(string(b), "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	_, err = io.WriteString(a.stdout, strings.Join(lines[max(0, len(lines)-n):], ""))
	return err
}

// update changes the network and size of a stopped machine. --no-net deletes the
// allow-list permanently, so that a later --net allows everything.
func (a *app) update(args *cmdline.Args) error {
	name := target(args)
	var changes []string
	err := a.store.Change(func(all state.Records) error {
		r, ok := all[name]
		if !ok {
			return configError("update", "machine '%s' not found", name)
		}
		a.resolve(r)
		if r.State == machine.Running || r.State == machine.Unreachable {
			return fmt.Errorf("invalid vm state: expected stopped, got Running")
		}
		var err error
		changes, err = a.applyUpdate(r, args)
		return err
	})
	if err != nil {
		return err
	}
	if len(changes) == 0 {
		fmt.Fprintln(a.stdout, "No changes specified.")
		return nil
	}
	fmt.Fprintf(a.stdout, "Updated machine '%s':\n", name)
	for _, c := range changes {
		fmt.Fprintf(a.stdout, "  %s\n", c)
	}
	fmt.Fprintf(a.stdout, "\nStart with: smolvm machine start --name %s\n", name)
	return nil
}

func (a *app) applyUpdate(r *machine.Record, args *cmdline.Args) ([]string, error) {
	var changes []string
	if args.Has("cpus") {
		changes = append(changes, fmt.Sprintf("cpus: %d → %s", r.CPUs, args.Get("cpus")))
		r.CPUs = number(args, "cpus")
	}
	if args.Has("mem") {
		changes = append(changes, fmt.Sprintf("memory: %d MiB → %s MiB", r.MemoryMiB, args.Get("mem")))
		r.MemoryMiB = uint32(number(args, "mem"))
	}
	d := &draft{app: a, rec: r}
	if err := d.checkResources(); err != nil {
		return nil, err
	}
	switch {
	case args.Has("no-net"):
		r.Network = false
		changes = append(changes, "network: disabled")
		if r.AllowedCIDRs != nil {
			r.AllowedCIDRs = nil
			changes = append(changes, "cleared allow_cidrs")
		}
	case args.Has("net"):
		r.Network = true
		changes = append(changes, "network: enabled")
	}
	return changes, nil
}
