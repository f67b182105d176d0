// SPDX-License-Identifier: Apache-2.0

package uninstall_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/controllers/uninstall"
	"botbottle.dev/bottle-operator/test/api/apienv"
	"botbottle.dev/bottle-operator/test/builders"
)

func TestMain(m *testing.M) {
	log := logr.Discard()
	if os.Getenv("TEST_LOG") != "" { // print the guard's logs, for debugging a story
		log = funcr.New(func(prefix, args string) { fmt.Fprintln(os.Stderr, prefix, args) }, funcr.Options{})
	}
	ctrl.SetLogger(log)
	apienv.Main(m)
}

const (
	waitTimeout  = time.Minute
	pollInterval = 50 * time.Millisecond
)

// world is a cluster in which the operator is installed by kubectl. Nothing but the guard
// runs.
type world struct {
	*testing.T
	cfg        *rest.Config
	c          client.WithWatch
	kubeconfig string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	cfg := apienv.Start(t)
	w := &world{T: t, cfg: cfg, c: apienv.Client(t, cfg), kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	file := clientcmdapi.NewConfig()
	file.Clusters["test"] = &clientcmdapi.Cluster{Server: cfg.Host, CertificateAuthorityData: cfg.CAData}
	file.AuthInfos["test"] = &clientcmdapi.AuthInfo{ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData}
	file.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "test"}
	file.CurrentContext = "test"
	w.must(clientcmd.WriteToFile(*file, w.kubeconfig))
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// kubectl runs kubectl in the module's root, and returns what it printed.
func (w *world) kubectl(args ...string) (string, error) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(apienv.Assets(w), "kubectl"), append([]string{"--kubeconfig", w.kubeconfig}, args...)...)
	cmd.Dir = apienv.Root()
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		w.Fatalf("kubectl %v did not end: %s", args, out)
	}
	return string(out), err
}

// install applies a folder of the module.
func (w *world) install(folder string) {
	w.Helper()
	if out, err := w.kubectl("apply", "--server-side", "--force-conflicts", "-k", folder); err != nil {
		w.Fatalf("install %s: %v: %s", folder, err, out)
	}
}

func (w *world) installCRD() {
	w.Helper()
	w.install("config/crd")
	w.eventually("Bottles are served", func() bool { return w.c.List(w.Context(), &v1alpha1.BottleList{}) == nil })
}

// start runs a guard, as the manager's ServiceAccount, until stop is called or the test ends.
func (w *world) start() (stop func()) {
	w.Helper()
	mgr, err := ctrl.NewManager(apienv.AsServiceAccount(w.cfg, "bottle-manager"), ctrl.Options{
		Scheme: apienv.Scheme(), Metrics: server.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: ptr.To(true)},
	})
	w.must(err)
	g := uninstall.New(mgr.GetClient(), mgr.GetAPIReader(), apienv.SystemNamespace)
	g.Interval = 200 * time.Millisecond
	w.must(g.SetupWithManager(mgr))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				w.Error(err)
			}
		})
	}
	w.Cleanup(stop)
	return stop
}

func (w *world) eventually(what string, f func() bool) {
	w.Helper()
	gomega.NewWithT(w).Eventually(f).WithTimeout(waitTimeout).WithPolling(pollInterval).Should(gomega.BeTrue(), what)
}

var crdKind = schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}

// mark returns the mark of the CRD, "" if there is none.
func (w *world) mark() string {
	w.Helper()
	crd := &metav1.PartialObjectMetadata{}
	crd.SetGroupVersionKind(crdKind)
	w.must(w.c.Get(w.Context(), client.ObjectKey{Name: uninstall.CRDName}, crd))
	return crd.Annotations[v1alpha1.InUse]
}

// object is what a test compares of an object.
type object struct {
	kind, name string
	// held: it has our finalizer. leaves: it is being deleted.
	held, leaves bool
}

// installed returns the objects of config/default that exist.
func (w *world) installed() []object {
	w.Helper()
	rendered, err := w.kubectl("kustomize", "config/default")
	w.must(err)
	want, err := apienv.ParseManifests([]byte(rendered))
	w.must(err)
	var out []object
	for _, o := range want {
		now := &metav1.PartialObjectMetadata{}
		now.SetGroupVersionKind(o.GroupVersionKind())
		err := w.c.Get(w.Context(), client.ObjectKeyFromObject(o), now)
		if apierrors.IsNotFound(err) {
			continue
		}
		w.must(err)
		held := false
		for _, f := range now.Finalizers {
			held = held || f == v1alpha1.InUse
		}
		out = append(out, object{o.GetKind(), o.GetName(), held, !now.DeletionTimestamp.IsZero()})
	}
	return out
}

// policies returns those of the objects that are policies or bindings.
func policies(objects []object) []object {
	var out []object
	for _, o := range objects {
		if strings.HasPrefix(o.kind, "ValidatingAdmissionPolicy") {
			out = append(out, o)
		}
	}
	return out
}

func (w *world) createBottle(name string) *v1alpha1.Bottle {
	w.Helper()
	b := builders.MakeBottle(name).Namespace("default").Finalizer(v1alpha1.FinalizerNode).Obj()
	w.must(w.c.Create(w.Context(), b))
	return b
}

// removeBottle deletes a Bottle, and then does what its agent does.
func (w *world) removeBottle(b *v1alpha1.Bottle) {
	w.Helper()
	w.must(w.c.Delete(w.Context(), b))
	w.must(w.c.Patch(w.Context(), b, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))))
}

// waitForPolicy waits until the API server applies the policy to the CRD.
func (w *world) waitForPolicy() {
	w.Helper()
	w.eventually("the API server refuses to delete the CRD", func() bool {
		return apierrors.IsForbidden(w.c.Delete(w.Context(), w.crd(), client.DryRunAll))
	})
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "bottle-manager"}}
	w.eventually("the API server refuses to delete a ClusterRole", func() bool {
		return apierrors.IsForbidden(w.c.Delete(w.Context(), role, client.DryRunAll))
	})
}

func (w *world) crd() *unstructured.Unstructured {
	crd := &unstructured.Unstructured{}
	crd.SetGroupVersionKind(crdKind)
	crd.SetName(uninstall.CRDName)
	return crd
}

func (w *world) patchCRD(patch string) {
	w.Helper()
	w.must(w.c.Patch(w.Context(), w.crd(), client.RawPatch(types.MergePatchType, []byte(patch))))
}

func (w *world) awaitNoCRD() {
	w.Helper()
	w.eventually("the CRD is gone", func() bool {
		return apierrors.IsNotFound(w.c.Get(w.Context(), client.ObjectKey{Name: uninstall.CRDName}, w.crd()))
	})
}

// held reports whether any policy has our finalizer.
func (w *world) held() bool {
	w.Helper()
	return slices.ContainsFunc(policies(w.installed()), func(o object) bool { return o.held })
}
