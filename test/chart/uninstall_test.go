// SPDX-License-Identifier: Apache-2.0

package chart_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	guard "botbottle.dev/bottle-operator/controllers/uninstall"
	"botbottle.dev/bottle-operator/test/api/apienv"
	"botbottle.dev/bottle-operator/test/builders"
)

// runHook does what the Job controller and a kubelet do with a hook's Job: it runs what
// its container runs, as its ServiceAccount, and reports how that ended.
func (c *cluster) runHook(ctx context.Context, name string, program func(context.Context) error) error {
	job := &batchv1.Job{}
	for {
		err := c.Get(ctx, client.ObjectKey{Namespace: apienv.SystemNamespace, Name: name}, job)
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
	ended := program(ctx)
	if ended == nil {
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
	return ended
}

// uninstall runs Helm, and its hooks with the rights that the chart grants them.
func (c *cluster) uninstall(t *testing.T) (helm, check, finish error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hook := func(name string, program func(context.Context, client.Client) error) <-chan error {
		as := apienv.Client(t, apienv.AsServiceAccount(c.config, name))
		ended := make(chan error, 1)
		go func() { ended <- c.runHook(ctx, name, func(ctx context.Context) error { return program(ctx, as) }) }()
		return ended
	}
	checked := hook("bottle-uninstall-check", guard.Check)
	finished := hook("bottle-uninstall-finish", func(ctx context.Context, as client.Client) error {
		return guard.Finish(ctx, as, apienv.SystemNamespace)
	})
	_, helm = c.helm(t, "helm", "uninstall", release, "--timeout=3m")
	cancel() // those that Helm did not run
	return helm, <-checked, <-finished
}

// publish does what an agent and a manager leave in the cluster.
func (c *cluster) publish(t *testing.T) (node *corev1.Node, others []client.Object) {
	t.Helper()
	node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a", Labels: map[string]string{v1alpha1.LabelAgent: v1alpha1.LabelAgentReady, "kept": "yes"}}}
	must(t, c.Create(t.Context(), node))
	amounts := corev1.ResourceList{v1alpha1.ResourceBottle: resource.MustParse("250"), corev1.ResourceCPU: resource.MustParse("4")}
	node.Status.Capacity, node.Status.Allocatable = amounts, amounts.DeepCopy()
	must(t, c.Status().Update(t.Context(), node))
	for _, name := range []string{"bottle-agent-node-a", "bottle-manager"} {
		others = append(others, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: apienv.SystemNamespace, Name: name}})
	}
	others = append(others, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: apienv.SystemNamespace, Name: "bottle-access-ca"}})
	for _, o := range others {
		must(t, c.Create(t.Context(), o))
	}
	return node, others
}

// Helm deletes nothing while the hook fails, and the hook's role permits what it does.
func TestUninstallIsRefusedWhileBottlesExist(t *testing.T) {
	c := startCluster(t)
	c.mustHelm(t, "helm", "install", release, chartFolder(), "--create-namespace", "--set=networkPolicy.apiServerPorts={"+c.port+"}")
	manager := guard.New(apienv.Client(t, apienv.AsServiceAccount(c.config, "bottle-manager")), apienv.Client(t, apienv.AsServiceAccount(c.config, "bottle-manager")), apienv.SystemNamespace)
	bottle := builders.MakeBottle("used").Namespace("default").Obj()
	must(t, c.Create(t.Context(), bottle))
	must(t, manager.Hold(t.Context()))

	node, others := c.publish(t)
	helm, check, _ := c.uninstall(t)
	if helm == nil || check == nil || !strings.Contains(check.Error(), "default/used") || !strings.Contains(check.Error(), "kubectl delete bottles") {
		t.Fatalf("got %v from Helm and %v from its check, want a refusal that says what to do", helm, check)
	}
	for _, o := range template(t) {
		if isHook(o) {
			continue
		}
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil || !o.GetDeletionTimestamp().IsZero() {
			t.Errorf("%s: got %v, deleted at %v, want it untouched", key(o), err, o.GetDeletionTimestamp())
		}
	}

	// No manager runs to remove the mark: the check does. The API server reads the mark
	// from a cache, so Helm may be a moment too early.
	must(t, c.Delete(t.Context(), bottle))
	for range 10 {
		var finish error
		if helm, check, finish = c.uninstall(t); helm == nil {
			must(t, errors.Join(check, finish))
			break
		}
		must(t, check)
	}
	must(t, helm)
	c.wantGone(t)
	for _, o := range others {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
			t.Errorf("%T %s: got %v, want it gone", o, o.GetName(), err)
		}
	}
	must(t, c.Get(t.Context(), client.ObjectKeyFromObject(node), node))
	_, labelled := node.Labels[v1alpha1.LabelAgent]
	if _, offers := node.Status.Capacity[v1alpha1.ResourceBottle]; labelled || offers || node.Labels["kept"] == "" || node.Status.Capacity.Cpu().Value() != 4 {
		t.Errorf("got the Node's labels %v and capacity %v, want nothing of Bottles in them, and the rest", node.Labels, node.Status.Capacity)
	}
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
