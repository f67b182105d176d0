// SPDX-License-Identifier: Apache-2.0

package chart_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/accesscert"
	"botbottle.dev/bottle-operator/test/api/apienv"
)

// cluster is an API server with nothing in it.
type cluster struct {
	client.Client
	config     *rest.Config
	kubeconfig string
	port       string // of the API server
}

// startCluster starts an API server that ends with the test. Each Helm test has one of
// its own, because the chart installs objects of the whole cluster.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	assets := apienv.Assets(t)
	env := &envtest.Environment{BinaryAssetsDirectory: assets, ControlPlaneStartTimeout: 2 * time.Minute, ControlPlaneStopTimeout: time.Minute}
	env.ControlPlane.GetAPIServer().Path = filepath.Join(assets, "kube-apiserver")
	// kubectl apply and the DaemonSet's Pods need it on real clusters, too.
	env.ControlPlane.GetAPIServer().Configure().Set("allow-privileged", "true")
	cfg, err := env.Start()
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Errorf("stop the API server: %v", err)
		}
	})
	must(t, err)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(kubeconfig, env.KubeConfig, 0o600))
	scheme := apienv.Scheme()
	must(t, apiextensionsv1.AddToScheme(scheme))
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	must(t, err)
	return &cluster{Client: c, config: cfg, kubeconfig: kubeconfig, port: env.ControlPlane.GetAPIServer().SecureServing.Port}
}

// helm runs a Helm against the cluster.
func (c *cluster) helm(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	return run(t.Context(), program(t, name), append(args, "--kubeconfig", c.kubeconfig, "--namespace", apienv.SystemNamespace)...)
}

// mustHelm fails the test if Helm fails.
func (c *cluster) mustHelm(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := c.helm(t, name, args...)
	must(t, err)
	return out
}

// startAuthority runs what keeps the APIService's caBundle up to date in the manager,
// with the rights that the chart grants, and returns the bundle once it is there.
func (c *cluster) startAuthority(t *testing.T) string {
	t.Helper()
	authority := accesscert.NewAuthority(accesscert.Options{
		Client:    apienv.Client(t, apienv.AsServiceAccount(c.config, "bottle-manager")),
		Namespace: apienv.SystemNamespace,
		Service:   "bottle-manager-access",
		Clock:     clock.RealClock{},
		Log:       logr.Discard(),
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- authority.Start(ctx) }()
	defer func() {
		stop()
		<-ended
	}()
	for ctx.Err() == nil {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the manager's authority ended: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
		if bundle := c.caBundle(t); bundle != "" {
			return bundle
		}
	}
	t.Fatal("got no caBundle, want the manager's")
	return ""
}

// caBundle returns what the APIService holds.
func (c *cluster) caBundle(t *testing.T) string {
	t.Helper()
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiregistration.k8s.io", Version: "v1", Kind: "APIService"})
	must(t, c.Get(t.Context(), client.ObjectKey{Name: accesscert.APIServiceName}, o))
	bundle, _, err := unstructured.NestedString(o.Object, "spec", "caBundle")
	must(t, err)
	return bundle
}

// deployment returns the managers' Deployment.
func (c *cluster) deployment(t *testing.T) *appsv1.Deployment {
	t.Helper()
	d := &appsv1.Deployment{}
	must(t, c.Get(t.Context(), client.ObjectKey{Namespace: apienv.SystemNamespace, Name: "bottle-manager"}, d))
	return d
}

// wantGone checks that of the objects that the chart renders only the CRD is left.
func (c *cluster) wantGone(t *testing.T) {
	t.Helper()
	for _, o := range template(t) {
		err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o.DeepCopy())
		if o.GetKind() == "CustomResourceDefinition" {
			if err != nil {
				t.Errorf("%s: got %v, want it kept", key(o), err)
			}
		} else if !apierrors.IsNotFound(err) {
			t.Errorf("%s: got %v, want it gone", key(o), err)
		}
	}
}

