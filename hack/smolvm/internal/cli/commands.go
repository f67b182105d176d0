// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"slices"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/cmdline"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/release"
)

// group is a set of commands with a common first word, like "machine".
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
	usage       string // the text after the command's name in Usage
	writes      bool   // changes the database
	run         func(*app, *cmdline.Args) error
}

// naming says how a command takes the name of its machine.
type naming int

const (
	noName       naming = iota
	nameFlag            // [-n|--name NAME] in every release
	nameLongFlag        // [--name NAME], no short form
	nameRequired        // NAME in 0.8.0, --name NAME (required) later
	nameOptional        // [NAME] in 0.8.0, [--name NAME] later
)

// namesAreFlags is the first release that does not take names as positionals.
const namesAreFlags = "1.0.2"

func (g *group) find(rel release.Release, name string) *command {
	for i := range g.commands {
		c := &g.commands[i]
		if (c.name == name || c.alias == name && name != "") && rel.AtLeast(c.since) {
			return c
		}
	}
	return nil
}

// spec returns the command's grammar in the given release.
func (c *command) spec(group string, rel release.Release) *cmdline.Command {
	s := &cmdline.Command{
		Usage: "smolvm " + group + " " + c.name + " " + c.usage,
		Flags: append([]cmdline.Flag{}, c.flags...), Positional: c.positional, Trailing: c.trailing,
	}
	if c.naming == nameOptional && !rel.AtLeast(namesAreFlags) {
		s.Trailing = cmdline.NoTrailing
	}
	name := cmdline.Flag{Name: "name", Short: "n", Value: "NAME"}
	if rel.AtLeast("1.22.0") {
		name.Env = "SMOLVM_MACHINE_NAME"
	}
	positional := c.naming == nameRequired || c.naming == nameOptional
	switch {
	case c.naming == noName:
	case positional && !rel.AtLeast(namesAreFlags):
		s.Positional, s.Usage = []string{"NAME"}, "smolvm machine "+c.name+" [OPTIONS] <NAME>"
		if c.naming == nameOptional {
			s.Optional, s.Usage = 1, "smolvm machine "+c.name+" [OPTIONS] [NAME]"
		}
	case c.naming == nameLongFlag:
		name.Short = ""
		s.Flags = append(s.Flags, name)
	default:
		name.Required = c.naming == nameRequired
		s.Flags = append(s.Flags, name)
	}
	return s
}

var asJSON = cmdline.Flag{Name: "json"}

var machineCommands = []command{
	{name: "create", naming: nameOptional, flags: createFlags, trailing: cmdline.AfterDashes, usage: "[OPTIONS] [-- <COMMAND>...]", writes: true, run: (*app).create},
	{name: "start", naming: nameFlag, usage: "[OPTIONS]", writes: true, run: (*app).start, flags: []cmdline.Flag{
		{Name: "proxy", Value: "URL", Since: "0.9.0"}, {Name: "no-proxy", Value: "LIST", Since: "0.9.0"},
		{Name: "egress-interceptor", Value: "ADDR", Since: "1.22.0"}, {Name: "mediated-egress", Since: "1.26.1"},
	}},
	{name: "stop", naming: nameFlag, usage: "[OPTIONS]", writes: true, run: (*app).stop, flags: []cmdline.Flag{
		{Name: "timeout", Short: "t", Value: "SECONDS", Since: "1.29.0", Check: checkStopTimeout},
	}},
	{name: "delete", alias: "rm", naming: nameRequired, usage: "[OPTIONS] --name <NAME>", writes: true, run: (*app).delete, flags: []cmdline.Flag{
		{Name: "force", Short: "f"}, {Name: "cascade", Since: "1.7.0"},
	}},
	{name: "status", naming: nameFlag, usage: "[OPTIONS]", run: (*app).status, flags: []cmdline.Flag{asJSON}},
	{name: "ls", alias: "list", usage: "[OPTIONS]", run: (*app).list, flags: []cmdline.Flag{
		asJSON, {Name: "verbose", Short: "v"}, {Name: "quiet", Short: "q", Since: "1.18.0"},
	}},
	{name: "exec", naming: nameLongFlag, usage: "[OPTIONS] <COMMAND>...", trailing: cmdline.FromFirstWord, run: (*app).exec, flags: []cmdline.Flag{
		{Name: "workdir", Short: "w", Value: "DIR"}, {Name: "env", Short: "e", Value: "KEY=VALUE", Repeatable: true},
		{Name: "user", Short: "u", Value: "USER", Since: "1.14.0"}, {Name: "timeout", Value: "DURATION", Check: checkDuration},
		{Name: "interactive", Short: "i"}, {Name: "tty", Short: "t"}, {Name: "stream"},
		{Name: "secret-env", Value: "GUEST_VAR=HOST_VAR", Repeatable: true, Since: "1.4.0"},
		{Name: "secret-file", Value: "GUEST_VAR=PATH", Repeatable: true, Since: "1.4.0"},
		{Name: "detach", Short: "d", Since: "1.4.0"},
	}},
	{name: "cp", usage: "[OPTIONS] <SRC> <DST>", positional: []string{"SRC", "DST"}, run: (*app).copy, flags: []cmdline.Flag{
		{Name: "mode", Value: "OCTAL", Since: "1.9.0"},
		{Name: "uid", Value: "UID", Since: "1.9.0", Check: checkWholeNumber(1<<32 - 1)}, {Name: "gid", Value: "GID", Since: "1.9.0", Check: checkWholeNumber(1<<32 - 1)},
	}},
	{name: "logs", naming: nameFlag, since: "1.29.0", usage: "[OPTIONS]", run: (*app).logs, flags: []cmdline.Flag{
		{Name: "follow", Short: "f"}, {Name: "tail", Value: "N", Check: checkWholeNumber(1 << 32)},
	}},
	{name: "egress-events", naming: nameFlag, since: "1.8.1", usage: "[OPTIONS]", run: (*app).egressEvents, flags: []cmdline.Flag{
		asJSON, {Name: "limit", Value: "LIMIT", Check: checkWholeNumber(1 << 32)},
	}},
	{name: "data-dir", naming: nameRequired, usage: "[OPTIONS] --name <NAME>", run: (*app).dataDir},
	{name: "update", naming: nameRequired, usage: "[OPTIONS] --name <NAME>", writes: true, run: (*app).update, flags: []cmdline.Flag{
		{Name: "net"}, {Name: "no-net", Excludes: []string{"net"}},
		{Name: "cpus", Value: "N", Check: checkWholeNumber(255)}, {Name: "mem", Value: "MiB", Check: checkWholeNumber(1<<32 - 1)},
	}},
}

