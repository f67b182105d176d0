// SPDX-License-Identifier: Apache-2.0

package chart_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"botbottle.dev/bottle-operator/internal/setup"
	"botbottle.dev/bottle-operator/test/api/apienv"
)

// changes has, for every value of the chart, flags that change it, and a text that the
// chart then renders. A text that begins with "!" is one that it then no longer renders.
var changes = map[string]struct{ flags, want string }{
	"image.repository":             {"--set=image.repository=r.example.com/op", "image: r.example.com/op:latest"},
	"image.tag":                    {"--set=image.tag=v9", "image: bottle-operator:v9"},
	"image.digest":                 {"--set=image.digest=" + someDigest, "image: bottle-operator@" + someDigest},
	"image.pullPolicy":             {"--set=image.pullPolicy=Always", "imagePullPolicy: Always"},
	"imagePullSecrets":             {"--set=imagePullSecrets[0].name=pull", "- name: pull"},
	"smolvm.image.repository":      {"--set=smolvm.image.repository=r.example.com/sv", "image: r.example.com/sv:1.32.2"},
	"smolvm.image.tag":             {"--set=smolvm.image.tag=1.33.0", "image: bottle-smolvm:1.33.0"},
	"smolvm.image.digest":          {"--set=smolvm.image.digest=" + someDigest, "image: bottle-smolvm@" + someDigest},
	"smolvm.image.pullPolicy":      {"--set=smolvm.image.pullPolicy=Never", "imagePullPolicy: Never"},
	"defaultImage.reference":       {"--set=defaultImage.reference=r.example.com/guest:1", "- --default-image=r.example.com/guest:1"},
	"bundle.allowedImages":         {"--set=bundle.allowedImages={r.example.com/*}", "- --allowed-bundle-images=r.example.com/*"},
	"manager.replicas":             {"--set=manager.replicas=5", "replicas: 5"},
	"manager.args":                 {"--set=manager.args={--log-level=debug}", "- --log-level=debug"},
	"manager.podLabels":            {"--set=manager.podLabels.team=blue", "team: blue"},
	"manager.podAnnotations":       {"--set=manager.podAnnotations.team=blue", "team: blue"},
	"manager.nodeSelector":         {"--set=manager.nodeSelector.pool=system", "pool: system"},
	"manager.tolerations":          {"--set=manager.tolerations[0].key=special", "- key: special"},
	"manager.affinity":             {"--set-json=manager.affinity={\"podAffinity\":{}}", "podAffinity: {}"},
	"manager.priorityClassName":    {"--set=manager.priorityClassName=mine", "priorityClassName: mine"},
	"manager.resources":            {"--set=manager.resources.limits.memory=3Gi", "memory: 3Gi"},
	"agent.enabled":                {"--set=agent.enabled=false", "!kind: DaemonSet"},
	"agent.egressClosed":           {"--set=agent.egressClosed={10.9.0.0/16,fd00::/8}", "- --egress-closed=10.9.0.0/16,fd00::/8"},
	"agent.args":                   {"--set=agent.args={--max-bottles=7}", "- --max-bottles=7"},
	"agent.podLabels":              {"--set=agent.podLabels.team=blue", "team: blue"},
	"agent.podAnnotations":         {"--set=agent.podAnnotations.team=blue", "team: blue"},
	"agent.nodeSelector":           {"--set=agent.nodeSelector.pool=kvm", "pool: kvm"},
	"agent.tolerations":            {"--set=agent.tolerations[0].key=special", "- key: special"},
	"agent.affinity":               {"--set-json=agent.affinity={\"podAffinity\":{}}", "podAffinity: {}"},
	"agent.priorityClassName":      {"--set=agent.priorityClassName=", "!system-node-critical"},
	"agent.maxUnavailable":         {"--set=agent.maxUnavailable=10%", "maxUnavailable: 10%"},
	"agent.resources":              {"--set=agent.resources.requests.cpu=333m", "cpu: 333m"},
	"priorityClass":                {"--set=priorityClass=true", "priorityClassName: system-cluster-critical"},
	"aggregateEdit":                {"--set=aggregateEdit=true", "rbac.authorization.k8s.io/aggregate-to-edit:"},
	"openshift":                    {"--set=openshift=true", "name: system:openshift:scc:privileged"},
	"crds.install":                 {"--set=crds.install=false", "!helm.sh/resource-policy: keep"},
	"networkPolicy.enabled":        {"--set=networkPolicy.enabled=false", "!kind: NetworkPolicy"},
	"networkPolicy.apiServerPorts": {"--set=networkPolicy.apiServerPorts={16443}", "port: 16443"},
	"serviceMonitor.enabled":       {"--set=serviceMonitor.enabled=true", "kind: ServiceMonitor"},
	"serviceMonitor.labels":        {"--set=serviceMonitor.enabled=true,serviceMonitor.labels.release=prom", "release: prom"},
	"serviceMonitor.interval":      {"--set=serviceMonitor.enabled=true,serviceMonitor.interval=47s", "interval: 47s"},
	"podMonitor.enabled":           {"--set=podMonitor.enabled=true", "- --metrics-bind-address=:9444"},
	"podMonitor.labels":            {"--set=podMonitor.enabled=true,podMonitor.labels.release=prom", "release: prom"},
	"podMonitor.interval":          {"--set=podMonitor.enabled=true,podMonitor.interval=47s", "interval: 47s"},
	"argocd.healthScript":          {"--set=argocd.healthScript=true", "resource.customizations.health.botbottle.dev_Bottle:"},
}

const someDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// Every value of the chart changes what it says, and every value is tried.
func TestEveryValueHasAnEffect(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(chartFolder(), "values.schema.json"))
	must(t, err)
	schema := map[string]any{}
	must(t, json.Unmarshal(text, &schema))
	paths := map[string]bool{}
	addPaths(paths, "", schema)
	if len(paths) < 30 {
		t.Fatalf("got %d values in the schema, want all", len(paths))
	}
	for path := range paths {
		if _, found := changes[path]; !found {
			t.Errorf("%s: add a line to changes", path)
		}
	}
	before := rendered(t)
	for path, change := range changes {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			if !paths[path] {
				t.Errorf("got no value %s in the chart, want one", path)
			}
			want, gone := strings.CutPrefix(change.want, "!")
			if strings.Contains(before, want) != gone || strings.Contains(rendered(t, change.flags), want) == gone {
				t.Errorf("%s: got no change of %q", change.flags, want)
			}
		})
	}
}

// addPaths adds the paths of a schema's values, which are what has a description.
func addPaths(paths map[string]bool, prefix string, schema map[string]any) {
	properties, _ := schema["properties"].(map[string]any)
	for name, property := range properties {
		property, _ := property.(map[string]any)
		if property["description"] != nil {
			paths[prefix+name] = true
			continue
		}
		addPaths(paths, prefix+name+".", property)
	}
}

// rendered returns what the chart renders, as YAML.
func rendered(t *testing.T, flags ...string) string {
	t.Helper()
	var out strings.Builder
	for _, o := range template(t, flags...) {
		text, err := yaml.Marshal(o.Object)
		must(t, err)
		out.Write(text)
	}
	return out.String()
}

// The manager, the agent and the preflight must allow the same images for bundles.
func TestAllowedBundleImages(t *testing.T) {
	objects := template(t, "--set=bundle.allowedImages={a/*,b/*}")
	d, ds := &appsv1.Deployment{}, &appsv1.DaemonSet{}
	apienv.Find(t, objects, "Deployment", d)
	apienv.Find(t, objects, "DaemonSet", ds)
	found := map[string][]string{}
	for _, c := range slices.Concat(d.Spec.Template.Spec.Containers, ds.Spec.Template.Spec.Containers, ds.Spec.Template.Spec.InitContainers) {
		for _, arg := range c.Args {
			if image, is := strings.CutPrefix(arg, "--allowed-bundle-images="); is {
				found[c.Name] = append(found[c.Name], image)
			}
		}
	}
	both := []string{"a/*", "b/*"}
	if want := map[string][]string{"manager": both, "agent": both, "preflight": both}; !maps.EqualFunc(found, want, slices.Equal[[]string]) {
		t.Errorf("got the flags %v, want %v", found, want)
	}
}

// Labels and annotations for Pods cannot take away those that the operator needs.
func TestPodLabelsKeepTheSelector(t *testing.T) {
	objects := template(t, "--set=manager.podLabels.app\\.kubernetes\\.io/component=mine", "--set=agent.podLabels.app\\.kubernetes\\.io/component=mine")
	d, ds := &appsv1.Deployment{}, &appsv1.DaemonSet{}
	apienv.Find(t, objects, "Deployment", d)
	apienv.Find(t, objects, "DaemonSet", ds)
	for kind, got := range map[string]string{"manager": d.Spec.Template.Labels["app.kubernetes.io/component"], "agent": ds.Spec.Template.Labels["app.kubernetes.io/component"]} {
		if got != kind {
			t.Errorf("got the component %q on the Pods, want %q", got, kind)
		}
	}
}

