// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/placeholder"
	"botbottle.dev/bottle-operator/test/builders"
)

// inItsPod makes the bundle of a Bottle run in its placeholder.
func inItsPod(b *builders.Bottle) *builders.Bottle {
	b.Status.Bundle = &v1alpha1.BundleStatus{Name: "bottle-a", Runtime: ptr.To(v1alpha1.BundleRuntimePod)}
	return b
}

// A machine whose bundle runs in the placeholder is never ended by replacing that.
func TestDecideInPod(t *testing.T) {
	placed := func() *builders.Bottle { return builders.MakeBottle("a").On("node-a").Booked(4, "1Gi") }
	reports := func(b *builders.Bottle, condition, reason string) *v1alpha1.Bottle {
		return b.Condition(metav1.Condition{Type: condition, Status: metav1.ConditionFalse, Reason: reason}).Obj()
	}
	running := inItsPod(placed()).Obj()
	awaiting := reports(inItsPod(placed()), v1alpha1.ConditionBundleReady, v1alpha1.ReasonPodOutdated)
	// The spec has changed since, perhaps more than once.
	since := func(b *v1alpha1.Bottle) *v1alpha1.Bottle {
		b = b.DeepCopy()
		b.Generation += 2
		return b
	}
	stopped := reports(inItsPod(placed()), v1alpha1.ConditionMachineReady, v1alpha1.ReasonStopped)
	docker := reports(placed(), v1alpha1.ConditionBundleReady, v1alpha1.ReasonPodOutdated)
	sound := &podFacts{name: "bottle-a", node: "node-a"}
	outdated := &podFacts{name: "bottle-a", node: "node-a", outdated: "o"}
	unbooked := &podFacts{name: "bottle-a", node: "node-a", unbooked: "u"}
	twice := &podFacts{name: "bottle-a", node: "node-a", twice: "t"}
	ended := &podFacts{name: "bottle-a", node: "node-a", ended: "Failed, Evicted"}
	tests := map[string]struct {
		facts   facts
		want    podAction
		message string // part of Scheduled's
	}{
		"another spec.bundle, machine runs":    {facts{bottle: running, pod: outdated}, "", ""},
		"another spec.bundle, awaited":         {facts{bottle: awaiting, pod: outdated}, podReplace, ""},
		"another spec.bundle, awaited again":   {facts{bottle: awaiting, pod: &podFacts{node: "node-a", outdated: "o", wait: 1}}, "", ""},
		"another spec.bundle, image forbidden": {facts{bottle: awaiting, pod: outdated, refusal: "no", forbidden: true}, "", ""},
		"another spec.bundle, being deleted":   {facts{bottle: awaiting, pod: &podFacts{node: "node-a", outdated: "o", deleting: true}}, "", "before the Bottle goes elsewhere"},
		"another spec.bundle, in docker":       {facts{bottle: docker, pod: outdated}, "", ""},
		"another spec.bundle, awaited before":  {facts{bottle: since(awaiting), pod: outdated}, "", ""},
		"books too little, awaited before":     {facts{bottle: since(awaiting), pod: unbooked}, "", "once the Bottle is stopped"},
		"books too little, stopped before":     {facts{bottle: since(stopped), pod: unbooked}, "", "once the Bottle is stopped"},
		"runs the bundle of docker":            {facts{bottle: docker, pod: twice}, podReplace, ""},
		"runs the bundle of docker again":      {facts{bottle: docker, pod: &podFacts{node: "node-a", twice: "t", wait: 1}}, "", ""},
		"current spec.bundle, awaited":         {facts{bottle: awaiting, pod: sound}, "", ""},
		"books too little, machine runs":       {facts{bottle: running, pod: unbooked}, "", "once the Bottle is stopped"},
		"books too little, stopped":            {facts{bottle: stopped, pod: unbooked}, podReplace, ""},
		"books too little, awaited":            {facts{bottle: awaiting, pod: unbooked}, podReplace, ""},
		"books too little, in docker":          {facts{bottle: docker, pod: unbooked}, podReplace, ""},
		"ended":                                {facts{bottle: running, pod: ended}, podCreate, "the machine ended with it"},
		"ended, in docker":                     {facts{bottle: docker, pod: ended}, podCreate, "the machine keeps running"},
		"gone":                                 {facts{bottle: running}, podCreate, ""},
		"gone, image forbidden":                {facts{bottle: running, refusal: "no", forbidden: true}, "", "no new one is created: no"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.facts.desired = desiredPod{resources: v1alpha1.ResourcesStatus{CPUs: 2, Memory: resource.MustParse("1Gi")}}
			d := decide(tc.facts)
			if got := d.status.asserted[0].Message; d.pod != tc.want || !strings.Contains(got, tc.message) {
				t.Errorf("got %q and message %q, want %q and %q in it", d.pod, got, tc.want, tc.message)
			}
		})
	}
}

