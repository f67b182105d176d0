// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"

	"botbottle.dev/bottle-operator/controllers/placement"
	"botbottle.dev/bottle-operator/controllers/uninstall"
	"botbottle.dev/bottle-operator/internal/accesscert"
)

// ManagerOptions configure the manager.
type ManagerOptions struct {
	Kubeconfig    string
	Namespace     string
	LeaderElect   bool
	Metrics       MetricsOptions
	HealthAddress string
	Access        AccessOptions

	DefaultCPUs    int32
	DefaultMemory  string
	DefaultDisk    string
	OverheadCPU    string
	OverheadMemory string
	BundleCPU      string
	BundleMemory   string
	Bundle         BundleOptions
}

// Bind adds the flags.
func (o *ManagerOptions) Bind(fs *pflag.FlagSet) {
	d := placement.DefaultOptions()
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig file; leave empty in a Pod")
	fs.StringVar(&o.Namespace, "namespace", "", "namespace of the leader election Lease and the agents' Leases; if empty, the Pod's own (required outside a Pod)")
	fs.BoolVar(&o.LeaderElect, "leader-elect", false, "be active only while holding the leader election Lease")
	o.Metrics.Bind(fs, ":8443")
	fs.StringVar(&o.HealthAddress, "health-probe-bind-address", ":8081", "address for /healthz and /readyz; 0 disables them")
	o.Access.Bind(fs)
	fs.Int32Var(&o.DefaultCPUs, "default-cpus", d.DefaultCPUs, "virtual CPUs of a Bottle that does not set spec.machine.cpus, 1 to 16")
	fs.StringVar(&o.DefaultMemory, "default-memory", d.DefaultMemory.String(), "memory of a Bottle that does not set spec.machine.memory, at least 64Mi")
	fs.StringVar(&o.DefaultDisk, "default-disk", d.DefaultDisk.String(), "disk space booked, as ephemeral-storage, for a Bottle that sets neither spec.machine.storage nor spec.machine.overlay; 0 books none")
	fs.StringVar(&o.OverheadCPU, "overhead-cpu", d.OverheadCPU.String(), "CPU booked for each Bottle in addition to its machine's and its bundle's, for its VMM")
	fs.StringVar(&o.OverheadMemory, "overhead-memory", d.OverheadMemory.String(), "memory booked for each Bottle in addition to its machine's and its bundle's, for its VMM")
	fs.StringVar(&o.BundleCPU, "bundle-cpu", d.BundleCPU.String(), fmt.Sprintf("CPU limit of each Bottle's bundle, at least %dm; it is also booked", placement.MinBundleCPUMillis))
	fs.StringVar(&o.BundleMemory, "bundle-memory", d.BundleMemory.String(), fmt.Sprintf("memory limit of each Bottle's bundle, at least %dMi; it is also booked", placement.MinBundleMemory>>20))
	o.Bundle.Bind(fs)
}

// placement checks the options and returns placement's options.
func (o *ManagerOptions) placement() (placement.Options, error) {
	p := placement.DefaultOptions()
	p.Namespace, p.DefaultCPUs, p.AllowedBundleImages = o.Namespace, o.DefaultCPUs, o.Bundle.Allowed
	var errs []error
	for _, q := range []struct {
		flag, text string
		into       *resource.Quantity
	}{
		{"default-memory", o.DefaultMemory, &p.DefaultMemory},
		{"overhead-cpu", o.OverheadCPU, &p.OverheadCPU},
		{"overhead-memory", o.OverheadMemory, &p.OverheadMemory},
		{"default-disk", o.DefaultDisk, &p.DefaultDisk},
		{"bundle-cpu", o.BundleCPU, &p.BundleCPU},
		{"bundle-memory", o.BundleMemory, &p.BundleMemory},
	} {
		v, err := resource.ParseQuantity(q.text)
		if err != nil || v.Sign() < 0 {
			errs = append(errs, fmt.Errorf("--%s %q: want a quantity such as 256Mi or 100m", q.flag, q.text))
			continue
		}
		*q.into = v
	}
	if o.DefaultCPUs < 1 || o.DefaultCPUs > 16 {
		errs = append(errs, fmt.Errorf("--default-cpus %d: want 1 to 16", o.DefaultCPUs))
	}
	if p.BundleCPU.MilliValue() < placement.MinBundleCPUMillis {
		errs = append(errs, fmt.Errorf("--bundle-cpu %q: want at least %dm", o.BundleCPU, placement.MinBundleCPUMillis))
	}
	if p.BundleMemory.Value() < placement.MinBundleMemory {
		errs = append(errs, fmt.Errorf("--bundle-memory %q: want at least %dMi", o.BundleMemory, placement.MinBundleMemory>>20))
	}
	errs = append(errs, o.Metrics.Validate(), o.Access.Validate(), validateAllowedImages(o.Bundle.Allowed))
	return p, errors.Join(errs...)
}

