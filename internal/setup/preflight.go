// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/internal/boottrial"
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/criruntime"
	"botbottle.dev/bottle-operator/internal/docker"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/nodefacts"
	"botbottle.dev/bottle-operator/internal/preflight"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/wall"
)

// PreflightOptions configure the check of a node. The flags are the agent's, so that the
// node is checked for the agent that will run on it.
type PreflightOptions struct {
	AgentOptions
	// HostRoot is where the node's root directory is mounted, in a container.
	HostRoot string
	// GuardFirst: a failure does not count while Bottles are on the node, because their
	// machines need an agent that guards them, and only it can delete them.
	GuardFirst bool
	// Boot: boot a microVM.
	Boot   bool
	Format string
	Out    io.Writer
}

// Bind adds the flags.
func (o *PreflightOptions) Bind(fs *pflag.FlagSet) {
	o.AgentOptions.Bind(fs)
	fs.StringVar(&o.HostRoot, "host-root", "", "directory at which the node's root directory is mounted, with everything below it; for a container. smolvm and the programs, which later containers install, need not be there")
	fs.BoolVar(&o.GuardFirst, "unless-in-use", false, "succeed in spite of failures if machines run or Bottles are on the node, so that the agent starts, guards the machines, and can delete the Bottles")
	fs.BoolVar(&o.Boot, "boot", false, "boot a small microVM, which proves that KVM works, and record the result for the agent; it takes up to a few minutes")
	fs.StringVarP(&o.Format, "output", "o", "text", "format of the report: text or json")
}

// Validate returns an error that names every invalid flag.
func (o *PreflightOptions) Validate() error {
	agent := o.AgentOptions
	if agent.NodeName == "" {
		agent.NodeName = "unknown" // then only the node is checked
	}
	errs := []error{agent.Validate()}
	if o.HostRoot != "" && !filepath.IsAbs(o.HostRoot) {
		errs = append(errs, fmt.Errorf("--host-root %q: want an absolute path or empty", o.HostRoot))
	}
	if !slices.Contains(preflight.Formats, o.Format) {
		errs = append(errs, fmt.Errorf("--output %q: want text or json", o.Format))
	}
	return errors.Join(errs...)
}

// Run checks the node, writes a report, and returns an error if no Bottle can run there.
func (o *PreflightOptions) Run(ctx context.Context) error {
	// The credentials of a container are not below the node's root.
	cluster, err := o.preflightCluster()
	if err != nil {
		return err
	}
	if err := enterRoot(o.HostRoot); err != nil {
		return fmt.Errorf("--host-root: %w", err)
	}
	runtime, usesDocker, err := o.containerRuntime()
	if err != nil {
		return err
	}
	defer func() { _ = runtime.Close() }()
	facts, err := o.preflightFacts(runtime, usesDocker)
	if err != nil {
		return err
	}
	checks := append([]preflight.Check{
		preflight.Filter(func() error { return tryKernel(ctx, usesDocker) }),
		preflight.Disk(o.StateDir, o.Images.Reserve, unix.Statfs),
		preflight.Network(preflight.NetworkNode{ProcSys: "/proc/sys", ForwardDrops: preflight.ForwardDrops, UsesDocker: usesDocker}),
		preflight.Ports([]preflight.Port{
			{Flag: "access-bind-address", Address: o.Access.Address},
			{Flag: "health-probe-bind-address", Address: o.HealthAddress},
			{Flag: "metrics-bind-address", Address: o.Metrics.Address},
		}, func() bool { return preflight.AgentRuns(o.StateDir) }),
	}, cluster...)
	results := preflight.OfFacts(o.relevant(facts.NodeFacts(ctx)))
	if o.KVMDevice != "" {
		results = append(results, o.bootResult(ctx, results))
	}
	results = append(results, preflight.Run(ctx, checks)...)
	report := preflight.NewReport(Version(), o.NodeName, results)
	if err := report.Write(o.Out, o.Format); err != nil {
		return err
	}
	failed := report.Err()
	if failed == nil || !o.GuardFirst {
		return failed
	}
	needed, err := o.agentNeeded()
	if err != nil || !needed {
		return errors.Join(failed, err)
	}
	ctrl.Log.Error(failed, "Bottles are on this node, so the agent starts in spite of the failures, guards their machines, and can delete them")
	return nil
}

// agentNeeded reports whether a machine runs or a Bottle has a folder. On a disk that is
// full, for example, only the agent frees space.
func (o *PreflightOptions) agentNeeded() (bool, error) {
	if has, err := state.HasBottles(o.StateDir); err == nil && has {
		return true, nil
	}
	return cgroup.Running(o.CgroupParent, boottrial.Name)
}

