// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"slices"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/cmdline"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/release"
)

// group is the commands behind one word.
type group struct {
	name, alias string
	about       string
	commands    []command
}

var groups = []group{
	{name: "machine", alias: "vm", about: "Manage machines (create, start, stop, exec)", commands: machineCommands},
	{name: "pack", about: "Package and run self-contained VM executables", commands: packCommands},
}

func findGroup(name string) *group {
	for i := range groups {
		if g := &groups[i]; g.name == name || g.alias == name && name != "" {
			return g
		}
	}
	return nil
}

func (g *group) usage() string { return "smolvm " + g.name + " [OPTIONS] <COMMAND>" }

// command is one subcommand of a group.
type command struct {
	name, alias string
	since       string
	flags       []cmdline.Flag
	positional  []string
	trailing    cmdline.Trailing
	naming      naming
	usage       string // what follows the command's name in Usage
	writes      bool   // touches the database
	run         func(*app, *cmdline.Args) error
}

// naming is how a command is told which machine it is about.
type naming int

const (
	nameless   naming = iota
	nameOption        // [-n|--name NAME] in every release
	longName          // [--name NAME], no short form
	nameMoved         // NAME in 0.8.0, --name NAME (required) later
	nameMaybe         // [NAME] in 0.8.0, [--name NAME] later
)

// positionalNames is where releases end that take the name as a positional.
const positionalNames = "1.0.2"

func (g *group) find(rel release.Release, name string) *command {
	for i := range g.commands {
		c := &g.commands[i]
		if (c.name == name || c.alias == name && name != "") && rel.AtLeast(c.since) {
			return c
		}
	}
	return nil
}

// spec is the command's grammar in that release.
func (c *command) spec(group string, rel release.Release) *cmdline.Command {
	s := &cmdline.Command{
		Usage: "smolvm " + group + " " + c.name + " " + c.usage,
		Flags: append([]cmdline.Flag{}, c.flags...), Positional: c.positional, Trailing: c.trailing,
	}
	if c.naming == nameMaybe && !rel.AtLeast(positionalNames) {
		s.Trailing = cmdline.NoTrailing
	}
	name := cmdline.Flag{Name: "name", Short: "n", Value: "NAME"}
	if rel.AtLeast("1.22.0") {
		name.Env = "SMOLVM_MACHINE_NAME"
	}
	moved := c.naming == nameMoved || c.naming == nameMaybe
	switch {
	case c.naming == nameless:
	case moved && !rel.AtLeast(positionalNames):
		s.Positional, s.Usage = []string{"NAME"}, "smolvm machine "+c.name+" [OPTIONS] <NAME>"
		if c.naming == nameMaybe {
			s.Optional, s.Usage = 1, "smolvm machine "+c.name+" [OPTIONS] [NAME]"
		}
	case c.naming == longName:
		name.Short = ""
		s.Flags = append(s.Flags, name)
	default:
		name.Required = c.naming == nameMoved
		s.Flags = append(s.Flags, name)
	}
	return s
}

var asJSON = cmdline.Flag{Name: "json"}

