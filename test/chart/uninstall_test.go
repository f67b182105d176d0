// SPDX-License-Identifier: Apache-2.0

package chart_test

import (
	"context"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	guard "botbottle.dev/bottle-operator/controllers/uninstall"
	"botbottle.dev/bottle-operator/test/api/apienv"
	"botbottle.dev/bottle-operator/test/builders"
)

// runHook does what the Job controller and a kubelet do with the hook's Job: it runs what
// its container runs, as its ServiceAccount, and reports how that ended.
func (c *cluster) runHook(ctx context.Context, as client.Client) error {
	job := &batchv1.Job{}
	for {
		err := c.Get(ctx, client.ObjectKey{Namespace: apienv.SystemNamespace, Name: "bottle-uninstall-check"}, job)
		if err == nil && job.Status.StartTime == nil {
			break
		}
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	now := metav1.Now()
	job.Status.StartTime = &now
	end := func(types ...batchv1.JobConditionType) {
		for _, t := range types {
			job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: now})
		}
	}
	checked := guard.Check(ctx, as)
	if checked == nil {
		job.Status.Succeeded, job.Status.CompletionTime = 1, &now
		end(batchv1.JobSuccessCriteriaMet, batchv1.JobComplete)
	} else {
		job.Status.Failed = 1
		end(batchv1.JobFailureTarget, batchv1.JobFailed)
	}
	job.Status.Ready, job.Status.UncountedTerminatedPods = ptr.To(int32(0)), &batchv1.UncountedTerminatedPods{}
	if err := c.Status().Update(ctx, job); err != nil {
		return err
	}
	return checked
}

// Helm deletes nothing while the hook fails, and the hook's role permits what it does.
func TestUninstallIsRefusedWhileBottlesExist(t *testing.T) {
	c := startCluster(t)
	c.mustHelm(t, "helm", "install", release, chartFolder(), "--create-namespace", "--set=networkPolicy.apiServerPorts={"+c.port+"}")
	manager := guard.New(apienv.Client(t, apienv.AsServiceAccount(c.config, "bottle-manager")), apienv.Client(t, apienv.AsServiceAccount(c.config, "bottle-manager")), apienv.SystemNamespace)
	bottle := builders.MakeBottle("used").Namespace("default").Obj()
	must(t, c.Create(t.Context(), bottle))
	must(t, manager.Hold(t.Context()))

	attempt := func() (helm, hook error) {
		ended := make(chan error, 1)
		go func() { ended <- c.runHook(t.Context(), apienv.Client(t, apienv.AsServiceAccount(c.config, "bottle-uninstall-check"))) }()
		_, helm = c.helm(t, "helm", "uninstall", release, "--timeout=3m")
		return helm, <-ended
	}
	helm, hook := attempt()
	if helm == nil || hook == nil || !strings.Contains(hook.Error(), "default/used") || !strings.Contains(hook.Error(), "kubectl delete bottles") {
		t.Fatalf("got %v from Helm and %v from its hook, want a refusal that says what to do", helm, hook)
	}
	for _, o := range template(t) {
		err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o)
		if o.GetName() == "bottle-uninstall-check" && o.GetAnnotations()["helm.sh/hook"] != "" {
			continue
		}
		if err != nil || !o.GetDeletionTimestamp().IsZero() {
			t.Errorf("%s: got %v, deleted at %v, want it untouched", key(o), err, o.GetDeletionTimestamp())
		}
	}

	// No manager runs to remove the mark: the hook does.
	must(t, c.Delete(t.Context(), bottle))
	for range 10 { // until the policy's parameter is up to date
		if helm, hook = attempt(); helm == nil && hook == nil {
			break
		}
		if hook != nil {
			t.Fatalf("without Bottles: got %v from the hook, want it to succeed", hook)
		}
	}
	must(t, helm)
	c.wantGone(t)
	crd := c.crd(t)
	must(t, c.Delete(t.Context(), crd))
	for !apierrors.IsNotFound(c.Get(t.Context(), client.ObjectKeyFromObject(crd), crd)) {
		select {
		case <-t.Context().Done():
			t.Fatal("the CRD is still there")
		case <-time.After(100 * time.Millisecond):
		}
	}
}
