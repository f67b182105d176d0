// SPDX-License-Identifier: Apache-2.0

package plugin_test

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/plugin/archive"
)

// finish ends the workload.
func finish(b *v1alpha1.Bottle, reason string, load v1alpha1.WorkloadStatus) {
	now := metav1.Now()
	load.FinishTime = &now
	b.Status.Workload = &load
	set(b, "Finished", "True", reason, "it has ended")
	if reason != "Completed" {
		set(b, "Stalled", "True", reason, "it has ended")
		set(b, "Ready", "False", reason, "it has ended")
	}
}

// operate plays the operator for a Bottle that was created: its machine runs, its command
// prints lines and ends.
func operate(c *cluster, reason string, load v1alpha1.WorkloadStatus, lines ...string) {
	c.changed = func(b *v1alpha1.Bottle) {
		if len(b.Status.Conditions) == 0 {
			c.change(b.Name, func(b *v1alpha1.Bottle) { b.Status = ready(b.Name).Status })
		}
	}
	c.log = func(_ context.Context, _ url.Values, w io.Writer) {
		for i, line := range lines {
			fmt.Fprintf(w, "2026-01-01T00:00:%02d.000000001Z %s\n", i, line)
		}
		c.change("job", func(b *v1alpha1.Bottle) { finish(b, reason, load) })
	}
}

func TestRun(t *testing.T) {
	for name, tt := range map[string]struct {
		reason string
		load   v1alpha1.WorkloadStatus
		want   int
		errOut string
	}{
		"success":       {"Completed", v1alpha1.WorkloadStatus{ExitCode: ptr.To[int32](0)}, 0, ""},
		"exit code":     {"Failed", v1alpha1.WorkloadStatus{ExitCode: ptr.To[int32](42)}, 42, "command terminated with exit code 42"},
		"signal":        {"Failed", v1alpha1.WorkloadStatus{Signal: ptr.To("SIGKILL")}, 137, "command terminated by SIGKILL"},
		"other signal":  {"Failed", v1alpha1.WorkloadStatus{Signal: ptr.To("SIG40")}, 168, "command terminated by SIG40"},
		"machine lost":  {"Failed", v1alpha1.WorkloadStatus{}, 1, "it has ended"},
		"took too long": {"DeadlineExceeded", v1alpha1.WorkloadStatus{Signal: ptr.To("SIGTERM")}, 124, "took too long"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			operate(c, tt.reason, tt.load, "stdout F out", "stderr F err", "stdout P par", "stdout F tial", "system F run 1", "nonsense")
			got := c.bottle("run", "job", "--image", "example/agent:1", "--", "sh", "-c", "exit 42")
			if got.code != tt.want || got.out != "out\npartial\n" {
				t.Errorf("got %+v, want exit code %d", got, tt.want)
			}
			for _, want := range []string{"bottle.botbottle.dev/job created\n", "MachineReady    Ready: it is so\n", "EgressEnforced  Ready", "err\n", tt.errOut} {
				if !strings.Contains(got.errOut, want) {
					t.Errorf("got stderr %q, want %q", got.errOut, want)
				}
			}
			if quiet := newQuiet(t, tt.reason, tt.load); !strings.HasPrefix(quiet.errOut, "err\n") || strings.Contains(quiet.errOut, "created") {
				t.Errorf("got stderr %q with --quiet", quiet.errOut)
			}
		})
	}
}

func newQuiet(t *testing.T, reason string, load v1alpha1.WorkloadStatus) call {
	c := newCluster(t)
	operate(c, reason, load, "stderr F err")
	return c.bottle("run", "job", "-q", "--", "x")
}

