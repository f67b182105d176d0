// SPDX-License-Identifier: Apache-2.0

package devcluster

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A value that no cluster can have is refused before anything is installed or built.
func TestVariables(t *testing.T) {
	tests := map[string]struct {
		env  []string
		want string
	}{
		"machines":           {[]string{"MACHINES=foo"}, "MACHINES=foo: want real or standin"},
		"kubelet":            {[]string{"KUBELET=foo"}, "KUBELET=foo: want real or simulated"},
		"bundle runtime":     {[]string{"KUBELET=real", "BUNDLE_RUNTIME=foo"}, "BUNDLE_RUNTIME=foo: want pod or docker"},
		"nodes":              {[]string{"NODES=x"}, "NODES=x: want a number from 1"},
		"no nodes":           {[]string{"NODES=0"}, "NODES=0: want a number from 1"},
		"kubelet, stand-ins": {[]string{"KUBELET=real", "MACHINES=standin"}, "a real kubelet needs MACHINES=real"},
		"Pods, no kubelet":   {[]string{"BUNDLE_RUNTIME=pod"}, "bundles in Pods need KUBELET=real"},
	}
	// With these programs alone, the script can neither install nor build anything.
	programs := t.TempDir()
	for _, name := range []string{"bash", "dirname"} {
		path, err := exec.LookPath(name)
		if err == nil {
			err = os.Symlink(path, filepath.Join(programs, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "../../hack/prepare")
			cmd.Env = append([]string{"PATH=" + programs}, tt.env...)
			out, err := cmd.CombinedOutput()
			exit := (*exec.ExitError)(nil)
			if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.HasSuffix(strings.TrimSpace(string(out)), tt.want) || strings.Count(string(out), "\n") != 1 {
				t.Errorf("got %v and %q, want exit code 2 and one line that ends with %q", err, out, tt.want)
			}
		})
	}
}
