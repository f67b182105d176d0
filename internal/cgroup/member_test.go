// SPDX-License-Identifier: Apache-2.0

package cgroup

import "testing"

func TestBelow(t *testing.T) {
	for text, want := range map[string]string{
		"0::/kubepods/podabc/cri\n":                      "kubepods/podabc/cri",
		"4:memory:/x\n0::/kubepods/podabc/cri (deleted)": "kubepods/podabc/cri",
		"0::/\n":                    "",
		"0::/../outside\n":          "none",
		"4:memory:/kubepods/pod/\n": "none",
		"":                          "none",
	} {
		got, ok := hierarchy{mount: "/sys/fs/cgroup", root: "/"}.below(text)
		if ok != (want != "none") || ok && got != want {
			t.Errorf("%q: got %q, %v, want %q", text, got, ok, want)
		}
	}
	if got, ok := (hierarchy{root: "/machine"}).below("0::/machine/kubepods/pod\n"); got != "kubepods/pod" || !ok {
		t.Errorf("in a mounted part: got %q, %v, want kubepods/pod", got, ok)
	}
	if got, ok := (hierarchy{root: "/machine"}).below("0::/other/pod\n"); ok {
		t.Errorf("outside the mounted part: got %q, want none", got)
	}
}
