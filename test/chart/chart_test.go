// SPDX-License-Identifier: Apache-2.0

// Package chart_test tests charts/bottle-operator with real Helm: what it renders, and
// what installing it does to a real API server. No kubelet is there, so no Pod runs.
package chart_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"botbottle.dev/bottle-operator/test/api/apienv"
	"botbottle.dev/bottle-operator/test/helm"
	"botbottle.dev/bottle-operator/test/require"
)

// release is the name of the release in these tests, which appears in no object's name.
const release = "some-release"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func chartFolder() string { return filepath.Join(apienv.Root(), "charts", "bottle-operator") }

// program returns the path of a Helm.
func program(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(apienv.Root(), "bin", name)
	require.File(t, path, "make "+name)
	return path
}

// template renders the chart in the namespace of config/, with flags such as --set.
func template(t testing.TB, flags ...string) []*unstructured.Unstructured {
	t.Helper()
	args := append([]string{"template", release, chartFolder(), "--namespace", apienv.SystemNamespace}, flags...)
	out, err := helm.Run(t.Context(), program(t, "helm"), args...)
	must(t, err)
	objects, err := apienv.ParseManifests([]byte(out))
	must(t, err)
	return objects
}

// rendering is held by one call of kustomize's library at a time: it keeps state of its own.
var rendering sync.Mutex

// kustomize renders config/default with a component, if any.
func kustomize(t testing.TB, component ...string) []*unstructured.Unstructured {
	t.Helper()
	parent := t.TempDir()
	config, err := filepath.Rel(parent, filepath.Join(apienv.Root(), "config"))
	must(t, err)
	text := "resources: [" + filepath.Join(config, "default") + "]\n"
	for _, c := range component {
		text += "components: [" + filepath.Join(config, "components", c) + "]\n"
	}
	must(t, os.WriteFile(filepath.Join(parent, "kustomization.yaml"), []byte(text), 0o600))
	rendering.Lock()
	defer rendering.Unlock()
	rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), parent)
	must(t, err)
	out, err := rendered.AsYaml()
	must(t, err)
	objects, err := apienv.ParseManifests(out)
	must(t, err)
	return objects
}

// key identifies an object.
func key(o *unstructured.Unstructured) string {
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}

// helmLabels are the labels that the chart adds to every object but the CRD.
var helmLabels = []string{"helm.sh/chart", "app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"}

// common returns an object without what the chart and the kustomize tree may differ in.
// app.kubernetes.io/name is on all objects of the chart, but only on some of config/.
func common(o *unstructured.Unstructured) map[string]any {
	o = o.DeepCopy()
	for _, name := range append(slices.Clone(helmLabels), "app.kubernetes.io/name") {
		unstructured.RemoveNestedField(o.Object, "metadata", "labels", name)
	}
	unstructured.RemoveNestedField(o.Object, "metadata", "annotations", "helm.sh/resource-policy")
	for _, field := range []string{"labels", "annotations"} {
		if m, found, _ := unstructured.NestedMap(o.Object, "metadata", field); found && len(m) == 0 {
			unstructured.RemoveNestedField(o.Object, "metadata", field)
		}
	}
	return o.Object
}

// isHook reports whether an object belongs to the hooks that Helm runs when it uninstalls.
func isHook(o *unstructured.Unstructured) bool {
	when := map[string]string{"bottle-uninstall-check": "pre-delete", "bottle-uninstall-finish": "post-delete"}[o.GetName()]
	return when != "" && o.GetAnnotations()["helm.sh/hook"] == when
}

// wantEqual compares what the chart renders with what kustomize renders, object by
// object. Helm makes the namespace itself (--create-namespace).
func wantEqual(t *testing.T, got, want []*unstructured.Unstructured) {
	t.Helper()
	left := map[string]*unstructured.Unstructured{}
	for _, o := range got {
		if isHook(o) {
			continue // kubectl has no hooks
		}
		if left[key(o)] != nil {
			t.Errorf("%s: the chart has it twice", key(o))
		}
		left[key(o)] = o
	}
	for _, o := range want {
		if o.GetKind() == "Namespace" {
			continue
		}
		g := left[key(o)]
		if g == nil {
			t.Errorf("%s: the chart lacks it", key(o))
			continue
		}
		delete(left, key(o))
		if diff := cmp.Diff(common(o), common(g)); diff != "" {
			t.Errorf("%s: the chart (+) differs from config/ (-):\n%s", key(o), diff)
		}
	}
	for name := range left {
		t.Errorf("%s: only the chart has it", name)
	}
}

// With its default values, the chart installs what kustomize renders from config/default.
func TestChartEqualsKustomize(t *testing.T) {
	got := template(t)
	wantEqual(t, got, kustomize(t))
	for _, o := range got {
		labels := o.GetLabels()
		if o.GetKind() == "CustomResourceDefinition" {
			if o.GetAnnotations()["helm.sh/resource-policy"] != "keep" {
				t.Errorf("%s: got annotations %v, want Helm to keep it", key(o), o.GetAnnotations())
			}
			continue
		}
		if labels["app.kubernetes.io/instance"] != release || labels["app.kubernetes.io/name"] != "bottle-operator" {
			t.Errorf("%s: got labels %v, want Helm's", key(o), labels)
		}
	}
}