var machineCommands = []command{
	{name: "create", naming: nameMaybe, flags: createFlags, trailing: cmdline.AfterDashes, usage: "[OPTIONS] [-- <COMMAND>...]", writes: true, run: (*app).create},
	{name: "start", naming: nameOption, usage: "[OPTIONS]", writes: true, run: (*app).start, flags: []cmdline.Flag{
		{Name: "proxy", Value: "URL", Since: "0.9.0"}, {Name: "no-proxy", Value: "LIST", Since: "0.9.0"},
		{Name: "egress-interceptor", Value: "ADDR", Since: "1.22.0"}, {Name: "mediated-egress", Since: "1.26.1"},
	}},
	{name: "stop", naming: nameOption, usage: "[OPTIONS]", writes: true, run: (*app).stop, flags: []cmdline.Flag{
		{Name: "timeout", Short: "t", Value: "SECONDS", Since: "1.29.0", Check: stopTimeout},
	}},
	{name: "delete", alias: "rm", naming: nameMoved, usage: "[OPTIONS] --name <NAME>", writes: true, run: (*app).delete, flags: []cmdline.Flag{
		{Name: "force", Short: "f"}, {Name: "cascade", Since: "1.7.0"},
	}},
	{name: "status", naming: nameOption, usage: "[OPTIONS]", run: (*app).status, flags: []cmdline.Flag{asJSON}},
	{name: "ls", alias: "list", usage: "[OPTIONS]", run: (*app).list, flags: []cmdline.Flag{
		asJSON, {Name: "verbose", Short: "v"}, {Name: "quiet", Short: "q", Since: "1.18.0"},
	}},
	{name: "exec", naming: longName, usage: "[OPTIONS] <COMMAND>...", trailing: cmdline.FromFirstWord, run: (*app).exec, flags: []cmdline.Flag{
		{Name: "workdir", Short: "w", Value: "DIR"}, {Name: "env", Short: "e", Value: "KEY=VALUE", Many: true},
		{Name: "user", Short: "u", Value: "USER", Since: "1.14.0"}, {Name: "timeout", Value: "DURATION", Check: duration},
		{Name: "interactive", Short: "i"}, {Name: "tty", Short: "t"}, {Name: "stream"},
		{Name: "secret-env", Value: "GUEST_VAR=HOST_VAR", Many: true, Since: "1.4.0"},
		{Name: "secret-file", Value: "GUEST_VAR=PATH", Many: true, Since: "1.4.0"},
		{Name: "detach", Short: "d", Since: "1.4.0"},
	}},
	{name: "cp", usage: "[OPTIONS] <SRC> <DST>", positional: []string{"SRC", "DST"}, run: (*app).copy, flags: []cmdline.Flag{
		{Name: "mode", Value: "OCTAL", Since: "1.9.0"},
		{Name: "uid", Value: "UID", Since: "1.9.0", Check: wholeNumber(1<<32 - 1)}, {Name: "gid", Value: "GID", Since: "1.9.0", Check: wholeNumber(1<<32 - 1)},
	}},
	{name: "logs", naming: nameOption, since: "1.29.0", usage: "[OPTIONS]", run: (*app).logs, flags: []cmdline.Flag{
		{Name: "follow", Short: "f"}, {Name: "tail", Value: "N", Check: wholeNumber(1 << 32)},
	}},
	{name: "egress-events", naming: nameOption, since: "1.8.1", usage: "[OPTIONS]", run: (*app).egressEvents, flags: []cmdline.Flag{
		asJSON, {Name: "limit", Value: "LIMIT", Check: wholeNumber(1 << 32)},
	}},
	{name: "data-dir", naming: nameMoved, usage: "[OPTIONS] --name <NAME>", run: (*app).dataDir},
	{name: "update", naming: nameMoved, usage: "[OPTIONS] --name <NAME>", writes: true, run: (*app).update, flags: []cmdline.Flag{
		{Name: "net"}, {Name: "no-net", Excludes: []string{"net"}},
		{Name: "cpus", Value: "N", Check: wholeNumber(255)}, {Name: "mem", Value: "MiB", Check: wholeNumber(1<<32 - 1)},
	}},
}

var packCommands = []command{
	{name: "create", usage: "[OPTIONS] --output <PATH>", run: (*app).packCreate, flags: []cmdline.Flag{
		{Name: "image", Short: "I", Value: "IMAGE"}, {Name: "from-vm", Value: "VM_NAME", Excludes: []string{"image"}},
		{Name: "output", Short: "o", Value: "PATH", Required: true},
		{Name: "cpus", Value: "N", Check: wholeNumber(255)}, {Name: "mem", Value: "MiB", Check: wholeNumber(1<<32 - 1)},
	}},
}

// createFlags holds what the stand-in acts on or stores. Flags of smolvm that
// change the virtual machine's devices are not there and are refused.
var createFlags = slices.Concat([]cmdline.Flag{
	{Name: "image", Short: "I", Value: "IMAGE", Check: imageReference},
	{Name: "cpus", Value: "N", Check: wholeNumber(255)},
	{Name: "mem", Value: "MiB", Check: wholeNumber(1<<32 - 1)},
}, diskFlags(), []cmdline.Flag{
	{Name: "volume", Short: "v", Value: "HOST:GUEST", Many: true},
	{Name: "port", Short: "p", Value: "HOST:GUEST", Many: true, Check: portFlag},
	{Name: "net"},
	{Name: "net-backend", Value: "NET_BACKEND", Check: cmdline.OneOf("tsi", "virtio-net")},
	{Name: "allow-cidr", Value: "CIDR", Many: true, Check: cidrFlag},
	{Name: "outbound-localhost-only"},
	{Name: "init", Value: "COMMAND", Many: true},
	{Name: "env", Short: "e", Value: "KEY=VALUE", Many: true},
	{Name: "workdir", Short: "w", Value: "DIR"},
	{Name: "smolfile", Short: "s", Value: "PATH"},
	{Name: "from", Value: "PATH", Excludes: []string{"image", "smolfile"}},
	{Name: "secret-env", Value: "GUEST_VAR=HOST_VAR", Many: true, Since: "1.4.0"},
	{Name: "secret-file", Value: "GUEST_VAR=PATH", Many: true, Since: "1.4.0"},
	{Name: "dns", Value: "IP", Since: "1.4.0", Check: ipv4Flag},
	{Name: "label", Value: "KEY=VALUE", Many: true, Since: "1.8.0"},
	{Name: "user", Short: "u", Value: "USER", Since: "1.14.0"},
	{Name: "max-image-size", Value: "SIZE", Since: "1.4.0"},
})

func diskFlags() (flags []cmdline.Flag) {
	for _, disk := range machine.AllDisks {
		flags = append(flags, cmdline.Flag{Name: disk.Name, Value: "GiB", Check: wholeNumber(1<<63 - 1)})
	}
	return flags
}
