// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFaults(t *testing.T) {
	lost, own := errors.New("lost"), errors.New("own")
	var f Faults
	f.Fail("Ensure", Before, 1, lost)
	f.Fail("Ensure a", After, 1, lost)
	f.Fail("Delete", After, Always, lost)

	var effects []string
	call := func(name string, result error) error {
		return f.around(name, func() error {
			effects = append(effects, name)
			return result
		})
	}
	got := []error{
		call("Ensure b", nil), // fails before its effect
		call("Ensure b", nil), // the other fault is only for a
		call("Ensure a", nil), // fails after its effect
		call("Ensure a", nil), // used up
		call("Delete a", nil),
		call("Delete a", own), // the effect's own error takes precedence
		call("Delete a", nil),
	}
	want := []error{lost, nil, lost, nil, lost, own, lost}
	for i := range want {
		if !errors.Is(got[i], want[i]) || (want[i] == nil && got[i] != nil) {
			t.Errorf("call %d: got %v, want %v", i, got[i], want[i])
		}
	}
	wantEffects := []string{"Ensure b", "Ensure a", "Ensure a", "Delete a", "Delete a", "Delete a"}
	if diff := cmp.Diff(wantEffects, effects); diff != "" {
		t.Errorf("effects (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(append([]string{"Ensure b"}, wantEffects...), f.Calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	f.Fail("Get", Half, 1, lost)
	effects = nil
	record := func(text string) func() error {
		return func() error { effects = append(effects, text); return nil }
	}
	for i, want := range []error{lost, nil} {
		if err := f.aroundSteps("Get a", steps{whole: record("whole"), half: record("half")}); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("half way, call %d: got %v, want %v", i, err, want)
		}
	}
	if diff := cmp.Diff([]string{"half", "whole"}, effects); diff != "" {
		t.Errorf("effects half way (-want +got):\n%s", diff)
	}
	f.Heal()
	f.ResetCalls()
	if err := call("Delete a", nil); err != nil {
		t.Errorf("after Heal: got %v, want nil", err)
	}
	if diff := cmp.Diff([]string{"Delete a"}, f.Calls()); diff != "" {
		t.Errorf("calls after ResetCalls (-want +got):\n%s", diff)
	}
}