// No Pod is created, or left waiting, for an image that is not allowed.
func TestDecideForbiddenImage(t *testing.T) {
	denied := []string{"Scheduled False BundleImageNotAllowed", "Ready False BundleImageNotAllowed"}
	for name, tc := range map[string]struct {
		pod  *podFacts
		want outcome
	}{
		"new":     {nil, outcome{CPUs: 2, Conditions: denied}},
		"waiting": {&podFacts{digest: "d"}, outcome{Pod: podRemove}},
		"bound":   {&podFacts{digest: "d", node: "node-a"}, outcome{Pod: podRemove}},
		"ended":   {&podFacts{digest: "d", ended: "Failed"}, outcome{Pod: podRemove}},
	} {
		t.Run(name, func(t *testing.T) {
			f := facts{bottle: builders.MakeBottle("a").Obj(), pod: tc.pod, refusal: forbiddenImage("x"), forbidden: true,
				desired: desiredPod{resources: v1alpha1.ResourcesStatus{CPUs: 2}, digest: "d"}}
			if diff := cmp.Diff(tc.want, outcomeOf(decide(f))); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOutdated(t *testing.T) {
	b := builders.MakeBottle("a").UID("1a2b3c4d-0000-4000-8000-000000000000").Obj()
	options := DefaultOptions().Options
	options.BundleImage = "x"
	pod, err := placeholder.Render(b, placeholder.Resources(b, options), "", options)
	if err != nil {
		t.Fatal(err)
	}
	slim, err := slimPod(pod)
	if err != nil {
		t.Fatal(err)
	}
	pod = slim.(*corev1.Pod)
	if got := outdatedOf(pod, b); got != "" {
		t.Errorf("got %q, want none for a new Pod as the cache holds it", got)
	}
	b.Spec.Bundle = &v1alpha1.Bundle{Ports: []int32{9418}}
	if got := outdatedOf(pod, b); !strings.Contains(got, "spec.bundle") {
		t.Errorf("got %q, want spec.bundle", got)
	}
	pod.Spec.Containers[0].Name = "placeholder"
	if got := outdatedOf(pod, b); !strings.Contains(got, "earlier manager") {
		t.Errorf("got %q, want an earlier manager", got)
	}
}

func TestExplainRefusal(t *testing.T) {
	pods := errors.New(`pods "a" is forbidden: violates PodSecurity "restricted:latest"`)
	foreign, builtIn := builders.MakeBottle("a").BundleImage("x").Obj(), builders.MakeBottle("a").Obj()
	if got := explainRefusal(foreign, pods); !strings.HasPrefix(got, pods.Error()) || !strings.Contains(got, "enforce=baseline") {
		t.Errorf("got %q, want the answer and what to do", got)
	}
	for _, got := range []string{explainRefusal(builtIn, pods), explainRefusal(foreign, errors.New("quota"))} {
		if strings.Contains(got, "baseline") {
			t.Errorf("got %q, want only the answer", got)
		}
	}
}
