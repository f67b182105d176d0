// SPDX-License-Identifier: Apache-2.0

package plugin_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/utils/ptr"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/plugin"
)

var update = flag.Bool("update", false, "write the golden files anew")

// quoted are the lines that quote the documentation, which changes for its own reasons.
var quoted = regexp.MustCompile(`(?m)^(   (Meaning|What to do): +).+$`)

// golden compares text with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	got = quoted.ReplaceAllString(got, "$1…")
	file := filepath.Join("testdata", name+".out")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it anew):\n%s", file, diff)
	}
}

func TestWhy(t *testing.T) {
	for name, change := range map[string]func(*v1alpha1.Bottle){
		"why-ready": func(*v1alpha1.Bottle) {},
		"why-pulling": func(b *v1alpha1.Bottle) {
			b.Status.Conditions = nil
			set(b, "Scheduled", "True", "Scheduled", "on node-1")
			set(b, "NetworkReady", "True", "Ready", "")
			set(b, "SmolfileReady", "True", "Ready", "")
			set(b, "BundleReady", "True", "Ready", "")
			set(b, "MachineReady", "False", "ErrImagePull", "the registry says \x1b]0;owned\x07 no")
			set(b, "EgressEnforced", "Unknown", "Blocked", "waits")
			set(b, "Ready", "False", "ErrImagePull", "the registry says no")
		},
		"why-finished": func(b *v1alpha1.Bottle) {
			finish(b, "Failed", v1alpha1.WorkloadStatus{ExitCode: ptr.To[int32](42)})
			set(b, "MachineReady", "False", "Failed", "it has ended")
			b.Status.Egress = &v1alpha1.EgressStatus{RecentDenials: []string{"a.example:443"}}
		},
		"why-new": func(b *v1alpha1.Bottle) { b.Status.Conditions = nil },
		"why-stopped": func(b *v1alpha1.Bottle) {
			set(b, "Ready", "True", "Stopped", "the machine is verified to be down")
			set(b, "PendingRestart", "True", "SpecChanged", "spec.env")
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			b := ready("demo")
			change(b)
			c.put(b)
			got := c.bottle("why", "demo")
			if got.code != 0 || got.errOut != "" {
				t.Errorf("got %+v", got)
			}
			golden(t, name, got.out)
		})
	}
}

func TestEgress(t *testing.T) {
	log := strings.Join([]string{
		`{"time":"2026-01-01T00:00:01Z","event":"rules","rules":1,"reason":"loaded"}`,
		`{"time":"2026-01-01T00:00:02Z","decision":"allow","host":"api.example.com","port":443,"reason":"rule api.example.com:443"}`,
		`{"time":"2026-01-01T00:00:03Z","decision":"allow","host":"api.example.com","port":443,"reason":"rule api.example.com:443"}`,
		`{"time":"2026-01-01T00:00:04Z","decision":"deny","host":"pypi.org","port":443,"cause":"no-rule","reason":"no egress rule allows this host and port"}`,
		`{"time":"2026-01-01T00:00:05Z","decision":"deny","host":"git.corp","port":443,"cause":"private-address","address":"10.1.2.3","reason":"address 10.1.2.3 is private, which a rule for a name does not open"}`,
		`{"time":"2026-01-01T00:00:06Z","decision":"deny","host":"169.254.169.254","port":80,"cause":"never","address":"169.254.169.254","reason":"never"}`,
		`{"time":"2026-01-01T00:00:07Z","decision":"deny","host":"evil'; rm -rf /","port":443,"cause":"no-rule","reason":"no\u001b[31m"}`,
		`{"time":"2026-01-01T00:00:08Z","decision":"fail","host":"down.example.com","port":443,"cause":"timeout","reason":"the host does not answer in time"}`,
		`{"time":"2026-01-01T00:00:09Z","decision":"deny","leftOut":7,"reason":"too many decisions to log each"}`,
		`not json`, `{"decision":"other","host":"x"}`, strings.Repeat("x", 100000), `{"decision":"deny"`,
	}, "\n")
	c := newCluster(t)
	b := ready("demo")
	b.Spec.Egress = &v1alpha1.Egress{Allow: []v1alpha1.EgressRule{"api.example.com"}}
	c.put(b)
	c.log = func(_ context.Context, o url.Values, w io.Writer) {
		if o.Get("source") != "Egress" {
			t.Errorf("got %v", o)
		}
		_, _ = io.WriteString(w, log)
	}
	got := c.bottle("egress", "demo")
	if got.code != 0 || got.errOut != "" {
		t.Errorf("got %+v", got)
	}
	golden(t, "egress", got.out)
}