func TestRunSpec(t *testing.T) {
	c := newCluster(t)
	t.Setenv("FROM_HERE", "local")
	operate(c, "Completed", v1alpha1.WorkloadStatus{})
	got := c.bottle("run", "job", "--image", "i:1", "--env", "A=b=c", "--env", "FROM_HERE", "--env", "UNSET_HERE", "--env-from-secret", "llm:KEY=VAR", "--env-from-secret", "llm:OTHER", "--env-from-secret", "all",
		"--allow", "a.example", "--allow", "b.example:8443", "--timeout", "90s", "--cpus", "2", "--memory", "1Gi", "--restart", "OnFailure", "--image-pull-secret", "pull", "--", "sh", "-c", "x")
	if got.code != 0 {
		t.Fatalf("got %+v", got)
	}
	secret := func(variable, name, key string) v1alpha1.EnvVar {
		return v1alpha1.EnvVar{Name: variable, ValueFrom: &v1alpha1.EnvVarSource{SecretKeyRef: &v1alpha1.KeySelector{Name: name, Key: key}}}
	}
	want := v1alpha1.BottleSpec{
		Slug: "job", Image: ptr.To("i:1"), Command: []string{"sh", "-c", "x"}, RestartPolicy: "OnFailure", Stdin: "Closed",
		ImagePullSecrets: []v1alpha1.LocalObjectReference{{Name: "pull"}},
		Env: []v1alpha1.EnvVar{{Name: "A", Value: ptr.To("b=c")}, {Name: "FROM_HERE", Value: ptr.To("local")},
			secret("VAR", "llm", "KEY"), secret("OTHER", "llm", "OTHER"), secret("TOKEN", "all", "TOKEN"), secret("USER", "all", "USER")},
		Egress:   &v1alpha1.Egress{Allow: []v1alpha1.EgressRule{"a.example", "b.example:8443"}},
		Lifetime: &v1alpha1.Lifetime{ActiveDeadlineSeconds: ptr.To[int64](90)},
		Machine:  &v1alpha1.Machine{CPUs: ptr.To[int32](2)},
	}
	have := c.find("job").Spec
	if have.Machine == nil || have.Machine.Memory.String() != "1Gi" {
		t.Errorf("got machine %+v", have.Machine)
	} else {
		have.Machine.Memory = nil
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
}

func TestRunSlug(t *testing.T) {
	for name, want := range map[string]string{
		"fix-1": "fix-1", "a.b--c": "a-b-c", strings.Repeat("ab-", 20) + "x": strings.Repeat("ab-", 13) + "a", "x" + strings.Repeat("-y", 30): "x" + strings.Repeat("-y", 19),
	} {
		c := newCluster(t)
		operate(c, "Completed", v1alpha1.WorkloadStatus{})
		c.log = func(context.Context, url.Values, io.Writer) {
			c.change(name, func(b *v1alpha1.Bottle) { finish(b, "Completed", v1alpha1.WorkloadStatus{}) })
		}
		if got := c.bottle("run", name, "--", "x"); got.code != 0 || c.find(name).Spec.Slug != want {
			t.Errorf("%s: got %+v and slug %q, want %q", name, got, c.find(name).Spec.Slug, want)
		}
	}
}

// TestRunFailsOnTheWay ends with exit code 1 and says what to do.
func TestRunFailsOnTheWay(t *testing.T) {
	for name, tt := range map[string]struct {
		refuse []metav1.Status
		change func(*v1alpha1.Bottle)
		args   []string
		want   []string
	}{
		"refused at admission": {refuse: []metav1.Status{status(422, metav1.StatusReasonInvalid, `Bottle "job" is invalid: spec.egress.allow[0]: no`)}, want: []string{"invalid"}},
		"no quota":             {refuse: []metav1.Status{status(403, metav1.StatusReasonForbidden, `exceeded quota: bottles`)}, want: []string{"exceeded quota"}},
		"exists":               {refuse: []metav1.Status{status(409, metav1.StatusReasonAlreadyExists, `"job" already exists`)}, want: []string{"already exists", "choose another name"}},
		"stalled": {change: func(b *v1alpha1.Bottle) {
			set(b, "MachineReady", "False", "InvalidImageName", "no such\x1b[2J name")
			set(b, "Stalled", "True", "InvalidImageName", "no such\x1b[2J name")
		}, want: []string{`stalled (InvalidImageName): no such\x1b[2J name`, "What to do: Stalled."}},
		"image cannot be pulled": {change: func(b *v1alpha1.Bottle) {
			set(b, "Scheduled", "True", "Scheduled", "on node-1")
			set(b, "MachineReady", "False", "ErrImagePull", "the registry refuses")
		}, args: []string{"--start-timeout", "300ms"}, want: []string{"the machine is not running after 300ms: ErrImagePull: the registry refuses", "What to do: "}},
		"no node": {change: func(b *v1alpha1.Bottle) { set(b, "Scheduled", "False", "Unschedulable", "0/3 nodes") },
			args: []string{"--start-timeout", "300ms"}, want: []string{"Scheduled       Unschedulable: 0/3 nodes", "What to do: "}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.refuse["POST"] = tt.refuse
			c.changed = func(b *v1alpha1.Bottle) {
				if len(b.Status.Conditions) == 0 && tt.change != nil {
					c.change(b.Name, tt.change)
				}
			}
			got := c.bottle(append(append([]string{"run", "job"}, tt.args...), "--", "x")...)
			if got.code != 1 || got.out != "" {
				t.Errorf("got %+v, want exit code 1", got)
			}
			for _, want := range tt.want {
				if !strings.Contains(got.errOut, want) {
					t.Errorf("got %q, want %q", got.errOut, want)
				}
			}
		})
	}
}

