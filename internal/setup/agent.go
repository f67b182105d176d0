// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"botbottle.dev/bottle-operator/controllers/sweep"
	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/subnet"
)

const (
	// minTokenLifetime is the API server's minimum.
	minTokenLifetime = 10 * time.Minute
	// maxTokenLifetime is the maximum that the policy bottle-agent-tokens allows.
	maxTokenLifetime = 168 * time.Hour
)

// AgentOptions configure the agent of one node.
type AgentOptions struct {
	Kubeconfig    string
	AccountDir    string
	NodeName      string
	Namespace     string
	TokenLifetime time.Duration
	StateDir      string
	Metrics       MetricsOptions
	HealthAddress string
	Access        AgentAccessOptions

	Runtime             RuntimeOptions
	DockerHost          string
	AllowedBundleImages []string
	SubnetPool          string
	SubnetPrefix        int
	SubnetExclude       []string
	ReservedNetworks    []string
	EgressClosed        []string
	EgressCeiling       []string
	EgressUpstreamCA    string

	SmolvmDir           string
	KVMDevice           string
	CgroupParent        string
	DefaultImage        string
	LocalImageDir       string
	MaxBottles          int
	MaxConcurrentStarts int
	StartTimeout        time.Duration
	MachinePollInterval time.Duration

	GuestProgram        string
	BundleProgram       string
	ProofTargets        []string
	WallCheckInterval   time.Duration
	RequireProof        bool
	RequireSmolvmPolicy bool

	Images ImageOptions

	OrphanGracePeriod time.Duration
	OrphanMode        string
}

