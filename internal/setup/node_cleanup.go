// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"botbottle.dev/bottle-operator/controllers/node"
	"botbottle.dev/bottle-operator/internal/bundleimage"
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/docker"
	"botbottle.dev/bottle-operator/internal/exchange"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/inventory"
	"botbottle.dev/bottle-operator/internal/nodecleanup"
	"botbottle.dev/bottle-operator/internal/smolvm"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/vault"
	"botbottle.dev/bottle-operator/internal/wall"
)

// NodeCleanupOptions configure the removal of everything from a node.
type NodeCleanupOptions struct {
	Kubeconfig   string
	NodeName     string
	StateDir     string
	SmolvmDir    string
	DockerHost   string
	CgroupParent string
	Cluster      string
	// ProgramsDir is the folder below which bottle-install made its folders.
	ProgramsDir string
	Yes         bool
	DryRun      bool
	Out         io.Writer
}

// Bind adds the flags.
func (o *NodeCleanupOptions) Bind(fs *pflag.FlagSet) {
	fs.BoolVar(&o.Yes, "yes", false, "remove everything; the disks of the Bottles are lost")
	fs.BoolVar(&o.DryRun, "dry-run", false, "only list what would be removed")
	fs.StringVar(&o.StateDir, "state-dir", "/var/lib/bottle", "the agent's --state-dir")
	fs.StringVar(&o.SmolvmDir, "smolvm-dir", "", "the agent's --smolvm-dir; if empty, /opt/smolvm/current, or else /opt/smolvm")
	fs.StringVar(&o.DockerHost, "docker-host", "unix:///run/docker.sock", "address of the node's Docker Engine; if empty, or if its socket does not exist and no Bottle has its bundle there, nothing is removed from it")
	fs.StringVar(&o.CgroupParent, "cgroup-parent", cgroup.DefaultParent, "the agent's --cgroup-parent")
	fs.StringVar(&o.Cluster, "cluster", "", "UID of the namespace kube-system of the cluster whose Bottles are removed; if empty, the one that the state directory records")
	fs.StringVar(&o.ProgramsDir, "programs-dir", "/opt", "directory in which the DaemonSet installed the programs")
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig file of an administrator; if set, the label and the resource of Bottles are removed from the Node, too")
	fs.StringVar(&o.NodeName, "node-name", "", "name of this machine's Node; required with --kubeconfig")
}

// Validate returns an error that names every invalid flag.
func (o *NodeCleanupOptions) Validate() error {
	var errs []error
	for flag, value := range map[string]string{"state-dir": o.StateDir, "smolvm-dir": cmp.Or(o.SmolvmDir, "/"), "programs-dir": o.ProgramsDir} {
		if !filepath.IsAbs(value) || flag == "state-dir" && filepath.Clean(value) == "/" {
			errs = append(errs, fmt.Errorf("--%s %q: want an absolute path", flag, value))
		}
	}
	if !cgroup.ValidParent(o.CgroupParent) {
		errs = append(errs, fmt.Errorf("--cgroup-parent %q: want a relative path of ordinary names, such as %s", o.CgroupParent, cgroup.DefaultParent))
	}
	if (o.Kubeconfig == "") != (o.NodeName == "") {
		errs = append(errs, errors.New("--kubeconfig and --node-name: set both or neither"))
	}
	if o.Yes == o.DryRun {
		errs = append(errs, errors.New("set --dry-run to list what is on this node, or --yes to remove it"))
	}
	return errors.Join(errs...)
}

// Run removes everything, or lists it.
func (o *NodeCleanupOptions) Run(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("this command runs as root")
	}
	if o.SmolvmDir == "" {
		o.SmolvmDir = "/opt/smolvm"
		if _, err := os.Stat("/opt/smolvm/current"); err == nil {
			o.SmolvmDir = "/opt/smolvm/current"
		}
	}
	steps, err := o.plan(ctx)
	if err != nil {
		return err
	}
	if len(steps) == 0 {
		_, err := fmt.Fprintln(o.Out, "there is nothing to remove")
		return err
	}
	if o.DryRun {
		return nodecleanup.List(o.Out, steps)
	}
	return nodecleanup.Remove(ctx, o.Out, steps)
}