// The whole life of a release on a real API server, for each way to install it.
func TestRelease(t *testing.T) {
	c := startCluster(t)
	port := "--set=networkPolicy.apiServerPorts={" + c.port + "}"
	install := []string{"install", release, chartFolder(), "--create-namespace", port}
	upgrade := []string{"upgrade", release, chartFolder(), port}

	t.Run("a wrong port is refused", func(t *testing.T) {
		_, err := c.helm(t, "helm", "install", release, chartFolder(), "--create-namespace", "--dry-run=server")
		if err == nil || !strings.Contains(err.Error(), "networkPolicy.apiServerPorts={"+c.port+"}") {
			t.Errorf("got %v, want an error with the missing port %s", err, c.port)
		}
	})
	t.Run("a dry run", func(t *testing.T) {
		c.mustHelm(t, "helm", append(install, "--dry-run=server")...)
		list := &rbacv1.ClusterRoleList{}
		must(t, c.List(t.Context(), list))
		for _, role := range list.Items {
			if strings.HasPrefix(role.Name, "bottle-") {
				t.Errorf("got ClusterRole %s, want nothing installed", role.Name)
			}
		}
	})
	t.Run("install", func(t *testing.T) { c.mustHelm(t, "helm", install...) })
	bundle := c.startAuthority(t)
	first := c.deployment(t)
	t.Run("upgrade", func(t *testing.T) {
		c.mustHelm(t, "helm", append(upgrade, "--set=image.tag=v2", "--set=manager.args={--log-level=debug}")...)
		d := c.deployment(t)
		container := d.Spec.Template.Spec.Containers[0]
		if container.Image != "bottle-operator:v2" || !slices.Contains(container.Args, "--log-level=debug") || d.UID != first.UID {
			t.Errorf("got image %s with %v, want v2 with the added flag, in the same Deployment", container.Image, container.Args)
		}
		if c.caBundle(t) != bundle {
			t.Error("the upgrade changed the caBundle")
		}
	})
	t.Run("upgrade without a change", func(t *testing.T) {
		before := c.deployment(t).Generation
		c.mustHelm(t, "helm", append(upgrade, "--reuse-values")...)
		if after := c.deployment(t).Generation; after != before {
			t.Errorf("got generation %d, want %d", after, before)
		}
		if c.caBundle(t) != bundle {
			t.Error("the upgrade changed the caBundle")
		}
	})
	t.Run("a second release is refused", func(t *testing.T) {
		_, err := c.helm(t, "helm", "install", "another", chartFolder(), port)
		if err == nil || !strings.Contains(err.Error(), `already installed in this cluster, as the release "`+release+`"`) {
			t.Errorf("got %v, want an error that names the first release", err)
		}
	})
	t.Run("the CRD is upgraded with the chart", func(t *testing.T) {
		c.mustHelm(t, "helm", "upgrade", release, changedCRD(t), port)
		crd := c.crd(t)
		if !slices.Contains(crd.Spec.Names.ShortNames, "changed") {
			t.Errorf("got short names %v, want the new one", crd.Spec.Names.ShortNames)
		}
	})
	t.Run("rollback", func(t *testing.T) {
		c.mustHelm(t, "helm", "rollback", release, "1")
		d := c.deployment(t)
		if got := d.Spec.Template.Spec.Containers[0]; got.Image != first.Spec.Template.Spec.Containers[0].Image || slices.Contains(got.Args, "--log-level=debug") || d.UID != first.UID {
			t.Errorf("got image %s with %v, want those of the first revision", got.Image, got.Args)
		}
		if slices.Contains(c.crd(t).Spec.Names.ShortNames, "changed") {
			t.Error("got the short name of the later CRD, want it rolled back")
		}
		if c.caBundle(t) != bundle {
			t.Error("the rollback changed the caBundle")
		}
	})
	bottle := &v1alpha1.Bottle{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kept"}}
	bottle.Spec.Slug = "kept"
	must(t, c.Create(t.Context(), bottle))
	t.Run("uninstall keeps the CRD", func(t *testing.T) {
		c.mustHelm(t, "helm", uninstall...)
		c.wantGone(t)
		must(t, c.Get(t.Context(), client.ObjectKeyFromObject(bottle), bottle))
	})
	t.Run("Helm 3 installs, Helm 4 upgrades", func(t *testing.T) {
		c.mustHelm(t, "helm3", install...)
		bundle := c.startAuthority(t)
		c.mustHelm(t, "helm3", append(upgrade, "--set=image.tag=v3")...)
		c.mustHelm(t, "helm", append(upgrade, "--set=image.tag=v4")...)
		if got := c.deployment(t).Spec.Template.Spec.Containers[0].Image; got != "bottle-operator:v4" {
			t.Errorf("got image %s, want bottle-operator:v4", got)
		}
		if c.caBundle(t) != bundle {
			t.Error("an upgrade changed the caBundle")
		}
		c.mustHelm(t, "helm3", uninstall...)
		c.wantGone(t)
	})
	t.Run("Helm takes over what kubectl installed", func(t *testing.T) {
		for _, o := range kustomize(t) {
			must(t, client.IgnoreAlreadyExists(c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("kubectl"), client.ForceOwnership)))
		}
		if _, err := c.helm(t, "helm", install...); err == nil || !strings.Contains(err.Error(), "ownership") {
			t.Errorf("got %v, want an error about ownership", err)
		}
		c.mustHelm(t, "helm", append(install, "--take-ownership")...)
		c.mustHelm(t, "helm", uninstall...)
		c.wantGone(t)
	})
}

// uninstall runs no hooks, because their Pods need a kubelet.
var uninstall = []string{"uninstall", release, "--no-hooks"}

func (c *cluster) crd(t *testing.T) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	o := &apiextensionsv1.CustomResourceDefinition{}
	must(t, c.Get(t.Context(), client.ObjectKey{Name: "bottles.botbottle.dev"}, o))
	return o
}

// changedCRD returns a copy of the chart whose CRD has another short name.
func changedCRD(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "bottle-operator")
	must(t, os.CopyFS(folder, os.DirFS(chartFolder())))
	file := filepath.Join(folder, "files", "crd.yaml")
	text, err := os.ReadFile(file)
	must(t, err)
	changed := strings.Replace(string(text), "    shortNames:\n", "    shortNames:\n    - changed\n", 1)
	if changed == string(text) {
		t.Fatal("the CRD has no short names to add one to")
	}
	must(t, os.WriteFile(file, []byte(changed), 0o600))
	return folder
}
