// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/internal/nodeagent"
	"botbottle.dev/bottle-operator/internal/setup"
	"botbottle.dev/bottle-operator/test/api/apienv"
)

// flags are the options of a subcommand.
type flags interface {
	Bind(fs *pflag.FlagSet)
	Validate() error
}

// wantFlags parses a command line as the subcommand does.
func wantFlags(t *testing.T, subcommand string, o flags, args []string) {
	t.Helper()
	if len(args) == 0 || args[0] != subcommand {
		t.Fatalf("got arguments %v, want the subcommand %s", args, subcommand)
	}
	fs := pflag.NewFlagSet(subcommand, pflag.ContinueOnError)
	o.Bind(fs)
	if err := fs.Parse(args[1:]); err != nil {
		t.Fatalf("%s: %v", subcommand, err)
	}
	if err := o.Validate(); err != nil {
		t.Errorf("%s %v: %v", subcommand, args[1:], err)
	}
}

// The manager's Deployment meets the PodSecurity level restricted, although its namespace
// permits more to the agents, and its arguments are existing flags.
func TestManagerDeployment(t *testing.T) {
	c := apienv.Client(t, apienv.Start(t))
	objects, err := apienv.ParseManifests(kustomize(t, "config/default"))
	must(t, err)
	d := &appsv1.Deployment{}
	for _, o := range objects {
		if o.GetKind() == "Deployment" {
			must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, d))
		}
	}
	if d.Name != "bottle-manager" {
		t.Fatalf("got Deployment %q in config/default, want bottle-manager", d.Name)
	}
	o := &setup.ManagerOptions{}
	wantFlags(t, "manager", o, d.Spec.Template.Spec.Containers[0].Args)
	if !o.LeaderElect || o.Namespace != "" {
		t.Errorf("got leader election %t in %q, want it in the Pod's own namespace", o.LeaderElect, o.Namespace)
	}
	if err := createRestricted(t, c, d.Spec.Template); err != nil {
		t.Errorf("got %v for the Deployment's Pod, want it accepted", err)
	}
}

// createRestricted asks the API server to create the Pod of a template in a namespace
// that enforces the PodSecurity level restricted.
func createRestricted(t *testing.T, c client.Client, template corev1.PodTemplateSpec) error {
	t.Helper()
	ns := &corev1.Namespace{}
	must(t, c.Get(t.Context(), client.ObjectKey{Name: apienv.Namespace(t, c)}, ns))
	metav1.SetMetaDataLabel(&ns.ObjectMeta, "pod-security.kubernetes.io/enforce", "restricted")
	must(t, c.Update(t.Context(), ns))
	if name := template.Spec.ServiceAccountName; name != "" {
		must(t, c.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: name}}))
	}
	return c.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "pod"}, Spec: template.Spec}, client.DryRunAll)
}

// The arguments of the agents' DaemonSet are existing flags, the API server accepts its
// Pods in the operator's namespace, and the node's agent finds the token in the volume.
func TestAgentDaemonSet(t *testing.T) {
	objects, err := apienv.ParseManifests(kustomize(t, "config/default"))
	must(t, err)
	d := &appsv1.DaemonSet{}
	apienv.Find(t, objects, "DaemonSet", d)
	spec := d.Spec.Template.Spec
	var names []string
	for _, c := range spec.InitContainers {
		names = append(names, c.Name)
	}
	if want := []string{"preflight", "smolvm", "programs"}; !slices.Equal(names, want) {
		t.Fatalf("got init containers %q, want %q", names, want)
	}
	args, node := spec.Containers[0].Args, strings.NewReplacer("$(NODE_NAME)", "n")
	for i := range args {
		args[i] = node.Replace(args[i])
	}
	split := slices.Index(args, "--")
	if split < 1 || args[0] != "node-agent" {
		t.Fatalf("got arguments %q, want node-agent, and -- before the agent's flags", args)
	}
	var enter nodeagent.Options
	fs := pflag.NewFlagSet("node-agent", pflag.ContinueOnError)
	enter.Bind(fs)
	must(t, fs.Parse(args[1:split]))
	agent, preflight := &setup.AgentOptions{}, &setup.PreflightOptions{}
	wantFlags(t, "agent", agent, append([]string{"agent"}, args[split+1:]...))
	checked := spec.InitContainers[0].Args
	for i := range checked {
		checked[i] = node.Replace(checked[i])
	}
	wantFlags(t, "preflight", preflight, checked)
	if preflight.NodeName != agent.NodeName || preflight.SmolvmDir != agent.SmolvmDir || preflight.HostRoot != enter.HostRoot || preflight.HealthAddress != agent.HealthAddress || preflight.Metrics.Address != agent.Metrics.Address {
		t.Errorf("got a preflight for %+v, want it for the agent's flags %+v", preflight, agent)
	}
	// What the code of node-agent takes for granted.
	token, mounted := false, false
	for _, v := range spec.Volumes {
		token = token || v.Name == "token" && v.Projected != nil
	}
	for _, m := range spec.Containers[0].VolumeMounts {
		mounted = mounted || m.Name == "token" && m.MountPath == enter.TokenDir
	}
	if !token || !mounted {
		t.Errorf("got volumes %v, want the projected volume token at %s", spec.Volumes, enter.TokenDir)
	}
	c := apienv.Client(t, apienv.Start(t))
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, Name: "agent"}, Spec: spec}
	pod.Spec.PriorityClassName = "" // the class comes with a controller that does not run here
	if err := c.Create(t.Context(), pod, client.DryRunAll); err != nil {
		t.Errorf("got %v for the DaemonSet's Pod, want it accepted", err)
	}
	if err := createRestricted(t, c, d.Spec.Template); !apierrors.IsForbidden(err) {
		t.Errorf("got %v in a restricted namespace, want it forbidden: this test could not fail otherwise", err)
	}
}