// plan returns what to remove, in order. It locks the state directory until the process
// ends, so that no agent starts meanwhile.
func (o *NodeCleanupOptions) plan(ctx context.Context) ([]nodecleanup.Step, error) {
	var engine *docker.Engine
	if uses, err := o.usesDocker(); err != nil {
		return nil, err
	} else if uses {
		var err error
		if engine, err = docker.New(docker.Options{Host: o.DockerHost}); err != nil {
			return nil, fmt.Errorf("--docker-host: %w", err)
		}
		if err := engine.Ping(ctx); err != nil {
			return nil, fmt.Errorf("%w; start the Docker Engine, or set --docker-host= if this node has none any more", err)
		}
	}
	bottles, err := o.bottles(ctx, engine)
	if err != nil {
		return nil, err
	}
	plans := []func() ([]nodecleanup.Step, error){
		func() ([]nodecleanup.Step, error) { return o.cgroups() },
		func() ([]nodecleanup.Step, error) { return bundleImages(ctx, engine) },
		func() ([]nodecleanup.Step, error) { return nodecleanup.Folder(o.StateDir) },
		func() ([]nodecleanup.Step, error) { return nodecleanup.Programs(o.ProgramsDir, "smolvm") },
		func() ([]nodecleanup.Step, error) { return nodecleanup.Programs(o.ProgramsDir, "bottle-operator") },
		o.ofNode,
	}
	steps := bottles
	for _, plan := range plans {
		more, err := plan()
		if err != nil {
			return nil, err
		}
		steps = slices.Concat(steps, more)
	}
	return steps, nil
}

// usesDocker reports whether anything may be left in the node's Docker Engine. Without its
// socket, only a Bottle that has its bundle there says so.
func (o *NodeCleanupOptions) usesDocker() (bool, error) {
	path, isFile := strings.CutPrefix(o.DockerHost, "unix://")
	if o.DockerHost == "" {
		return false, nil
	}
	if _, err := os.Stat(path); !isFile || !errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if _, err := os.Lstat(o.StateDir); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	dir, err := state.Open(o.StateDir)
	if err != nil {
		return false, fmt.Errorf("--state-dir: %w", err)
	}
	choices, err := bundleruntime.NewChoices(dir, nil)
	return err == nil && choices.Uses(bundleruntime.Docker), err
}

// bottles returns the steps that remove the Bottles, and what is left of earlier ones.
func (o *NodeCleanupOptions) bottles(ctx context.Context, engine *docker.Engine) ([]nodecleanup.Step, error) {
	if _, err := os.Lstat(o.StateDir); errors.Is(err, os.ErrNotExist) && o.Cluster == "" {
		return nil, nil // no agent ever ran here
	}
	dir, err := state.Open(o.StateDir)
	if err != nil {
		return nil, fmt.Errorf("--state-dir: %w", err)
	}
	if err := dir.Lock(); errors.Is(err, state.ErrInUse) {
		return nil, errors.New("an agent runs on this node: first remove the DaemonSet bottle-agent or this node from it, or stop the unit bottle-agent")
	} else if err != nil {
		return nil, err
	}
	recorded, err := dir.Cluster()
	if err != nil {
		return nil, err
	}
	machines := smolvm.New(smolvm.Options{Dir: o.SmolvmDir, Home: dir.SmolvmHome(), Cgroups: o.CgroupParent})
	walls := wall.New(wall.Options{})
	exchanges := exchange.New(exchange.Options{InDir: dir.InDir(), ProgramDir: dir.GuestDir(), OutDir: dir.OutDir()})
	secrets := vault.New(vault.Options{Dir: dir.VaultDir(), Reader: bundleimage.UserID})
	inDocker := optionalEngine{engine}
	removal := nodecleanup.Removal{
		Inventory: inventory.Sources{Networks: inDocker, Bundles: inDocker, Walls: walls, Folders: dir}, Cluster: cmp.Or(o.Cluster, recorded),
		Machines: machines, Walls: walls, Bundles: inDocker, Networks: inDocker, Exchanges: exchanges, Vault: secrets,
	}
	owners, err := removal.Owners(ctx)
	if err != nil {
		return nil, err
	}
	var steps []nodecleanup.Step
	for _, owner := range owners {
		steps = append(steps, nodecleanup.Step{
			What: fmt.Sprintf("Bottle %s/%s (%s): machine, wall, bundle and network", owner.Namespace, owner.Name, owner.ID()), Needed: true,
			Do: func(ctx context.Context) error { return removal.Remove(ctx, owner) },
		})
	}
	return append(steps,
		nodecleanup.Step{What: "what guests and bundles shared with the agent", Needed: true, Do: func(ctx context.Context) error {
			return errors.Join(exchanges.Sweep(ctx, nil), secrets.Sweep(ctx, nil))
		}}), nil
}