// TestRunReconnects loses the log in the middle, twice.
func TestRunReconnects(t *testing.T) {
	c := newCluster(t)
	operate(c, "", v1alpha1.WorkloadStatus{})
	var calls atomic.Int32
	line := func(w io.Writer, second int, text string) {
		fmt.Fprintf(w, "2026-01-01T00:00:%02d.5Z stdout F %s\n", second, text)
	}
	c.refuse["GET log"] = []metav1.Status{status(503, metav1.StatusReasonServiceUnavailable, "starting")}
	c.log = func(_ context.Context, o url.Values, w io.Writer) {
		switch n := calls.Add(1); n {
		case 1:
			line(w, 1, "a")
			line(w, 2, "b1")
			line(w, 2, "b2")
		default:
			if want := map[bool]string{true: "2026-01-01T00:00:02Z", false: "2026-01-01T00:00:03Z"}[n < 4]; o.Get("sinceTime") != want {
				t.Errorf("got sinceTime %q", o.Get("sinceTime"))
			}
			line(w, 2, "b1")
			line(w, 2, "b2")
			if n > 2 {
				line(w, 2, "b3")
				fmt.Fprintln(w, "0001-01-01T00:00:00Z system F dropped 7 bytes")
				line(w, 3, "c")
				c.change("job", func(b *v1alpha1.Bottle) { finish(b, "Completed", v1alpha1.WorkloadStatus{}) })
			}
		}
	}
	got := c.bottle("run", "job", "--", "x")
	if !strings.Contains(got.errOut, "[dropped 7 bytes]\n") {
		t.Errorf("got stderr %q", got.errOut)
	}
	if got.code != 0 || got.out != "a\nb1\nb2\nb3\nc\n" {
		t.Errorf("got %+v", got)
	}
}

// TestRunCopies copies in before the command starts, and out after it has failed.
func TestRunCopies(t *testing.T) {
	guestRoot := t.TempDir()
	c := newCluster(t)
	var started atomic.Bool
	c.changed = func(b *v1alpha1.Bottle) {
		_, held := b.Annotations[v1alpha1.AnnotationHold]
		if len(b.Status.Conditions) == 0 {
			if !held {
				t.Error("the Bottle was created without the hold")
			}
			c.change(b.Name, func(b *v1alpha1.Bottle) { b.Status = ready(b.Name).Status })
		}
		if !held {
			started.Store(true)
		}
	}
	c.guest = tarGuest(guestRoot, func(s *session) {
		if in := s.command[1] == "tar-in"; in == started.Load() {
			t.Errorf("%q while the command has started: %t", s.command, started.Load())
		}
	})
	c.log = func(context.Context, url.Values, io.Writer) {
		_ = os.WriteFile(filepath.Join(guestRoot, "work/made"), []byte("by the agent"), 0o600)
		_ = os.Remove(filepath.Join(guestRoot, "work/a"))
		c.change("job", func(b *v1alpha1.Bottle) { finish(b, "Failed", v1alpha1.WorkloadStatus{ExitCode: ptr.To[int32](9)}) })
	}
	local, out := t.TempDir(), filepath.Join(t.TempDir(), "result")
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(local, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := c.bottle("run", "job", "--copy-in", local+":/work", "--copy-out", "/work:"+out, "--", "x")
	if got.code != 9 {
		t.Errorf("got %+v", got)
	}
	for name, want := range map[string]string{"b": "b", "made": "by the agent"} {
		if data, err := os.ReadFile(filepath.Join(out, name)); string(data) != want {
			t.Errorf("%s: got %q, %v, want %q", name, data, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(out, "a")); err == nil {
		t.Error("a came back, although the command removed it")
	}
	if q := c.sessions[1].query; q.Get("purpose") != "Files" {
		t.Errorf("got %v", q)
	}
}

// tarGuest is a guest whose files are below root, with the program that copies.
func tarGuest(root string, seen func(*session)) func(*session) int {
	return func(s *session) int {
		if s.command[0] != "/run/bottle/in/bottle-guest" {
			return 127
		}
		seen(s)
		target := filepath.Join(root, s.command[2])
		var err error
		if s.command[1] == "tar-out" {
			err = archive.Pack(context.Background(), s.out, target, filepath.Base(target), func(string, string) {})
		} else {
			_ = os.MkdirAll(filepath.Dir(target), 0o700)
			in := s.in
			if strings.HasSuffix(s.command[2], "/") {
				// As tar-in does: the entries are put into the folder.
				in, err = below(s.in)
			}
			if err == nil {
				_, err = archive.Unpack(context.Background(), in, target, archive.DefaultLimits, func(string, string) {})
			}
		}
		if err != nil {
			fmt.Fprintln(s.err, err)
			return 1
		}
		return 0
	}
}

func TestRunRemoves(t *testing.T) {
	c := newCluster(t)
	operate(c, "Failed", v1alpha1.WorkloadStatus{ExitCode: ptr.To[int32](3)}, "stdout F x")
	got := c.bottle("run", "job", "--rm", "--", "x")
	if got.code != 3 || c.find("job") != nil {
		t.Errorf("got %+v, and the Bottle is there: %t", got, c.find("job") != nil)
	}
}

func TestRunInterrupted(t *testing.T) {
	for name, remove := range map[string]bool{"stops": false, "deletes with --rm": true} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			operate(c, "", v1alpha1.WorkloadStatus{})
			created := c.changed
			c.changed = func(b *v1alpha1.Bottle) {
				created(b)
				if b.Spec.DesiredState == "Stopped" {
					c.change("job", func(b *v1alpha1.Bottle) { set(b, "Ready", "True", "Stopped", "it is down") })
				}
			}
			begun := make(chan struct{})
			c.log = func(ctx context.Context, _ url.Values, w io.Writer) {
				close(begun)
				<-ctx.Done()
			}
			signals := make(chan os.Signal, 2)
			args := []string{"run", "job"}
			if remove {
				args = append(args, "--rm")
			}
			r := c.start(strings.NewReader(""), signals, append(args, "--", "x")...)
			<-begun
			signals <- syscall.SIGINT
			if got := r.wait(t); got.code != 130 {
				t.Errorf("got %+v, want exit code 130", got)
			}
			b := c.find("job")
			if remove && b != nil || !remove && (b == nil || b.Spec.DesiredState != "Stopped") {
				t.Errorf("got %+v", b)
			}
		})
	}
}