// What the rules of opened hosts decided is shown by rule, and only names of the Bottle's
// own spec are.
func TestEgressOfOpenedHosts(t *testing.T) {
	c := newCluster(t)
	b := ready("demo")
	b.Spec.Env = []v1alpha1.EnvVar{{Name: "DB", ValueFrom: &v1alpha1.EnvVarSource{SecretKeyRef: &v1alpha1.KeySelector{Name: "db", Key: "password"}}}}
	b.Spec.Egress = &v1alpha1.Egress{Rules: []v1alpha1.HTTPRule{{Host: "api.example.com",
		Credential: &v1alpha1.Credential{SecretKeyRef: v1alpha1.SecretKeySelector{Name: "api", Key: "token"}}}}}
	c.put(b)
	c.log = func(_ context.Context, _ url.Values, w io.Writer) {
		_, _ = io.WriteString(w, strings.Join([]string{
			`{"time":"2026-01-01T00:00:02Z","decision":"allow","host":"api.example.com","port":443,"method":"POST","rule":"api.example.com:443","credential":"api/token","reason":"x"}`,
			`{"time":"2026-01-01T00:00:03Z","decision":"allow","host":"api.example.com","port":443,"method":"GET","rule":"made-up-rule","credential":"made-up/credential","reason":"x"}`,
			`{"time":"2026-01-01T00:00:04Z","decision":"deny","host":"api.example.com","port":443,"method":"DELETE","cause":"method-path","reason":""}`,
			`{"time":"2026-01-01T00:00:05Z","decision":"deny","host":"api.example.com","port":443,"method":"made-up","cause":"method-path","reason":""}`,
			`{"time":"2026-01-01T00:00:06Z","decision":"deny","host":"api.example.com","port":443,"method":"POST","cause":"known-secret","secret":"db","key":"password","place":"body","reason":""}`,
			`{"time":"2026-01-01T00:00:07Z","decision":"deny","host":"api.example.com","port":443,"method":"PUT","cause":"known-secret","secret":"made-up","key":"made-up","place":"made-up","reason":""}`,
		}, "\n")+"\n")
	}
	got := c.bottle("egress", "demo")
	if got.code != 0 || got.errOut != "" || strings.Contains(got.out, "made-up") {
		t.Errorf("got %+v", got)
	}
	golden(t, "egress-opened", got.out)
	why := c.bottle("why", "demo")
	for _, want := range []string{"the guest has values of the Secret db in clear (spec.env)", "the bundle does not have the credentials api/token"} {
		if !strings.Contains(why.out, want) {
			t.Errorf("why: got %s, want %q in it", why.out, want)
		}
	}
	if strings.Contains(why.out, "nothing to do") {
		t.Errorf("why: got %s, which says that there is nothing to do and names two things", why.out)
	}
	b.Status.Egress = &v1alpha1.EgressStatus{Credentials: []v1alpha1.CredentialStatus{{SecretName: "api", Key: "token"}}}
	c.put(b)
	if why := c.bottle("why", "demo"); strings.Contains(why.out, "the bundle does not have") {
		t.Errorf("why, with the credential: got %s", why.out)
	}
}

func TestEgressFromStatus(t *testing.T) {
	c := newCluster(t)
	b := ready("demo")
	b.Status.Egress = &v1alpha1.EgressStatus{RecentDenials: []string{"pypi.org:443", "10.0.0.1:80", "api.example.com:443: no rule for GET", "api.example.com:443: no rule for PUT"}, ClosedByPlatform: []string{"10.0.0.1:80: closed by the flag"}}
	c.put(b)
	c.refuse["GET log"] = []metav1.Status{status(403, metav1.StatusReasonForbidden, "you may not read logs")}
	got := c.bottle("egress", "demo")
	if got.code != 0 || !strings.Contains(got.errOut, "you may not read logs") || !strings.Contains(got.out, "pypi.org:443") || !strings.Contains(got.out, "closed by the flag") || !strings.Contains(got.out, "no rule for GET") || !strings.Contains(got.out, "no rule for PUT") || strings.Contains(got.out, `"10.0.0.1:80"`) {
		t.Errorf("got %+v", got)
	}
}

func TestLogs(t *testing.T) {
	for args, want := range map[string]string{
		"":                            "source=Workload",
		"-f -p --timestamps":          "follow=true&previous=true&source=Workload&timestamps=true",
		"--source console --tail 20":  "source=Console&tailLines=20",
		"--since 90s --limit-bytes 9": "limitBytes=9&sinceSeconds=90&source=Workload",
		"--since-time 2026-01-01T02:00:00+02:00 --source bundle": "sinceTime=2026-01-01T00:00:00Z&source=Bundle",
	} {
		c := newCluster(t)
		c.put(ready("demo"))
		var query string
		c.log = func(_ context.Context, o url.Values, w io.Writer) {
			query, _ = url.QueryUnescape(o.Encode())
			fmt.Fprint(w, "raw \x1b[31m output\n")
		}
		got := c.bottle(append([]string{"logs", "demo"}, strings.Fields(args)...)...)
		if got.code != 0 || got.out != "raw \x1b[31m output\n" || query != want {
			t.Errorf("%s: got %+v and %s, want %s", args, got, query, want)
		}
	}
}