// Bind adds the flags.
func (o *AgentOptions) Bind(fs *pflag.FlagSet) {
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig file with a tokenFile that has a token of the ServiceAccount bottle-agent, bound to the Node; leave empty in a Pod")
	fs.StringVar(&o.AccountDir, "service-account-dir", "", "directory with the token and the ca.crt of the agent's Pod, which the kubelet renews, for an agent that runs in the node's mounts; the API server is at KUBERNETES_SERVICE_HOST:KUBERNETES_SERVICE_PORT")
	fs.StringVar(&o.NodeName, "node-name", "", "name of this machine's Node (required)")
	fs.StringVar(&o.Namespace, "namespace", "", "namespace of the agent's Lease; if empty, the namespace of its ServiceAccount")
	fs.DurationVar(&o.TokenLifetime, "token-lifetime", maxTokenLifetime, "how long the tokens that the agent requests for itself are valid, 10m to 168h; it renews them after a tenth of that")
	fs.StringVar(&o.StateDir, "state-dir", "/var/lib/bottle", "directory for the Bottles' files and smolvm's data")
	o.Metrics.Bind(fs, "127.0.0.1:8080")
	fs.StringVar(&o.HealthAddress, "health-probe-bind-address", ":8081", "address for /healthz and /readyz; 0 disables them")
	o.Access.Bind(fs)

	o.Runtime.Bind(fs)
	fs.StringVar(&o.DockerHost, "docker-host", "unix:///run/docker.sock", "address of the node's Docker Engine, which is needed only for bundles that it runs")
	bindAllowedImages(fs, &o.AllowedBundleImages)
	fs.StringVar(&o.SubnetPool, "subnet-pool", "192.168.0.0/16", "network that Bottles get their subnets from")
	fs.IntVar(&o.SubnetPrefix, "subnet-prefix", 24, "prefix length of a Bottle's subnet")
	fs.StringSliceVar(&o.SubnetExclude, "subnet-exclude", []string{"192.168.17.0/24", "192.168.255.0/24"}, "networks in the pool that are not used")
	fs.StringSliceVar(&o.ReservedNetworks, "reserved-networks", nil, "CIDR[,CIDR], networks that no new Bottle's subnet may overlap because they are in use elsewhere, such as the cluster's Pod network (Calico: 192.168.0.0/16) or a company's; may be repeated; the agent finds many others itself")

	fs.StringSliceVar(&o.EgressClosed, "egress-closed", nil, "networks that no Bottle may open, such as the cluster's Pod, Service and node networks (10.244.0.0/16,10.96.0.0/12); may be repeated; the subnet pool and the node's own addresses are always closed")
	fs.StringSliceVar(&o.EgressCeiling, "egress-ceiling", nil, "rules, as in spec.egress.allow, for the most that any Bottle may open; may be repeated; if empty, there is no ceiling")

	fs.StringVar(&o.EgressUpstreamCA, "egress-upstream-ca", "", "PEM file of authorities that the default bundles accept for the hosts in spec.egress.rules, beside the public ones, such as a company's own; the agent reads it again at each pass over a Bottle")

	fs.StringVar(&o.SmolvmDir, "smolvm-dir", "/opt/smolvm", "directory that contains smolvm, lib/ and agent-rootfs/")
	fs.StringVar(&o.KVMDevice, "kvm-device", "/dev/kvm", "device that machines need; if empty, it is not checked")
	fs.StringVar(&o.CgroupParent, "cgroup-parent", cgroup.DefaultParent, "parent of the machines' cgroups; agents that share one cgroup hierarchy need different parents")
	fs.StringVar(&o.DefaultImage, "default-image", "file:guest.tar", "image of Bottles that name none: an OCI reference or file:NAME; if empty, they get a bare machine")
	fs.StringVar(&o.LocalImageDir, "local-image-dir", "/var/lib/bottle-images", "directory with the archives and OCI layouts that file:NAME refers to")
	o.Images.Bind(fs)
	fs.IntVar(&o.MaxBottles, "max-bottles", 250, "maximum number of Bottles on the node")
	fs.IntVar(&o.MaxConcurrentStarts, "max-concurrent-starts", 4, "maximum number of machines that boot at the same time")
	fs.DurationVar(&o.StartTimeout, "start-timeout", 5*time.Minute, "time limit for one start of a machine")
	fs.DurationVar(&o.MachinePollInterval, "machine-poll-interval", 5*time.Second, "interval at which the node's machines are listed")

	fs.StringVar(&o.BundleProgram, "bundle-program", "", "static bottle-bundle binary to make the default bundle's image from; if empty, the one beside this executable")
	fs.StringVar(&o.GuestProgram, "guest-program", "", "static bottle-guest binary to copy into guests; if empty, the one beside this executable")
	fs.StringArrayVar(&o.ProofTargets, "proof-target", []string{"1.1.1.1:443", "8.8.8.8:53", "[2606:4700:4700::1111]:443"}, "IP:PORT on the internet that every proof tries to reach and no guest may reach; may be repeated")
	fs.DurationVar(&o.WallCheckInterval, "wall-check-interval", time.Second, "interval at which all walls and machines are checked")
	fs.BoolVar(&o.RequireProof, "require-proof", true, "keep a Bottle not Ready if no proof of it is possible")
	fs.BoolVar(&o.RequireSmolvmPolicy, "require-smolvm-policy", false, "start a machine only if smolvm lists the bundle's address as the only allowed one")

	fs.DurationVar(&o.OrphanGracePeriod, "orphan-grace-period", 10*time.Minute, "how long an object must have belonged to no Bottle before it is removed")
	fs.StringVar(&o.OrphanMode, "orphan-mode", string(sweep.Remove), "what to do with orphans: remove, or report (a dry run)")
}

