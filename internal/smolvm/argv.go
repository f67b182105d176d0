// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"fmt"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
)

// The functions below build the argv of each subcommand. No argv holds a
// secret, and only a create from an artifact holds values of the environment.
// Names are passed in the --name=NAME form, so that a name cannot become another
// flag.

func (c capabilities) machineArgs(subcommand string, rest ...string) []string {
	args := []string{"machine", subcommand}
	if c.jsonErrors {
		args = append(args, "--error-format=json")
	}
	return append(args, rest...)
}

func (c capabilities) listArgs() []string { return c.machineArgs("ls", "--json") }

// statusArgs ask for one machine. On every release the answer is the object that
// is in the list, and an unknown name has no side effects, unlike without --json.
func (c capabilities) statusArgs(name string) []string {
	return c.machineArgs("status", "--json", "--name="+name)
}

// createArgs rejects what this release cannot do.
func (c capabilities) createArgs(s host.MachineSpec) ([]string, error) {
	for _, feature := range []struct {
		needed, supported bool
		name              string
	}{
		{s.Image != "", c.LocalImages, "image archives"},
		{s.Artifact != "", c.Artifacts, "artifacts that are protected against substitution"},
		{len(s.Secrets) > 0, c.SecretFiles, "values by reference"},
		// smolvm would accept them and drop them silently.
		{len(s.Secrets) > 0 && s.Artifact != "", false, "values by reference together with an artifact"},
		{s.Command != nil, c.Command, "a command at create"},
	} {
		if feature.needed && !feature.supported {
			return nil, fmt.Errorf("smolvm %s does not support %s: %w", c.Version, feature.name, host.ErrUnsupported)
		}
	}
	args := c.machineArgs("create")
	if c.nameFlag {
		args = append(args, "--name="+s.Owner.ID())
	} else {
		args = append(args, s.Owner.ID())
	}
	args = append(args, s.Size.Flags()...)
	if c.Labels {
		args = append(args, labels(s.Owner)...)
	}
	args = append(args, c.contentArgs(s)...)
	for _, f := range s.Secrets {
		args = append(args, "--secret-file="+f.Name+"="+f.Path)
	}
	for _, m := range s.Mounts {
		volume := "--volume=" + m.Source + ":" + m.Target
		if !m.Writable {
			volume += ":ro"
		}
		args = append(args, volume)
	}
	if s.Command != nil {
		args = append(append(args, "--"), s.Command...)
	}
	return args, nil
}

// contentArgs defines the machine's content and the addresses that it may
// reach: with a Smolfile or, for an artifact, with flags, because no release
// accepts both an artifact and a Smolfile.
func (c capabilities) contentArgs(s host.MachineSpec) []string {
	if s.Artifact == "" {
		args := []string{"--smolfile=" + s.Smolfile}
		if s.Image != "" {
			args = append([]string{"--image=" + s.Image}, args...)
		}
		return args
	}
	args := []string{"--from=" + s.Artifact}
	for _, kv := range s.Env {
		args = append(args, "--env="+kv)
	}
	if c.ArtifactPolicy {
		return append(args, "--allow-cidr="+s.AllowCIDR.String())
	}
	// This release would drop the list, and the network too if the artifact
	// requests none: the guest could not reach its bundle. It therefore gets the
	// whole network, which most artifacts request anyway, and the wall confines
	// it.
	return append(args, "--net")
}

// labels returns one label for each part of the owner, as on every other object
// that belongs to a Bottle.
func labels(o host.Owner) []string {
	var args []string
	for _, l := range []struct{ key, value string }{
		{v1alpha1.LabelUID, o.UID}, {v1alpha1.LabelNamespace, o.Namespace}, {v1alpha1.LabelName, o.Name},
		{v1alpha1.LabelSlug, o.Slug}, {v1alpha1.LabelCluster, o.Cluster}, {v1alpha1.LabelNode, o.Node},
	} {
		if l.value != "" {
			args = append(args, "--label="+l.key+"="+l.value)
		}
	}
	return args
}

func (c capabilities) startArgs(name string) []string { return c.machineArgs("start", "--name="+name) }
func (c capabilities) stopArgs(name string) []string  { return c.machineArgs("stop", "--name="+name) }

// deleteArgs always passes --force: without it and without a terminal, some
// releases do nothing and report success.
func (c capabilities) deleteArgs(name string) []string {
	if c.nameFlag {
		return c.machineArgs("delete", "--force", "--name="+name)
	}
	return c.machineArgs("delete", "--force", name)
}

// execArgs selects the interactive form. Only that one forwards stdin and passes
// output on immediately and without a limit.
func (c capabilities) execArgs(name string, r host.ExecRequest) []string {
	args := c.machineArgs("exec", "--name="+name, "--interactive")
	if r.TTY {
		args = append(args, "--tty")
	}
	if r.Timeout > 0 {
		args = append(args, fmt.Sprintf("--timeout=%dms", max(1, r.Timeout/time.Millisecond)))
	}
	return append(append(args, "--"), r.Command...)
}

func (c capabilities) copyArgs(name, from, to string) []string {
	args := c.machineArgs("cp")
	if c.copyMode {
		args = append(args, "--mode=755")
	}
	return append(args, from, name+":"+to)
}

func (c capabilities) denialsArgs(name string) []string {
	return c.machineArgs("egress-events", "--name="+name, "--json", fmt.Sprintf("--limit=%d", host.MaxDenials))
}