// cgroups returns the steps that kill what is still in a machine's cgroup, and remove the
// cgroups.
func (o *NodeCleanupOptions) cgroups() ([]nodecleanup.Step, error) {
	groups, err := cgroup.Open(o.CgroupParent)
	if errors.Is(err, cgroup.ErrNoHierarchy) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ids, err := groups.List()
	if err != nil || len(ids) == 0 && !groups.Exists() {
		return nil, err
	}
	return []nodecleanup.Step{{What: "the machines' cgroups in " + o.CgroupParent + " and in Pods", Needed: true, Do: func(ctx context.Context) error {
		for _, id := range ids {
			if err := groups.Kill(ctx, id); err != nil {
				return err
			}
		}
		return groups.RemoveParent()
	}}}, nil
}

func bundleImages(ctx context.Context, engine *docker.Engine) ([]nodecleanup.Step, error) {
	if engine == nil {
		return nil, nil
	}
	references, err := engine.BundleImages(ctx)
	var steps []nodecleanup.Step
	for _, r := range references {
		steps = append(steps, nodecleanup.Step{What: "the image " + r, Do: func(ctx context.Context) error { return engine.DeleteImage(ctx, r) }})
	}
	return steps, err
}

// ofNode returns the step that removes what the agent published on its Node.
func (o *NodeCleanupOptions) ofNode() ([]nodecleanup.Step, error) {
	if o.Kubeconfig == "" {
		return nil, nil
	}
	c, err := directClient(o.Kubeconfig, "bottle-node-cleanup")
	if err != nil {
		return nil, err
	}
	return []nodecleanup.Step{{What: "the label and the resource of Bottles from Node " + o.NodeName, Do: func(ctx context.Context) error {
		return node.Withdraw(ctx, c, o.NodeName)
	}}}, nil
}

// optionalEngine is a Docker Engine that may be absent. Without one, Bottles have nothing in it.
type optionalEngine struct{ engine *docker.Engine }

func (o optionalEngine) ListNetworks(ctx context.Context) ([]host.Network, error) {
	if o.engine == nil {
		return nil, nil
	}
	return o.engine.ListNetworks(ctx)
}

func (o optionalEngine) ListBundles(ctx context.Context) ([]host.Bundle, error) {
	if o.engine == nil {
		return nil, nil
	}
	return o.engine.ListBundles(ctx)
}

func (o optionalEngine) DeleteBundle(ctx context.Context, owner host.Owner) error {
	if o.engine == nil {
		return nil
	}
	return o.engine.DeleteBundle(ctx, owner)
}

func (o optionalEngine) DeleteNetwork(ctx context.Context, owner host.Owner) error {
	if o.engine == nil {
		return nil
	}
	return o.engine.DeleteNetwork(ctx, owner)
}
