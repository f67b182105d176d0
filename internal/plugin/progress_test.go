// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// TestProgress checks that each change is shown once, and that a pull that keeps failing for
// the same reason is shown once, too.
func TestProgress(t *testing.T) {
	var out strings.Builder
	p, b := newProgress(&out), &v1alpha1.Bottle{}
	for _, c := range []metav1.Condition{
		{Status: metav1.ConditionFalse, Reason: "ErrImagePull", Message: "no such host"},
		{Status: metav1.ConditionFalse, Reason: "ImagePullBackOff", Message: "no such host"},
		{Status: metav1.ConditionFalse, Reason: "ErrImagePull", Message: "no such host"},
		{Status: metav1.ConditionFalse, Reason: "ImagePulling", Message: "1 of 2 layers"},
		{Status: metav1.ConditionFalse, Reason: "ImagePulling", Message: "2 of 2 layers"},
		{Status: metav1.ConditionTrue, Reason: "MachineRunning", Message: "it runs"},
	} {
		c.Type = v1alpha1.ConditionMachineReady
		meta.SetStatusCondition(&b.Status.Conditions, c)
		p.show(b)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		if text, ok := strings.CutPrefix(line, v1alpha1.ConditionMachineReady); ok {
			got = append(got, strings.TrimSpace(text))
		}
	}
	want := []string{"ErrImagePull: no such host", "ImagePulling: 1 of 2 layers", "MachineRunning: it runs"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
