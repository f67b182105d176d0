// SPDX-License-Identifier: Apache-2.0

package uninstall_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/controllers/uninstall"
	"botbottle.dev/bottle-operator/test/api/apienv"
)

// The steps of this story depend on each other, and they take the CRD away from everybody
// else, so they are one test.
func TestUninstallWithKubectl(t *testing.T) {
	w := newWorld(t)
	w.install("config/default")
	w.start()
	whole := w.installed()
	if got := w.mark(); got != "" {
		t.Fatalf("without Bottles: got the mark %q, want none", got)
	}
	b := w.createBottle("demo")
	w.eventually("the CRD is marked", func() bool { return w.mark() == apienv.SystemNamespace })
	w.waitForPolicy()

	// Twice, because the first attempt takes from the policies what protects them if
	// nothing holds them.
	for attempt := range 2 {
		out, err := w.kubectl("delete", "-k", "config/default")
		if err == nil || !strings.Contains(out, "Delete the Bottles first") {
			t.Fatalf("attempt %d: got %v and %s, want it refused", attempt, err, out)
		}
	}
	var want []object
	for _, o := range whole {
		if o.kind == "APIService" { // nobody serves it here, so it may go
			continue
		}
		if strings.HasPrefix(o.kind, "ValidatingAdmissionPolicy") {
			o.held, o.leaves = true, true
		}
		if o.kind == "ClusterRoleBinding" && o.name == "bottle-manager-environments" || o.kind == "NetworkPolicy" || o.kind == "ResourceQuota" {
			continue // machines do not need it
		}
		want = append(want, o)
	}
	if d := cmp.Diff(want, w.installed(), cmp.AllowUnexported(object{})); d != "" {
		t.Fatalf("after kubectl delete -k, refused twice (-want +got):\n%s", d)
	}

	w.removeBottle(b)
	w.eventually("the policies go, as requested", func() bool { return len(policies(w.installed())) == 0 })
	if got := w.mark(); got != "" {
		t.Errorf("got the mark %q, want none", got)
	}
	if out, err := w.kubectl("delete", "--ignore-not-found", "--wait=false", "-k", "config/uninstall"); err != nil {
		t.Fatalf("got %v: %s, want everything but the CRD deleted", err, out)
	}
	left := w.installed()
	if d := cmp.Diff([]object{{kind: "Namespace", name: apienv.SystemNamespace, leaves: true}, {kind: "CustomResourceDefinition", name: uninstall.CRDName}},
		left, cmp.AllowUnexported(object{})); d != "" {
		t.Errorf("after the removal (-want +got):\n%s", d)
	}
	if out, err := w.kubectl("delete", "-k", "config/crd"); err != nil {
		t.Errorf("delete the CRD: got %v: %s, want it deleted", err, out)
	}
}