// Validate returns an error that names every invalid flag.
func (o *ManagerOptions) Validate() error {
	_, err := o.placement()
	return err
}

// podNamespaceFile has the namespace of the Pod that this process runs in.
const podNamespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// namespace returns the operator's namespace. file has that of the manager's Pod.
func (o *ManagerOptions) namespace(file string) (string, error) {
	if o.Namespace != "" {
		return o.Namespace, nil
	}
	data, err := os.ReadFile(file)
	name := strings.TrimSpace(string(data))
	if err != nil || name == "" {
		return "", errors.Join(errors.New("--namespace: required outside a Pod"), err)
	}
	return name, nil
}

// Run runs the manager until ctx ends.
func (o *ManagerOptions) Run(ctx context.Context) error {
	if err := forbidCoreDumps(); err != nil {
		return err
	}
	options, err := o.placement()
	if err != nil {
		return err
	}
	if options.Namespace, err = o.namespace(podNamespaceFile); err != nil {
		return err
	}
	cfg, err := restConfig(o.Kubeconfig, "bottle-manager")
	if err != nil {
		return err
	}
	if err := requireKubernetes(ctx, cfg); err != nil {
		return err
	}
	scheme, err := newScheme()
	if err != nil {
		return err
	}
	reader, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	if options.BundleImage, err = o.Bundle.image(ctx, reader, options.Namespace); err != nil {
		return err
	}
	cacheOptions, err := placement.CacheOptions(options.Namespace)
	if err != nil {
		return err
	}
	if o.Access.enabled() {
		cacheOptions.ByObject[&certificatesv1.CertificateSigningRequest{}] = accesscert.CacheConfig()
	}
	metrics, err := o.Metrics.server()
	if err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         cacheOptions,
		Metrics:                       metrics,
		HealthProbeBindAddress:        o.HealthAddress,
		LeaderElection:                o.LeaderElect,
		LeaderElectionID:              "bottle-manager",
		LeaderElectionNamespace:       options.Namespace,
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       ptr.To(10 * time.Second),
	})
	if err != nil {
		return fmt.Errorf("manager: %w", err)
	}
	guard := uninstall.New(mgr.GetClient(), mgr.GetAPIReader(), options.Namespace)
	options.Guard = guard
	if err := errors.Join(placement.SetupWithManager(mgr, options), guard.SetupWithManager(mgr)); err != nil {
		return err
	}
	ready, err := o.Access.add(ctx, mgr, options.Namespace)
	if err != nil {
		return err
	}
	if err := addHealth(mgr, ready); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

// addHealth makes mgr serve /healthz, which is always ok, and /readyz, which
// calls ready.
func addHealth(mgr ctrl.Manager, ready healthz.Checker) error {
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("health: %w", err)
	}
	if err := mgr.AddReadyzCheck("ready", ready); err != nil {
		return fmt.Errorf("health: %w", err)
	}
	return nil
}