// Validate returns an error that names every invalid flag.
func (o *AgentOptions) Validate() error {
	var errs []error
	bad := func(flag string, value any, want string) {
		errs = append(errs, fmt.Errorf("--%s %q: want %s", flag, fmt.Sprint(value), want))
	}
	if o.NodeName == "" {
		errs = append(errs, errors.New("--node-name: required"))
	}
	if o.AccountDir != "" && (!filepath.IsAbs(o.AccountDir) || o.Kubeconfig != "") {
		bad("service-account-dir", o.AccountDir, "an absolute path, and no --kubeconfig")
	}
	if o.TokenLifetime < minTokenLifetime || o.TokenLifetime > maxTokenLifetime {
		bad("token-lifetime", o.TokenLifetime, "10m to 168h")
	}
	for flag, value := range map[string]string{"state-dir": o.StateDir, "smolvm-dir": o.SmolvmDir, "local-image-dir": o.LocalImageDir} {
		if !filepath.IsAbs(value) {
			bad(flag, value, "an absolute path")
		}
	}
	if o.KVMDevice != "" && !filepath.IsAbs(o.KVMDevice) {
		bad("kvm-device", o.KVMDevice, "an absolute path or empty")
	}
	if !cgroup.ValidParent(o.CgroupParent) {
		bad("cgroup-parent", o.CgroupParent, "a relative path of ordinary names, such as "+cgroup.DefaultParent)
	}
	if name, ok := strings.CutPrefix(o.DefaultImage, "file:"); ok && (name == "" || strings.ContainsAny(name, "/") || strings.HasPrefix(name, ".")) {
		bad("default-image", o.DefaultImage, "an OCI reference, file:NAME (an archive in --local-image-dir) or empty")
	}
	errs = append(errs, o.Runtime.Validate(), o.Images.Validate(), o.Metrics.Validate(), o.Access.Validate(), validateAllowedImages(o.AllowedBundleImages))
	if o.MaxBottles < 0 || o.MaxBottles > 10000 {
		bad("max-bottles", o.MaxBottles, "0 to 10000")
	}
	if o.MaxConcurrentStarts < 1 || o.MaxConcurrentStarts > 1000 {
		bad("max-concurrent-starts", o.MaxConcurrentStarts, "1 to 1000")
	}
	for flag, d := range map[string]time.Duration{"start-timeout": o.StartTimeout, "machine-poll-interval": o.MachinePollInterval, "orphan-grace-period": o.OrphanGracePeriod} {
		if d < time.Second {
			bad(flag, d, "at least 1s")
		}
	}
	if o.WallCheckInterval < 100*time.Millisecond || o.WallCheckInterval > time.Minute {
		bad("wall-check-interval", o.WallCheckInterval, "100ms to 1m")
	}
	if o.BundleProgram != "" && !filepath.IsAbs(o.BundleProgram) {
		bad("bundle-program", o.BundleProgram, "an absolute path or empty")
	}
	if o.EgressUpstreamCA != "" && !filepath.IsAbs(o.EgressUpstreamCA) {
		bad("egress-upstream-ca", o.EgressUpstreamCA, "an absolute path or empty")
	}
	if o.GuestProgram != "" && !filepath.IsAbs(o.GuestProgram) {
		bad("guest-program", o.GuestProgram, "an absolute path or empty")
	}
	if _, err := o.proofTargets(); err != nil {
		errs = append(errs, err)
	}
	if o.OrphanMode != string(sweep.Remove) && o.OrphanMode != string(sweep.Report) {
		bad("orphan-mode", o.OrphanMode, "remove or report")
	}
	if _, err := o.pool(); err != nil {
		errs = append(errs, fmt.Errorf("--subnet-pool, --subnet-prefix, --subnet-exclude: %w", err))
	}
	_, closedErr := o.egressClosed()
	_, ceilingErr := o.egressCeiling()
	_, reservedErr := o.reservedNetworks()
	return errors.Join(append(errs, closedErr, ceilingErr, reservedErr)...)
}

func (o *AgentOptions) proofTargets() ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, text := range o.ProofTargets {
		t, err := netip.ParseAddrPort(text)
		if a := t.Addr(); err != nil || t.Port() == 0 || a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
			return nil, fmt.Errorf("--proof-target %q: want IP:PORT, such as 192.0.2.1:443 or [2001:db8::1]:443", text)
		}
		out = append(out, t)
	}
	return out, nil
}

// guestProgram returns the path of bottle-guest.
func (o *AgentOptions) guestProgram() (string, error) {
	return programPath("guest-program", o.GuestProgram, "bottle-guest")
}

// programPath returns the value of a flag that names a program. If it is empty, the
// program is the one of this name beside our own executable.
func programPath(flag, value, name string) (string, error) {
	if value != "" {
		return value, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("--%s: %w", flag, err)
	}
	return filepath.Join(filepath.Dir(self), name), nil
}

func (o *AgentOptions) pool() (*subnet.Pool, error) {
	return subnet.Parse(o.SubnetPool, o.SubnetPrefix, o.SubnetExclude)
}
