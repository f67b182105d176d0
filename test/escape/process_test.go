// SPDX-License-Identifier: Apache-2.0

package escape

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/story"
)

//go:embed testdata/argv.py
var argvPy string

// guardWait is long enough for several checks by the guard.
const guardWait = 5 * time.Second

// testProcesses checks that a VMM is identified by its cgroup. Its command line, which
// anybody can forge, neither makes a process a VMM nor hides one.
func testProcesses(t *testing.T, s *site) {
	ns := s.Namespace(t)
	b := builders.MakeBottle("seen").Namespace(ns).Pin(node).CPUs(1).Obj()
	s.Apply(t, b)
	s.WaitFor(t, b, "to run", func() bool { return running(b) })
	lookAlike := s.lookAlike(t, b)
	t.Run("an unprivileged look-alike changes nothing", func(t *testing.T) {
		pid, restarts := pidOf(b), ptr.Deref(b.Status.Machine.Restarts, 0)
		time.Sleep(guardWait)
		s.wantAlive(t, "the machine", pid, true)
		s.wantAlive(t, "the look-alike", lookAlike, true)
		s.WaitFor(t, b, "to run", func() bool { return running(b) })
		if pidOf(b) != pid || ptr.Deref(b.Status.Machine.Restarts, 0) != restarts {
			t.Errorf("machine: got process %d after %d restarts, want still %d after %d", pidOf(b), ptr.Deref(b.Status.Machine.Restarts, 0), pid, restarts)
		}
	})
	t.Run("a VMM that rewrote its argv is still found and killed", func(t *testing.T) {
		was := pidOf(b)
		s.rewriteArgv(t, was)
		// The guard still finds it, and kills it when its wall is open.
		story.Breaches[0].Break(t, s.Cluster, b)
		s.Eventually(t, "the guard to kill it", func() (string, bool) { return "it is still alive", !s.alive(t, was) })
		s.WaitFor(t, b, "to run again", func() bool { return running(b) && pidOf(b) != was })

		again := pidOf(b)
		s.rewriteArgv(t, again)
		s.Change(t, b, func() { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
		s.WaitReason(t, b, v1alpha1.ConditionReady, v1alpha1.ReasonStopped)
		s.wantAlive(t, "the VMM of the stopped Bottle", again, false)

		s.Change(t, b, func() { b.Spec.DesiredState = v1alpha1.DesiredStateRunning })
		s.WaitFor(t, b, "to run again", func() bool { return running(b) })
		last := pidOf(b)
		s.rewriteArgv(t, last)
		s.DeleteAndWait(t, b)
		s.wantAlive(t, "the VMM of the deleted Bottle", last, false)
		if left := s.TryExec(t, node, "sh", "-c", `find /sys/fs/cgroup -type d -name "$1"`, "sh", story.ID(b)).Stdout; left != "" {
			t.Errorf("after deletion: got cgroup %q, want none", left)
		}
		s.wantAlive(t, "the look-alike", lookAlike, true)
	})
}

// pidOf returns the process ID of b's VMM, or 0 if the status has none.
func pidOf(b *v1alpha1.Bottle) int {
	if b.Status.Machine == nil || b.Status.Machine.PID == nil {
		return 0
	}
	return int(*b.Status.Machine.PID)
}

// lookAlike starts a process as user nobody with the command line of b's VMM. It runs
// on the node's own network, and so outside every wall.
func (s *site) lookAlike(t *testing.T, b *v1alpha1.Bottle) int {
	t.Helper()
	sum := sha256.Sum256([]byte(story.ID(b)))
	boot := "/var/lib/bottle/smolvm/.cache/smolvm/vms/" + hex.EncodeToString(sum[:])[:16] + "/boot-config.json"
	out := strings.TrimSpace(s.Exec(t, node, "python3", "-c", argvPy, "lookalike", "/proc/self/exe", "_boot-vm", boot))
	pid, err := strconv.Atoi(out)
	if err != nil {
		t.Fatalf("look-alike: %v", err)
	}
	t.Cleanup(func() { s.TryExec(t, node, "kill", "-9", out) })
	// If it has already been killed, the caller reports that.
	if got := s.cmdline(t, pid); got != "" && got != "/proc/self/exe\x00_boot-vm\x00"+boot {
		t.Fatalf("look-alike: got %q, want the command line of a VMM", got)
	}
	return pid
}

func (s *site) rewriteArgv(t *testing.T, pid int) {
	t.Helper()
	if got := s.cmdline(t, pid); !strings.Contains(got, "_boot-vm") {
		t.Fatalf("process %d: got %q, want a VMM", pid, got)
	}
	s.Exec(t, node, "python3", "-c", argvPy, "rewrite", strconv.Itoa(pid), "/usr/sbin/innocent")
	if got := s.cmdline(t, pid); got != "/usr/sbin/innocent" {
		t.Fatalf("process %d: got %q, want another command line", pid, got)
	}
}

func (s *site) cmdline(t *testing.T, pid int) string {
	t.Helper()
	return strings.TrimRight(s.TryExec(t, node, "cat", "/proc/"+strconv.Itoa(pid)+"/cmdline").Stdout, "\x00")
}

// alive reports whether a process is running. A zombie is not.
func (s *site) alive(t *testing.T, pid int) bool {
	t.Helper()
	r := s.TryExec(t, node, "sh", "-c", `sed 's/.*) //' "/proc/$1/stat"`, "sh", strconv.Itoa(pid))
	return r.Code == 0 && r.Stdout != "" && !strings.HasPrefix(r.Stdout, "Z")
}

func (s *site) wantAlive(t *testing.T, what string, pid int, want bool) {
	t.Helper()
	if got := s.alive(t, pid); got != want {
		t.Errorf("%s, process %d: got alive %v, want %v", what, pid, got, want)
	}
}
