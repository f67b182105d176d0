// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/backoff"
)

// A placeholder ends, with the phase Failed or Succeeded, when a kubelet rejects or evicts
// it, when a node shuts down, or when somebody who may write its status says so. From then
// on neither the scheduler nor a quota counts it, while the machine keeps running. The
// manager therefore creates another one, and removes the ended one only when the new one
// exists. A node under pressure fails each of them, so the pauses between them grow. The
// new Pod records how many ended before it, so a restart of the manager does not shorten
// the pauses.

// annotationFailures, on a placeholder Pod, is how many placeholders of the Bottle ended in
// a row before it.
const annotationFailures = "botbottle.dev/ended-placeholders"

// annotationReplaced, on a placeholder Pod, says that a manager removes the Pod because
// another one takes its place. Admission lets nobody else set it.
const annotationReplaced = "botbottle.dev/replaced"

// beingReplaced reports whether replacePod removes the Pod. Whoever else deletes it then does
// not ask for the end of the machine.
func beingReplaced(pod *corev1.Pod) bool {
	return pod.Annotations[annotationReplaced] != "" && !controllerutil.ContainsFinalizer(pod, v1alpha1.FinalizerMachine)
}

// mostFailures bounds annotationFailures.
const mostFailures = 1000

// reasonOfEnd matches the reasons that kubelets give, such as
// "OutOfbotbottle.dev/bottle". Whoever may write the status of Pods can write any text, and
// other texts are not repeated.
var reasonOfEnd = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9./-]{0,62}$`)

// endOf returns how a Pod ended, for the user to read, or "" if it has not.
func endOf(pod *corev1.Pod) string {
	phase, reason := pod.Status.Phase, pod.Status.Reason
	switch {
	case phase != corev1.PodFailed && phase != corev1.PodSucceeded:
		return ""
	case reasonOfEnd.MatchString(reason):
		return string(phase) + ", " + reason
	}
	return string(phase)
}

// evictions are the reasons of a Pod's condition DisruptionTarget that mean that the Pod
// must leave its node, and what they say about the cause.
var evictions = map[string]string{
	"EvictionByEvictionAPI":  "evicted through the API, as by a drain",
	"PreemptionByScheduler":  "preempted by kube-scheduler",
	"DeletionByTaintManager": "deleted because its node has a NoExecute taint that it does not tolerate",
}

// evictedFrom returns how a Pod that is being deleted was made to leave its node, for the
// user to read. It returns "" if the Pod is not being deleted, or if it ended by itself and
// was deleted only afterwards, as a job that removes failed Pods does: that means nothing
// to the machine.
//
// A kubelet gives a reason when it ends a Pod, but not if it ends the Pod because the Pod is
// being deleted. So a Pod that ended without a reason was evicted if its condition says so,
// or if its container ended after the deletion.
func evictedFrom(pod *corev1.Pod) string {
	if pod.DeletionTimestamp.IsZero() || endOf(pod) != "" && pod.Status.Reason != "" {
		return ""
	}
	for _, c := range pod.Status.Conditions {
		if cause := evictions[c.Reason]; cause != "" && c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return cause
		}
	}
	const deleted = "deleted"
	if endOf(pod) == "" {
		return deleted
	}
	for _, c := range pod.Status.ContainerStatuses {
		if t := c.State.Terminated; t != nil && !t.FinishedAt.IsZero() && !t.FinishedAt.Time.Before(deletedAt(pod)) {
			return deleted
		}
	}
	return ""
}

// deletedAt returns when the deletion of a Pod was requested.
func deletedAt(pod *corev1.Pod) time.Time {
	at := pod.DeletionTimestamp.Time
	if grace := pod.DeletionGracePeriodSeconds; grace != nil {
		at = at.Add(-time.Duration(*grace) * time.Second)
	}
	return at
}

// failuresBefore returns how many placeholders ended in a row before this one.
func failuresBefore(pod *corev1.Pod) int {
	n, err := strconv.Atoi(pod.Annotations[annotationFailures])
	if err != nil {
		return 0
	}
	return min(max(n, 0), mostFailures)
}

// pauseAfter returns how long an ended placeholder of this age must stay before another
// one takes its place, and how many will then have ended in a row. The first one is
// replaced at once, and so is one that lasted: its end says nothing about the next one.
func pauseAfter(failures int, age time.Duration, o Options) (pause time.Duration, next int) {
	switch lasted := 2 * o.LongestPause; {
	case failures == 0, age >= lasted:
		return 0, 1
	default:
		wait := backoff.After(failures, o.FirstPause, o.LongestPause)
		return min(max(wait-age, 0), wait), failures + 1
	}
}

// succeeds reports whether Pod b takes the place of Pod a of the same Bottle. A Pod that
// has not ended takes the place of one that has. Of two that have ended, the later one
// counts. The number of those that ended decides only about Pods of the same second: it
// starts over after a Pod that lasted. Of two that have not ended, the earlier one counts.
// A Pod that is being deleted before it has ended keeps its place, because its deletion
// has a meaning. Times have no fractions of a second, so the names decide last: every pass
// must choose the same Pod.
func succeeds(a, b *corev1.Pod) bool {
	endedA, endedB := endOf(a) != "", endOf(b) != ""
	switch {
	case endedA != endedB:
		return endedA
	case endedA:
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(failuresBefore(a), failuresBefore(b)), cmp.Compare(a.Name, b.Name)) < 0
	case beingReplaced(a) != beingReplaced(b):
		return beingReplaced(a)
	case a.DeletionTimestamp.IsZero() != b.DeletionTimestamp.IsZero():
		return a.DeletionTimestamp.IsZero()
	}
	return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name)) < 0
}

// formerStays explains why a Pod that has ended has the name of the successor. If that is
// because the cache does not show the Pod yet, it returns errStale. Otherwise the Pod is a
// former placeholder that something keeps, and formerStays returns text for the user.
func formerStays(pod *corev1.Pod) (string, error) {
	if pod.DeletionTimestamp.IsZero() {
		return "", errStale
	}
	return fmt.Sprintf("Pod %s has ended too, and is still there: look for what keeps it, such as a finalizer", pod.Name), nil
}

// eviction returns how the placeholder was made to leave its node, or "". What the status
// says already decides about a Pod that has ended and is being deleted: it shows which of
// the two came first.
func (f facts) eviction() string {
	switch reason := scheduledReason(f.bottle); {
	case f.pod == nil || !f.pod.deleting || f.pod.replaced():
		return ""
	case f.pod.ended == "" || reason == v1alpha1.ReasonEvicted:
		return cmp.Or(f.pod.evicted, "deleted")
	case reason == v1alpha1.ReasonPlaceholderEnded:
		return ""
	}
	return f.pod.evicted
}

// unaccepted reports whether the node may reject the placeholder of a Bottle without a
// machine, as it rejected the one before. The agent then creates no machine.
func (f facts) unaccepted() bool {
	return f.pod.failures > 0 && !f.pod.running && f.bottle.Status.Machine == nil
}

// succeedsNow reports whether another Pod takes the place of an ended placeholder in this
// pass.
func (f facts) succeedsNow() bool {
	return f.refusal == "" && !f.namespaceTerminating && f.pod.wait == 0
}

// ended says how a placeholder ended, and what takes its place.
func (f facts) ended() string {
	return fmt.Sprintf("Pod %s has ended (%s): %s", f.pod.name, f.pod.ended, f.successor())
}

// successor says what takes the place of an ended placeholder.
func (f facts) successor() string {
	switch {
	case f.namespaceTerminating:
		return "and no new Pod can be created because the namespace is being deleted"
	case f.refusal != "":
		return f.noNewPod()
	}
	return "and a new Pod takes its place, after a growing pause if it keeps ending"
}
