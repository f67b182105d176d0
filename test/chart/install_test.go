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
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/accesscert"
	"botbottle.dev/bottle-operator/test/api/apienv"
	"botbottle.dev/bottle-operator/test/helm"
	"botbottle.dev/bottle-operator/test/require"
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
	log.SetLogger(logr.Discard())
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
	return helm.Run(t.Context(), program(t, name), append(args, "--kubeconfig", c.kubeconfig, "--namespace", apienv.SystemNamespace)...)
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

// The whole life of a release on a real API server.
func TestRelease(t *testing.T) {
	c := startCluster(t)
	_, err := c.helm(t, "helm", "install", release, chartFolder(), "--create-namespace", "--dry-run=server")
	if err == nil || !strings.Contains(err.Error(), "networkPolicy.apiServerPorts={"+c.port+"}") {
		t.Errorf("got %v, want an error with the missing port %s", err, c.port)
	}
	c.mustHelm(t, "helm", append(c.install(), "--dry-run=server")...)
	c.wantNothing(t)

	c.mustHelm(t, "helm", c.install()...)
	bundle := c.startAuthority(t)
	first := c.deployment(t)
	if _, err := c.helm(t, "helm", "install", "another", chartFolder(), c.portFlag()); err == nil || !strings.Contains(err.Error(), `already installed in this cluster, as the release "`+release+`"`) {
		t.Errorf("got %v for a second release, want an error that names the first", err)
	}

	c.mustHelm(t, "helm", c.upgrade(chartFolder(), "--set=image.tag=v2", "--set=manager.args={--log-level=debug}")...)
	second := c.deployment(t)
	c.wantManager(t, "bottle-operator:v2", "--log-level=debug", first.UID)

	c.mustHelm(t, "helm", "upgrade", release, changedCRD(t), "--reuse-values")
	if names := c.crd(t).Spec.Names.ShortNames; !slices.Contains(names, "changed") {
		t.Errorf("got short names %v, want the CRD upgraded with the chart", names)
	}
	if d := c.deployment(t); d.Generation != second.Generation {
		t.Errorf("got generation %d of the Deployment, want %d, because nothing in it changed", d.Generation, second.Generation)
	}

	c.mustHelm(t, "helm", "rollback", release, "1")
	c.wantManager(t, first.Spec.Template.Spec.Containers[0].Image, "--leader-elect", first.UID)
	if names := c.crd(t).Spec.Names.ShortNames; slices.Contains(names, "changed") {
		t.Errorf("got short names %v, want the CRD rolled back with the chart", names)
	}
	if c.caBundle(t) != bundle {
		t.Error("got another caBundle than the manager's after two upgrades and a rollback")
	}

	bottle := &v1alpha1.Bottle{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kept"}, Spec: v1alpha1.BottleSpec{Slug: "kept"}}
	must(t, c.Create(t.Context(), bottle))
	c.mustHelm(t, "helm", uninstall...)
	c.wantGone(t)
	must(t, c.Get(t.Context(), client.ObjectKeyFromObject(bottle), bottle))
}

// TestLongOtherBeginnings upgrades with Helm 4 what Helm 3 installed, and uninstalls it with
// Helm 3. It then takes over with Helm 4 what kubectl installed from config/. Each time, the
// CRD of an earlier release is already there.
func TestLongOtherBeginnings(t *testing.T) {
	require.Long(t)
	c := startCluster(t)
	c.mustHelm(t, "helm3", c.install()...)
	bundle := c.startAuthority(t)
	uid := c.deployment(t).UID
	c.mustHelm(t, "helm3", c.upgrade(chartFolder(), "--set=image.tag=v3")...)
	c.wantManager(t, "bottle-operator:v3", "--leader-elect", uid)
	c.mustHelm(t, "helm", c.upgrade(chartFolder(), "--set=image.tag=v4")...)
	c.wantManager(t, "bottle-operator:v4", "--leader-elect", uid)
	if c.caBundle(t) != bundle {
		t.Error("got another caBundle than the manager's after two upgrades")
	}
	c.mustHelm(t, "helm3", uninstall...)
	c.wantGone(t)

	for _, o := range kustomize(t) {
		must(t, c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("kubectl"), client.ForceOwnership))
	}
	uid = c.deployment(t).UID
	if _, err := c.helm(t, "helm", c.install()...); err == nil || !strings.Contains(err.Error(), "ownership") {
		t.Errorf("got %v, want an error about ownership", err)
	}
	c.mustHelm(t, "helm", append(c.install(), "--take-ownership", "--force-conflicts")...)
	c.wantManager(t, "bottle-operator:latest", "--leader-elect", uid)
	c.mustHelm(t, "helm", uninstall...)
	c.wantGone(t)
}

// uninstall runs no hooks, because their Pods need a kubelet.
var uninstall = []string{"uninstall", release, "--no-hooks"}

// portFlag is for the port of the API server, which is any free one.
func (c *cluster) portFlag() string { return "--set=networkPolicy.apiServerPorts={" + c.port + "}" }

func (c *cluster) install() []string {
	return []string{"install", release, chartFolder(), "--create-namespace", c.portFlag()}
}

func (c *cluster) upgrade(folder string, flags ...string) []string {
	return append([]string{"upgrade", release, folder, c.portFlag()}, flags...)
}

// wantManager checks the managers' image and one of its flags, and that the Deployment
// has not been made anew.
func (c *cluster) wantManager(t *testing.T, image, flag string, uid types.UID) {
	t.Helper()
	d := c.deployment(t)
	got := d.Spec.Template.Spec.Containers[0]
	if got.Image != image || !slices.Contains(got.Args, flag) || d.UID != uid {
		t.Errorf("got image %s with %v in Deployment %s, want %s with %s in %s", got.Image, got.Args, d.UID, image, flag, uid)
	}
}

// wantNothing checks that nothing of the chart exists.
func (c *cluster) wantNothing(t *testing.T) {
	t.Helper()
	list := &rbacv1.ClusterRoleList{}
	must(t, c.List(t.Context(), list))
	for _, role := range list.Items {
		if strings.HasPrefix(role.Name, "bottle-") {
			t.Errorf("got ClusterRole %s, want nothing installed", role.Name)
		}
	}
}

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