// An overlay can install the operator into any namespace: the default one is named only
// where kustomize rewrites it.
func TestAnotherNamespace(t *testing.T) {
	parent := t.TempDir()
	relative, err := filepath.Rel(parent, apienv.Root())
	must(t, err)
	overlay := "namespace: elsewhere\nresources: [" + filepath.Join(relative, "config", "default") + "]\ncomponents: [" +
		filepath.Join(relative, "config", "components", "aggregate-edit") + "]\n"
	must(t, os.WriteFile(filepath.Join(parent, "kustomization.yaml"), []byte(overlay), 0o600))
	out := kustomizeFolder(t, parent)
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, apienv.SystemNamespace) {
			t.Errorf("got %q, want nothing that names %s", strings.TrimSpace(line), apienv.SystemNamespace)
		}
	}
	objects, err := apienv.ParseManifests(out)
	must(t, err)
	subjects := 0
	for _, o := range objects {
		if list, _, _ := unstructured.NestedSlice(o.Object, "subjects"); len(list) > 0 {
			subject, _ := list[0].(map[string]any)
			if subject["namespace"] != "elsewhere" {
				t.Errorf("%s %s: got the subject %v, want it in elsewhere", o.GetKind(), o.GetName(), subject)
			}
			subjects++
		}
		if o.GetKind() == "Namespace" && o.GetName() != "elsewhere" {
			t.Errorf("got Namespace %s, want elsewhere", o.GetName())
		}
	}
	if subjects < 5 {
		t.Errorf("got %d bindings with subjects, want those of the manager and the agents", subjects)
	}
}

// The policies recognise agents in any namespace, so they name none.
func TestPoliciesNameNoNamespace(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(apienv.Root(), "config", "policy", "*.yaml"))
	must(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		if strings.Contains(string(text), apienv.SystemNamespace) {
			t.Errorf("%s: got the namespace %s in it, want none", filepath.Base(file), apienv.SystemNamespace)
		}
	}
}

// Only the component aggregate-edit adds Bottles to the built-in roles edit and
// admin.
func TestEditAggregation(t *testing.T) {
	labels := func(objects []*unstructured.Unstructured) map[string]string {
		for _, o := range objects {
			if o.GetKind() == "ClusterRole" && o.GetName() == "bottle-editor" {
				return o.GetLabels()
			}
		}
		t.Fatal("got no ClusterRole bottle-editor, want one")
		return nil
	}
	plain, err := apienv.ParseManifests(kustomize(t, "config/default"))
	must(t, err)
	if got := labels(plain); len(got) != 0 {
		t.Errorf("without the component: got labels %v, want none", got)
	}
	parent := t.TempDir()
	relative, err := filepath.Rel(parent, apienv.Root())
	must(t, err)
	overlay := "resources: [" + filepath.Join(relative, "config", "default") + "]\ncomponents: [" + filepath.Join(relative, "config", "components", "aggregate-edit") + "]\n"
	must(t, os.WriteFile(filepath.Join(parent, "kustomization.yaml"), []byte(overlay), 0o600))
	opted, err := apienv.ParseManifests(kustomizeFolder(t, parent))
	must(t, err)
	for _, role := range []string{"edit", "admin"} {
		if got := labels(opted)["rbac.authorization.k8s.io/aggregate-to-"+role]; got != "true" {
			t.Errorf("with the component: got aggregate-to-%s %q, want true", role, got)
		}
	}
}

// The agent's unit lets machines outlive the agent, and its flags exist.
func TestAgentUnit(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(apienv.Root(), "config", "agent", "bottle-agent.service"))
	must(t, err)
	lines := strings.Split(string(data), "\n")
	for _, want := range []string{"KillMode=process", "OOMPolicy=continue", "Delegate=yes", "Restart=always", "Environment=NODE_NAME=%H", "WantedBy=multi-user.target"} {
		if !slices.Contains(lines, want) {
			t.Errorf("got no line %s, want one", want)
		}
	}
	for _, line := range lines {
		if strings.HasPrefix(line, "After=") {
			t.Errorf("got %s, want no unit that the guard of running machines would wait for", line)
		}
		command, found := strings.CutPrefix(line, "ExecStart=")
		if !found {
			continue
		}
		args := strings.Fields(strings.ReplaceAll(command, "${NODE_NAME}", "node-a"))
		o := &setup.AgentOptions{}
		wantFlags(t, "agent", o, args[1:])
		return
	}
	t.Error("got no ExecStart, want one")
}
