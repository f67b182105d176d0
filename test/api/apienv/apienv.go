// SPDX-License-Identifier: Apache-2.0

// Package apienv provides tests with a real etcd and kube-apiserver, and installs
// the Bottle CRD, the RBAC of config/rbac and the policy of config/policy. There
// is no scheduler, kubelet, garbage collector or other controller: tests do their
// work. All tests of a package share one server and separate their objects by
// namespace.
package apienv

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/kstatus"
	"botbottle.dev/bottle-operator/test/require"
)

// SystemNamespace is the namespace of the operator's ServiceAccounts and Leases.
const SystemNamespace = "bottle-system"

var shared struct {
	once   sync.Once
	env    *envtest.Environment
	config *rest.Config
	err    error
	// frontProxy is the folder of the API server's certificate for aggregation.
	frontProxy string
}

// parallel is how many tests run in parallel. They mostly wait, so the number may
// exceed the number of cores.
const parallel = "8"

// Main runs a package's tests and stops the server that they started, if any.
// Call it from TestMain.
func Main(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", parallel); err != nil {
		fmt.Fprintf(os.Stderr, "run %s tests in parallel: %v\n", parallel, err)
		os.Exit(1)
	}
	code := m.Run()
	if shared.env != nil {
		if err := shared.env.Stop(); err != nil {
			fmt.Fprintf(os.Stderr, "stop the API server: %v\n", err)
			code = max(code, 1)
		}
	}
	if shared.frontProxy != "" {
		os.RemoveAll(shared.frontProxy)
	}
	os.Exit(code)
}

// Start returns an administrator's configuration for the shared server. The first
// call starts the server. The package's TestMain must call Main.
func Start(t testing.TB) *rest.Config {
	t.Helper()
	assets := Assets(t)
	shared.once.Do(func() { shared.env, shared.config, shared.err = start(assets) })
	if shared.err != nil {
		t.Fatalf("start the API server: %v", shared.err)
	}
	return rest.CopyConfig(shared.config)
}

// Assets returns the directory of the control plane's binaries.
func Assets(t testing.TB) string {
	t.Helper()
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		assets = filepath.Join(Root(), "bin", "controlplane")
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kubectl"} {
		require.File(t, filepath.Join(assets, name), "make controlplane, or set KUBEBUILDER_ASSETS")
	}
	return assets
}

// Root returns the root directory of this module.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}

// Scheme returns a scheme with the built-in types and Bottles.
func Scheme() *kruntime.Scheme {
	s := kruntime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(s))
	utilruntime.Must(v1alpha1.AddToScheme(s))
	return s
}

// Client returns an uncached client for cfg.
func Client(t testing.TB, cfg *rest.Config) client.WithWatch {
	t.Helper()
	c, err := client.NewWithWatch(cfg, client.Options{Scheme: Scheme()})
	if err != nil {
		t.Fatalf("make a client: %v", err)
	}
	return c
}

// AsServiceAccount returns a copy of cfg that acts as a ServiceAccount in the
// system namespace, with exactly the rights that config/rbac grants it.
func AsServiceAccount(cfg *rest.Config, name string) *rest.Config {
	cfg = rest.CopyConfig(cfg)
	cfg.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + SystemNamespace + ":" + name,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + SystemNamespace, "system:authenticated"},
	}
	return cfg
}

// AsAgent returns a copy of cfg that acts as the agent of a node: as a token of the
// agents' ServiceAccount that is bound to the Node.
func AsAgent(cfg *rest.Config, node string) *rest.Config {
	cfg = AsServiceAccount(cfg, "bottle-agent")
	cfg.Impersonate.Extra = map[string][]string{"authentication.kubernetes.io/node-name": {node}}
	return cfg
}

// Namespace creates a namespace named after the test and returns its name. The
// namespace is never deleted, because no controller here could finish that. When
// the test ends, the status of every Bottle in it must obey the rules of kstatus.
func Namespace(t testing.TB, c client.Client) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: dnsLabel(t.Name()) + "-"}}
	if err := c.Create(t.Context(), ns); err != nil {
		t.Fatalf("create a namespace: %v", err)
	}
	t.Cleanup(func() {
		list := &v1alpha1.BottleList{}
		if err := c.List(context.Background(), list, client.InNamespace(ns.Name)); err != nil {
			t.Errorf("list the Bottles of the test: %v", err)
		}
		for i := range list.Items {
			kstatus.Require(t, &list.Items[i])
		}
	})
	return ns.Name
}

func dnsLabel(name string) string {
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
	name = "t-" + strings.Trim(name, "-")
	return strings.TrimRight(name[:min(len(name), 50)], "-")
}

func start(assets string) (*envtest.Environment, *rest.Config, error) {
	env := &envtest.Environment{
		BinaryAssetsDirectory: assets,
		CRDInstallOptions: envtest.CRDInstallOptions{
			Paths:              []string{filepath.Join(Root(), "config", "crd", "bases")},
			ErrorIfPathMissing: true,
		},
		ControlPlaneStartTimeout: 2 * time.Minute,
		ControlPlaneStopTimeout:  time.Minute,
	}
	// envtest must use the caller's binary, not one from its own search path.
	env.ControlPlane.GetAPIServer().Path = filepath.Join(assets, "kube-apiserver")
	// The audience that config/rbac allows in an agent's request for a token.
	env.ControlPlane.GetAPIServer().Configure().Set("service-account-issuer", "https://kubernetes.default.svc")
	dir, err := os.MkdirTemp("", "front-proxy-")
	if err != nil {
		return nil, nil, fmt.Errorf("front proxy: %w", err)
	}
	shared.frontProxy = dir
	flags, err := frontProxyFlags(dir)
	if err != nil {
		return nil, nil, err
	}
	for name, value := range flags {
		env.ControlPlane.GetAPIServer().Configure().Set(name, value)
	}
	cfg, err := env.Start()
	if err != nil {
		return nil, nil, errors.Join(err, env.Stop())
	}
	if err := installRights(cfg); err != nil {
		return nil, nil, errors.Join(err, env.Stop())
	}
	return env, cfg, nil
}

// installRights creates the system namespace, the RBAC and the policies of
// config/.
func installRights(cfg *rest.Config) error {
	c, err := client.New(cfg, client.Options{Scheme: Scheme()})
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	objects, err := Manifests("config/namespace", "config/rbac", "config/policy")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, o := range objects {
		if err := c.Create(ctx, o); err != nil {
			return fmt.Errorf("create %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return nil
}