// The flags that the chart gives to agents exist, and the preflight gets the same.
func TestAgentFlags(t *testing.T) {
	ds := &appsv1.DaemonSet{}
	apienv.Find(t, template(t, "--set=podMonitor.enabled=true", "--set=defaultImage.reference=r.example.com/guest:1", "--set=agent.egressClosed={10.9.0.0/16}", "--set=agent.args={--max-bottles=7}"), "DaemonSet", ds)
	spec := ds.Spec.Template.Spec
	for _, container := range []corev1.Container{spec.InitContainers[0], spec.Containers[0]} {
		flags := container.Args
		for i, arg := range flags {
			if arg == "--" {
				flags = flags[i+1:]
				break
			}
		}
		o := &setup.AgentOptions{}
		fs := pflag.NewFlagSet("agent", pflag.ContinueOnError)
		fs.ParseErrorsAllowlist.UnknownFlags = container.Name == "preflight" // it has more
		o.Bind(fs)
		if err := fs.Parse(flags); err != nil {
			t.Errorf("%s: %v", container.Name, err)
		}
		if o.MaxBottles != 7 || o.DefaultImage != "r.example.com/guest:1" || len(o.EgressClosed) != 1 || o.EgressClosed[0] != "10.9.0.0/16" || fs.Lookup("metrics-bind-address").Value.String() != ":9444" {
			t.Errorf("%s: got %v, want the flags of all values", container.Name, container.Args)
		}
	}
}

// The NetworkPolicy admits every port of the managers and lets them connect to the
// port of agents; the monitors name ports that exist.
func TestPortsExist(t *testing.T) {
	objects := template(t, "--set=podMonitor.enabled=true", "--set=serviceMonitor.enabled=true")
	d, ds, policy := &appsv1.Deployment{}, &appsv1.DaemonSet{}, &networkingv1.NetworkPolicy{}
	apienv.Find(t, objects, "Deployment", d)
	apienv.Find(t, objects, "DaemonSet", ds)
	apienv.Find(t, objects, "NetworkPolicy", policy)
	admitted := map[string]bool{}
	for _, rule := range policy.Spec.Ingress {
		for _, port := range rule.Ports {
			admitted[port.Port.StrVal] = true
		}
	}
	manager := map[string]int32{}
	for _, port := range d.Spec.Template.Spec.Containers[0].Ports {
		manager[port.Name] = port.ContainerPort
		if !admitted[port.Name] {
			t.Errorf("the NetworkPolicy does not admit the port %s", port.Name)
		}
		delete(admitted, port.Name)
	}
	if len(admitted) > 0 {
		t.Errorf("the NetworkPolicy admits %v, which the managers do not have", admitted)
	}
	agent := map[string]int32{}
	for _, port := range ds.Spec.Template.Spec.Containers[0].Ports {
		agent[port.Name] = port.ContainerPort
	}
	if agent["access"] != 9443 || !egressTo(policy, agent["access"]) {
		t.Errorf("got the agents' port %d, want one that the NetworkPolicy lets managers connect to", agent["access"])
	}
	for _, o := range objects {
		switch o.GetKind() {
		case "PodMonitor":
			if port := monitored(o, "podMetricsEndpoints"); agent[port] != 9444 {
				t.Errorf("got port %q of the agents, want the one of /metrics", port)
			}
		case "ServiceMonitor":
			if port := monitored(o, "endpoints"); manager[port] != 8443 {
				t.Errorf("got port %q of the managers, want the one of /metrics", port)
			}
		}
	}
}

// egressTo reports whether a policy permits connections to a TCP port.
func egressTo(policy *networkingv1.NetworkPolicy, port int32) bool {
	for _, rule := range policy.Spec.Egress {
		for _, p := range rule.Ports {
			if *p.Port == intstr.FromInt32(port) && *p.Protocol == corev1.ProtocolTCP {
				return true
			}
		}
	}
	return false
}

// monitored returns the name of a monitor's only port.
func monitored(o *unstructured.Unstructured, field string) string {
	endpoints, _, _ := unstructured.NestedSlice(o.Object, "spec", field)
	if len(endpoints) != 1 {
		return ""
	}
	endpoint, _ := endpoints[0].(map[string]any)
	port, _ := endpoint["port"].(string)
	return port
}