// TestRunLeavesAtOnce gets a second signal while the Bottle does not stop.
func TestRunLeavesAtOnce(t *testing.T) {
	c := newCluster(t)
	operate(c, "", v1alpha1.WorkloadStatus{})
	begun := make(chan struct{})
	c.log = func(ctx context.Context, _ url.Values, w io.Writer) {
		close(begun)
		<-ctx.Done()
	}
	signals := make(chan os.Signal, 2)
	r := c.start(strings.NewReader(""), signals, "run", "job", "--", "x")
	<-begun
	signals <- syscall.SIGTERM
	signals <- syscall.SIGTERM
	if got := r.wait(t); got.code != 143 {
		t.Errorf("got %+v, want exit code 143", got)
	}
}

func TestRunWithInput(t *testing.T) {
	c := newCluster(t)
	operate(c, "", v1alpha1.WorkloadStatus{})
	c.refuse["GET attach"] = []metav1.Status{status(409, metav1.StatusReasonConflict, "not yet")}
	c.refuse["POST attach"] = []metav1.Status{status(409, metav1.StatusReasonConflict, "not yet")}
	c.guest = func(s *session) int {
		in, _ := io.ReadAll(s.in)
		fmt.Fprintf(s.out, "got %s", in)
		c.change("job", func(b *v1alpha1.Bottle) { finish(b, "Failed", v1alpha1.WorkloadStatus{ExitCode: ptr.To[int32](4)}) })
		return 4
	}
	got := c.input("hello", "run", "job", "-i", "--", "cat")
	if got.code != 4 || got.out != "got hello" || c.find("job").Spec.Stdin != "Open" {
		t.Errorf("got %+v, stdin %s", got, c.find("job").Spec.Stdin)
	}
}

func TestRunDeletedMeanwhile(t *testing.T) {
	c := newCluster(t)
	operate(c, "", v1alpha1.WorkloadStatus{})
	c.log = func(ctx context.Context, _ url.Values, _ io.Writer) {
		c.mu.Lock()
		delete(c.bottles, "job")
		close(c.news)
		c.news = make(chan struct{})
		c.mu.Unlock()
		<-ctx.Done()
	}
	if got := c.bottle("run", "job", "--", "x"); got.code != 1 || !strings.Contains(got.errOut, "the Bottle was deleted") {
		t.Errorf("got %+v", got)
	}
}
