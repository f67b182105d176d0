// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTheDocumentListsTheSteps compares docs/reconcile.md with steps.go.
func TestTheDocumentListsTheSteps(t *testing.T) {
	data, err := os.ReadFile("../../docs/reconcile.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("^\\| `([a-z]+)` \\| (?:(?:`([A-Za-z]+)`)? ?\\| )?")
	documented := map[string][]string{}
	section := ""
	for line := range strings.Lines(string(data)) {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			section = strings.TrimSpace(title)
		}
		if m := row.FindStringSubmatch(line); m != nil {
			documented[section] = append(documented[section], strings.TrimSpace(m[1]+" "+m[2]))
		}
	}
	r := &Reconciler{}
	for title, steps := range map[string][]step{
		"Towards a running Bottle": r.steps.converge(), "Towards a stopped Bottle": r.steps.halt(), "Off the node": r.steps.teardown(),
	} {
		var want []string
		for _, s := range steps {
			want = append(want, strings.TrimSpace(s.Name+" "+s.Condition))
		}
		if d := cmp.Diff(want, documented[title]); d != "" {
			t.Errorf("%s (-code +document):\n%s", title, d)
		}
	}
}

// TestTeardownIsTheReverse compares the order of teardown with that of converge.
func TestTeardownIsTheReverse(t *testing.T) {
	r := &Reconciler{}
	made := map[string]string{"adopt": "folder", "network": "network", "bundle": "bundle", "wall": "wall", "machine": "machine"}
	var want, got []string
	for _, s := range slices.Backward(r.steps.converge()) {
		if name, ok := made[s.Name]; ok {
			want = append(want, name)
		}
	}
	for _, s := range r.steps.teardown() {
		got = append(got, s.Name)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("teardown (-reverse +got):\n%s", d)
	}
}