var packCommands = []command{
	{name: "create", usage: "[OPTIONS] --output <PATH>", run: (*app).packCreate, flags: []cmdline.Flag{
		{Name: "image", Short: "I", Value: "IMAGE"}, {Name: "from-vm", Value: "VM_NAME", Excludes: []string{"image"}},
		{Name: "output", Short: "o", Value: "PATH", Required: true},
		{Name: "cpus", Value: "N", Check: checkWholeNumber(255)}, {Name: "mem", Value: "MiB", Check: checkWholeNumber(1<<32 - 1)},
	}},
}

// createFlags holds the flags that the stand-in uses or stores. It has none of
// smolvm's flags that change the virtual machine's devices: they are rejected as
// unknown.
var createFlags = slices.Concat([]cmdline.Flag{
	{Name: "image", Short: "I", Value: "IMAGE", Check: checkImageReference},
	{Name: "cpus", Value: "N", Check: checkWholeNumber(255)},
	{Name: "mem", Value: "MiB", Check: checkWholeNumber(1<<32 - 1)},
}, diskFlags(), []cmdline.Flag{
	{Name: "volume", Short: "v", Value: "HOST:GUEST", Repeatable: true},
	{Name: "port", Short: "p", Value: "HOST:GUEST", Repeatable: true, Check: checkPort},
	{Name: "net"},
	{Name: "net-backend", Value: "NET_BACKEND", Check: cmdline.OneOf("tsi", "virtio-net")},
	{Name: "allow-cidr", Value: "CIDR", Repeatable: true, Check: checkCIDR},
	{Name: "outbound-localhost-only"},
	{Name: "init", Value: "COMMAND", Repeatable: true},
	{Name: "env", Short: "e", Value: "KEY=VALUE", Repeatable: true},
	{Name: "workdir", Short: "w", Value: "DIR"},
	{Name: "smolfile", Short: "s", Value: "PATH"},
	{Name: "from", Value: "PATH", Excludes: []string{"image", "smolfile"}},
	{Name: "secret-env", Value: "GUEST_VAR=HOST_VAR", Repeatable: true, Since: "1.4.0"},
	{Name: "secret-file", Value: "GUEST_VAR=PATH", Repeatable: true, Since: "1.4.0"},
	{Name: "dns", Value: "IP", Since: "1.4.0", Check: checkIPv4},
	{Name: "label", Value: "KEY=VALUE", Repeatable: true, Since: "1.8.0"},
	{Name: "user", Short: "u", Value: "USER", Since: "1.14.0"},
	{Name: "max-image-size", Value: "SIZE", Since: "1.4.0"},
})

func diskFlags() (flags []cmdline.Flag) {
	for _, disk := range machine.AllDisks {
		flags = append(flags, cmdline.Flag{Name: disk.Name, Value: "GiB", Check: checkWholeNumber(1<<63 - 1)})
	}
	return flags
}