// bootResult returns whether this node boots microVMs, as far as that is known.
func (o *PreflightOptions) bootResult(ctx context.Context, facts []preflight.Result) preflight.Result {
	r := preflight.OfTrial(nodefacts.BootName, o.bootTrial(), o.tryBoot(ctx, facts))
	if o.HostRoot != "" && r.Outcome == preflight.Warning {
		r.Outcome, r.Message = preflight.OK, "not tried yet: the agent boots a microVM when it starts"
	}
	return r
}

// tryBoot boots a microVM if that is wanted and the node has what a machine needs.
func (o *PreflightOptions) tryBoot(ctx context.Context, facts []preflight.Result) error {
	if !o.Boot {
		return nil
	}
	for _, f := range facts {
		if f.Outcome == preflight.Failure && nodefacts.ForMachines(f.Name) {
			return fmt.Errorf("%s has failed, so it was not tried", f.Name)
		}
	}
	return o.bootTrial().Run(ctx)
}

// preflightCluster returns the checks of the cluster.
func (o *PreflightOptions) preflightCluster() ([]preflight.Check, error) {
	if o.NodeName == "" || o.Kubeconfig == "" && os.Getenv("KUBERNETES_SERVICE_HOST") == "" {
		return []preflight.Check{preflight.NoCluster()}, nil
	}
	cfg, err := o.restConfig("bottle-preflight")
	if err != nil {
		return nil, err
	}
	if err := rest.LoadTLSFiles(cfg); err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	if cfg.BearerTokenFile != "" {
		token, err := os.ReadFile(cfg.BearerTokenFile)
		if err != nil {
			return nil, fmt.Errorf("credentials: %w", err)
		}
		cfg.BearerToken, cfg.BearerTokenFile = string(token), ""
	}
	c, err := newPreflightCluster(cfg, &o.AgentOptions)
	if err != nil {
		return nil, err
	}
	return preflight.OfCluster(c), nil
}

// containerRuntime returns the client of the kubelet's container runtime, which the caller
// closes, and a function that reports whether new bundles are containers of the Docker
// Engine instead.
func (o *PreflightOptions) containerRuntime() (*criruntime.Runtime, func(context.Context) bool, error) {
	runtime, err := criruntime.New(criruntime.Options{Sockets: o.Runtime.sockets(), KubeletDir: o.Runtime.KubeletDir, Node: o.NodeName})
	if err != nil {
		return nil, nil, fmt.Errorf("--cri-socket: %w", err)
	}
	node := o.nodeRuntime(func() *criruntime.Runtime { return runtime })
	usesDocker := func(ctx context.Context) bool {
		kind, err := node.Runtime(ctx)
		return err == nil && kind == bundleruntime.Docker
	}
	return runtime, usesDocker, nil
}

// tryKernel makes the kind of wall that new Bottles get, and removes it.
func tryKernel(ctx context.Context, usesDocker func(context.Context) bool) error {
	if usesDocker(ctx) {
		return wall.TryKernel()
	}
	return wall.TryPodKernel()
}

// preflightFacts returns the agent's own facts about the node.
func (o *PreflightOptions) preflightFacts(runtime *criruntime.Runtime, usesDocker func(context.Context) bool) (host.Facts, error) {
	engine, err := docker.New(docker.Options{Host: o.DockerHost})
	if err != nil {
		return nil, fmt.Errorf("--docker-host: %w", err)
	}
	guestProgram, err := o.guestProgram()
	if err != nil {
		return nil, err
	}
	options := o.factOptions(engine, guestProgram)
	options.PingRuntime, options.RuntimeSocket, options.NeedsDocker = runtime.Ping, runtime.Socket, usesDocker
	options.NeedsRuntime = func(ctx context.Context) bool { return !usesDocker(ctx) }
	return nodefacts.New(options), nil
}

// relevant returns the facts that count. In a container that runs before those that
// install smolvm and the programs, nothing is said about what they install.
func (o *PreflightOptions) relevant(facts []host.Fact) []host.Fact {
	if o.HostRoot == "" {
		return facts
	}
	return slices.DeleteFunc(facts, func(f host.Fact) bool {
		return nodefacts.IsGuestProgram(f.Name) || nodefacts.IsSmolvm(f.Name) && absent(o.SmolvmDir)
	})
}

func absent(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// enterRoot makes a directory the root of this process; "" means the root that it has.
func enterRoot(dir string) error {
	if dir == "" {
		return nil
	}
	if err := unix.Chroot(dir); err != nil {
		return fmt.Errorf("enter %s: %w", dir, err)
	}
	return os.Chdir("/")
}
