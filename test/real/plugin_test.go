// SPDX-License-Identifier: Apache-2.0

package real

import (
	"bytes"
	"crypto/rand"
	"os"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/require"
	"botbottle.dev/bottle-operator/test/story"
)

// TestRunOnARealMicroVM runs commands to their end. Each needs a microVM of its own, so
// make test runs one, and make test-long runs all.
func TestRunOnARealMicroVM(t *testing.T) {
	c := story.Connect(t, 12*time.Minute)
	ns := c.Namespace(t)
	runs := []struct {
		name    string
		command []string
		code    int
		end     string // the signal or the exit code in status
		out     string
	}{
		{"ends", []string{"sh", "-c", "echo out; echo err >&2; exit 42"}, 42, "42", "out\n"},
		{"killed", []string{"sh", "-c", "echo out; kill -9 $$"}, 137, "SIGKILL", "out\n"},
		{"absent", []string{"/no/such/command"}, 127, "127", ""},
		{"fills", []string{"sh", "-c", "head -c 100000000 /dev/zero >/run/bottle/out/x; head -c 100000000 /dev/zero >/run/bottle/out/report.json; echo out; exit 3"}, 3, "3", "out\n"},
	}
	if os.Getenv("TEST_LONG") == "" {
		runs = runs[:1]
	}
	for _, tt := range runs {
		t.Run(tt.name, func(t *testing.T) {
			got := c.Bottle(t, nil, append([]string{"run", tt.name, "-n", ns, "--"}, tt.command...)...)
			if got.Code != tt.code || got.Stdout != tt.out {
				t.Errorf("got %+v, want exit code %d and %q", got, tt.code, tt.out)
			}
			if tt.name == "ends" && !strings.Contains(got.Stderr, "\nerr\n") {
				t.Errorf("got the errors %q, want the command's line", got.Stderr)
			}
			b := &v1alpha1.Bottle{}
			if err := c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: tt.name}, b); err != nil {
				t.Fatal(err)
			}
			c.WaitReason(t, b, v1alpha1.ConditionFinished, v1alpha1.ReasonFailed)
			if end := story.EndOf(b); end != tt.end {
				t.Errorf("status.workload: got the end %s, want %s", end, tt.end)
			}
			if logs := c.Bottle(t, nil, "logs", tt.name, "-n", ns); !strings.Contains(logs.Stdout, tt.out) {
				t.Errorf("logs of the finished Bottle: got %+v", logs)
			}
			c.DeleteAndWait(t, b)
		})
	}
}

// TestLongFloodOnARealMicroVM runs a command that prints more than is kept.
func TestLongFloodOnARealMicroVM(t *testing.T) {
	require.Long(t)
	c := story.Connect(t, 12*time.Minute)
	c.WantFloodBounded(t, c.Namespace(t), "flood", 64<<20)
}

func TestLongRunOutlivesTheAgentOfARealMicroVM(t *testing.T) {
	require.Long(t)
	c := story.Connect(t, 12*time.Minute)
	c.WantRunOutlivesAgent(t, c.Namespace(t), "survivor")
}

// TestLongExecOnARealMicroVM sends far more through exec than make test does.
func TestLongExecOnARealMicroVM(t *testing.T) {
	require.Long(t)
	c := story.Connect(t, 12*time.Minute)
	b := builders.MakeBottle("exec").Namespace(c.Namespace(t)).Slug("exec").Obj()
	c.Apply(t, b)
	c.WaitRunning(t, b)
	wantExec(t, c, b, 64<<20)
}

// wantExec checks that exec carries this many bytes both ways, and exit codes. Under
// emulation it carries about 1 MiB per second.
func wantExec(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle, size int) {
	sent := make([]byte, size)
	_, _ = rand.Read(sent) // never fails
	in := []string{"exec", "-n", b.Namespace, "-i", b.Name, "--"}
	begin := time.Now()
	if got := c.Bottle(t, bytes.NewReader(sent), append(in, "cat")...); got.Code != 0 || got.Stdout != string(sent) {
		t.Errorf("cat: got exit code %d, %d bytes and %q, want the %d bytes that were sent", got.Code, len(got.Stdout), got.Stderr, len(sent))
	}
	t.Logf("%d bytes to the guest and back in %s", size, time.Since(begin).Round(time.Millisecond))
	for script, code := range map[string]int{"exit 42": 42, "kill -9 $$": 137} {
		if got := c.Bottle(t, nil, append(in, "sh", "-c", script)...); got.Code != code {
			t.Errorf("%s: got %+v, want exit code %d", script, got, code)
		}
	}
}
