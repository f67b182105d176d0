// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// wantRefused checks that nothing is uninstalled while there is a Bottle, that its machine
// runs on, and that the refusal says what to do.
func (w *world) wantRefused(t *testing.T) {
	out, err := w.helm(t, "uninstall", chart, "--timeout", w.Timeout.String())
	if err == nil {
		t.Fatalf("helm uninstall with Bottles: got success, want a refusal\n%s", out)
	}
	t.Logf("helm uninstall: %v", err)
	for _, args := range [][]string{
		{"delete", "crd", "bottles.botbottle.dev", "--wait=false"},
		{"-n", w.system, "delete", "deployment", "bottle-manager", "--wait=false"},
		{"-n", w.system, "delete", "daemonset", "bottle-agent", "--wait=false"},
	} {
		if out, err := w.Kubectl(nil, args...); err == nil || !strings.Contains(out, "kubectl delete bottles") {
			t.Errorf("kubectl %v: got %v %q, want a refusal that says to delete the Bottles", args, err, out)
		}
	}
	w.wantInstalledObjects(t)
	if !w.vmmRuns(t, w.before.pid) {
		t.Errorf("VMM %s after the refusal: got none, want it to run on", w.before.pid)
	}
}

// wantInstalledObjects checks that the operator is all there.
func (w *world) wantInstalledObjects(t *testing.T) {
	t.Helper()
	for _, component := range []string{"manager", "agent"} {
		if len(w.operatorPods(t, component)) == 0 {
			t.Errorf("after the refusal: got no Pod of the %s, want it to run", component)
		}
	}
}

// uninstall deletes the Bottles and then the chart. Only the CRD may be left, on the API
// server and on the node.
func (w *world) uninstall(t *testing.T) {
	w.mustKubectl(t, "delete", "bottles", "--all", "--all-namespaces", "--timeout", w.Timeout.String())
	w.mustHelm(t, "uninstall", chart, "--timeout", w.Timeout.String())
	w.mustKubectl(t, "delete", "namespace", w.system, "--timeout", w.Timeout.String())
	w.cleanNode(t)
	w.Eventually(t, "nothing but the CRD to be left in the cluster", func() (string, bool) {
		left := w.objectsLeft(t)
		return strings.Join(left, "\n"), slices.Equal(left, []string{
			"apiservice.apiregistration.k8s.io/v1alpha1.botbottle.dev", // the API server makes it for the CRD
			"customresourcedefinition.apiextensions.k8s.io/bottles.botbottle.dev",
		})
	})
	w.Eventually(t, "nothing to be left on the node", func() (string, bool) {
		left := w.leftOnNode(t)
		return left, left == ""
	})
}

// cleanNode runs node-cleanup on the node, with an administrator's kubeconfig.
func (w *world) cleanNode(t *testing.T) {
	t.Helper()
	content, err := os.ReadFile(w.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	const path = "/run/admin.kubeconfig"
	server := strings.TrimSpace(w.Exec(t, node, "sed", "-n", "s/.*server: //p", "/etc/kubelet/kubeconfig"))
	content = regexp.MustCompile(`server: .*`).ReplaceAll(content, []byte("server: "+server))
	w.ExecInput(t, node, content, "sh", "-c", "umask 077 && cat >"+path)
	defer w.Exec(t, node, "rm", path)
	t.Log(w.Exec(t, node, "/opt/bottle-operator/current/bottle-operator", "node-cleanup", "--yes", "--kubeconfig", path, "--node-name", node))
}

// objectsLeft returns the objects of all kinds and namespaces whose names show that they
// are the operator's, and what the Node still says about Bottles.
func (w *world) objectsLeft(t *testing.T) (left []string) {
	t.Helper()
	// Events and requests for certificates are a record of what was, which Kubernetes
	// deletes after an hour; the namespace of the test has Bottles' names in it.
	records := []string{"events", "events.events.k8s.io", "certificatesigningrequests.certificates.k8s.io"}
	for _, namespaced := range []string{"true", "false"} {
		kinds := strings.Fields(w.mustKubectl(t, "api-resources", "--verbs=list", "--namespaced="+namespaced, "-o", "name"))
		kinds = slices.DeleteFunc(kinds, func(kind string) bool { return slices.Contains(records, kind) })
		out := w.mustKubectl(t, "get", strings.Join(kinds, ","), "--all-namespaces="+namespaced, "-o", "name", "--ignore-not-found")
		for line := range strings.FieldsSeq(out) {
			if strings.Contains(line, "bottle") {
				left = append(left, line)
			}
		}
	}
	slices.Sort(left)
	left = slices.Compact(left)
	text := w.mustKubectl(t, "get", "node", node, "-o", "jsonpath={.metadata.labels}{.metadata.annotations}{.status.capacity}")
	if strings.Contains(text, "botbottle.dev") {
		left = append(left, "on the Node: "+text)
	}
	return left
}

// leftOnNode lists what the operator could have left on the node.
func (w *world) leftOnNode(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(w.Exec(t, node, "sh", "-c", `
		for exe in /proc/[0-9]*/exe; do
			case $(readlink "$exe") in *bottle-*|*smolvm*|*krun*) echo "process $exe $(readlink "$exe")" ;; esac
		done
		grep -E 'bottle|smolvm' /proc/mounts | sed 's/^/mount /'
		ip -o link | grep -E ': (bb|bv)-' | sed 's/^/link /'
		ip netns list | grep bottle- | sed 's/^/namespace /'
		nft list tables | grep bottle | sed 's/^/nftables /'
		find /sys/fs/cgroup -type d -name 'bottle*' | sed 's/^/cgroup /'
		ls -d /var/lib/bottle /opt/smolvm /opt/bottle-operator /run/bottle* 2>/dev/null | sed 's/^/file /'
		if [ -z "$DOCKER_HOST" ]; then
			crictl pods --quiet --name bottle | sed 's/^/sandbox /'
			for namespace in $(find /run/netns -name 'cni-*'); do
				nsenter "--net=$namespace" ip -o link | grep -E ': (bb|bv)-' | sed "s/^/link in a Pod's namespace /"
			done
		else
			docker ps -aq --filter label=botbottle.dev/uid | sed 's/^/container /'
			docker network ls -q --filter label=botbottle.dev/uid | sed 's/^/network /'
			docker images -q 'bottle*' | sed 's/^/image /'
		fi
		true`))
}