func TestProof(t *testing.T) {
	c := newCluster(t)
	c.put(ready("demo"))
	at := metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	c.proof = subresources.BottleProof{
		TypeMeta:  metav1.TypeMeta{APIVersion: "subresources.botbottle.dev/v1alpha1", Kind: "BottleProof"},
		StartTime: at, FinishTime: metav1.NewTime(at.Add(2 * time.Second)), Status: "True", Reason: "BothWalls", Message: "proven",
		Targets: []subresources.ProofTarget{{Address: "192.0.2.1:443", Protocol: "TCP", Expected: "Refused", Observed: "Refused", By: "Canary"}, {Address: "evil\x1b", Protocol: "UDP", Expected: "Refused", Observed: "Unknown"}},
	}
	got := c.bottle("proof", "demo")
	if got.code != 0 {
		t.Errorf("got %+v", got)
	}
	golden(t, "proof", got.out)
	if got := c.bottle("proof", "demo", "-o", "json"); got.code != 0 || !strings.Contains(got.out, `"reason": "BothWalls"`) || strings.Contains(got.out, "\x1b") {
		t.Errorf("got %+v", got)
	}
	c.proof.Status = "Unknown"
	if got := c.bottle("proof", "demo", "-o", "yaml"); got.code != 1 || !strings.Contains(got.out, "kind: BottleProof") || got.errOut != "" {
		t.Errorf("got %+v, want exit code 1 and YAML", got)
	}
}

func TestStopStartRestartRecreate(t *testing.T) {
	c := newCluster(t)
	c.put(ready("a"))
	c.put(ready("b"))
	if got := c.bottle("stop", "a", "b"); got.code != 0 || got.out != "bottle.botbottle.dev/a stopping\nbottle.botbottle.dev/b stopping\n" || c.find("b").Spec.DesiredState != "Stopped" {
		t.Errorf("stop: got %+v", got)
	}
	if got := c.bottle("start", "b"); got.code != 0 || c.find("b").Spec.DesiredState != "Running" || c.find("a").Spec.DesiredState != "Stopped" {
		t.Errorf("start: got %+v", got)
	}
	c.requests = nil
	if got := c.bottle("restart", "a"); got.code != 0 || got.out != "bottle.botbottle.dev/a restarting\n" {
		t.Errorf("restart: got %+v", got)
	}
	if got := c.input("y\n", "recreate", "a"); got.code != 1 || !strings.Contains(got.errOut, "--yes") {
		t.Errorf("recreate without a terminal: got %+v", got)
	}
	if got := c.bottle("recreate", "a", "-y"); got.code != 0 {
		t.Errorf("recreate: got %+v", got)
	}
	if diff := cmp.Diff([]string{"POST restart", "POST recreate"}, c.requests); diff != "" {
		t.Error(diff)
	}
}

func TestList(t *testing.T) {
	c := newCluster(t)
	c.put(ready("demo"))
	if got := c.bottle("list"); got.code != 0 || got.out != "NAME   SLUG\ndemo   demo\n" {
		t.Errorf("got %+v", got)
	}
	if got := c.bottle("list", "demo", "-o", "name"); got.code != 0 || got.out != "bottle.botbottle.dev/demo\n" {
		t.Errorf("got %+v", got)
	}
	if got := c.bottle("list", "absent"); got.code != 1 || !strings.Contains(got.errOut, `"absent" not found`) {
		t.Errorf("got %+v", got)
	}
}

// TestComplete completes as kubectl calls it.
func TestComplete(t *testing.T) {
	c := newCluster(t)
	t.Setenv("KUBECONFIG", c.kubeconfig)
	t.Setenv("HOME", t.TempDir())
	c.put(ready("demo"))
	for line, want := range map[string]string{
		"exec ":                "demo\n:4\n",
		"cp ":                  "demo:\n:2\n",
		"logs demo --source e": "workload\nconsole\nbundle\negress\n:4\n",
		"run x --restart O":    "Never\nOnFailure\nAlways\n:4\n",
		"sto":                  "stop\tStop Bottles and keep their disks\n:4\n",
		"logs demo ":           ":4\n",
		"stop demo ":           ":4\n",
		"exec demo --context ": "x\n:4\n",
	} {
		out := &buffer{}
		code := plugin.Run(plugin.Invocation{
			Args:    append([]string{"/bin/kubectl_complete-bottle"}, strings.Split(line, " ")...),
			Streams: genericiooptions.IOStreams{In: strings.NewReader(""), Out: out, ErrOut: &buffer{}},
		})
		if code != 0 || out.String() != want {
			t.Errorf("%q: got exit code %d and %q, want %q", line, code, out, want)
		}
	}
}

// TestKubeconfigAlone needs nothing but KUBECONFIG.
func TestKubeconfigAlone(t *testing.T) {
	c := newCluster(t)
	t.Setenv("KUBECONFIG", c.kubeconfig)
	c.put(ready("demo"))
	out := &buffer{}
	code := plugin.Run(plugin.Invocation{Args: []string{"kubectl-bottle", "why", "demo"}, Streams: genericiooptions.IOStreams{In: strings.NewReader(""), Out: out, ErrOut: out}})
	if code != 0 || !strings.Contains(out.String(), "The Bottle runs") {
		t.Errorf("got exit code %d and %q", code, out)
	}
}