// A value that stands for a component of config/ renders the same as the component.
func TestValuesEqualComponents(t *testing.T) {
	for component, flags := range map[string][]string{
		"aggregate-edit": {"--set=aggregateEdit=true"},
		"openshift":      {"--set=openshift=true"},
		"priority-class": {"--set=priorityClass=true"},
		"monitoring":     {"--set=podMonitor.enabled=true", "--set=serviceMonitor.enabled=true"},
	} {
		t.Run(component, func(t *testing.T) {
			t.Parallel()
			wantEqual(t, template(t, flags...), kustomize(t, component))
		})
	}
}

// The chart can be installed into any namespace: nothing that it renders names another.
func TestAnotherNamespace(t *testing.T) {
	args := []string{
		"template", release, chartFolder(), "--namespace=elsewhere", "--set=priorityClass=true", "--set=openshift=true",
		"--set=serviceMonitor.enabled=true", "--set=podMonitor.enabled=true", "--set=argocd.healthScript=true",
	}
	out, err := helm.Run(t.Context(), program(t, "helm"), args...)
	must(t, err)
	for line := range strings.Lines(out) {
		if strings.Contains(line, apienv.SystemNamespace) {
			t.Errorf("got %q, want nothing that names %s", strings.TrimSpace(line), apienv.SystemNamespace)
		}
	}
	objects, err := apienv.ParseManifests([]byte(out))
	must(t, err)
	for _, o := range objects {
		if ns := o.GetNamespace(); ns != "" && ns != "elsewhere" {
			t.Errorf("%s: got it in %s, want elsewhere", o.GetName(), ns)
		}
	}
}

// The name of the release is in no object's name: the policies recognise agents by the
// name of their ServiceAccount.
func TestReleaseNameChangesNoObject(t *testing.T) {
	out, err := helm.Run(t.Context(), program(t, "helm"), "template", "other", chartFolder(), "--namespace", apienv.SystemNamespace)
	must(t, err)
	other, err := apienv.ParseManifests([]byte(out))
	must(t, err)
	wantEqual(t, other, kustomize(t))
}

// helm lint finds nothing, with either version of Helm.
func TestLint(t *testing.T) {
	for _, name := range []string{"helm", "helm3"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := helm.Run(t.Context(), program(t, name), "lint", "--strict", "--quiet", chartFolder()); err != nil {
				t.Error(err)
			}
		})
	}
}

// Helm 3 renders the same objects as Helm 4.
func TestHelm3RendersTheSame(t *testing.T) {
	out, err := helm.Run(t.Context(), program(t, "helm3"), "template", release, chartFolder(), "--namespace", apienv.SystemNamespace)
	must(t, err)
	objects, err := apienv.ParseManifests([]byte(out))
	must(t, err)
	wantEqual(t, objects, kustomize(t))
}

// A value that does not exist, or cannot be right, is refused by its name.
func TestWrongValuesAreRefused(t *testing.T) {
	for flag, want := range map[string]string{
		"--set=agent.egresClosed={10.0.0.0/8}":           "egresClosed",
		"--set=replicas=3":                               "replicas",
		"--set=manager.replicas=0":                       "/manager/replicas",
		"--set=manager.replicas=two":                     "/manager/replicas",
		"--set=agent.enabled=yes":                        "/agent/enabled",
		"--set=image.digest=sha256:12":                   "/image/digest",
		"--set=image.pullPolicy=always":                  "/image/pullPolicy",
		"--set=agent.args={max-bottles=3}":               "/agent/args/0",
		"--set=agent.egressClosed={10.0.0.0}":            "/agent/egressClosed/0",
		"--set=agent.maxUnavailable=0":                   "/agent/maxUnavailable",
		"--set=manager.resources.limit.memory=1Gi":       "limit",
		"--set=agent.tolerations[0].opertor=Exists":      "opertor",
		"--set=imagePullSecrets={pull}":                  "/imagePullSecrets/0",
		"--set=networkPolicy.apiServerPorts={}":          "/networkPolicy/apiServerPorts",
		"--set=smolvm.image.tag=":                        "/smolvm/image/tag",
		"--set=manager.nodeSelector.pool=7":              "/manager/nodeSelector/pool",
		"--set-string=networkPolicy.apiServerPorts={90}": "/networkPolicy/apiServerPorts/0",
	} {
		t.Run(flag, func(t *testing.T) {
			t.Parallel()
			_, err := helm.Run(t.Context(), program(t, "helm"), "template", release, chartFolder(), flag)
			var failed *exec.ExitError
			if !errors.As(err, &failed) || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want an error about %s", err, want)
			}
		})
	}
}
