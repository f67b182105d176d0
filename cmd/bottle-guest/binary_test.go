// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/test/require"
)

const maxSize = 4 << 20 // it is copied into every guest

var built = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "bottle-guest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "bottle-guest")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, errors.New(string(out))
	}
	return os.ReadFile(path)
})

// install builds the prober as it is copied into guests, and puts it into its own
// folder.
func install(t *testing.T) string {
	t.Helper()
	data, err := built()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bottle-guest")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBinaryIsSmallAndStatic(t *testing.T) {
	require.Full(t, "builds the prober")
	path := install(t)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", info.Size())
	if info.Size() > maxSize {
		t.Errorf("got %d bytes, want at most %d", info.Size(), maxSize)
	}
	file, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("got a segment %s, want a static program", p.Type)
		}
	}
	if symbols, err := file.Symbols(); err == nil {
		t.Errorf("got %d symbols, want it stripped", len(symbols))
	}
}

func TestBinaryRefuses(t *testing.T) {
	require.Full(t, "builds the prober")
	for name, stdin := range map[string]string{"nothing": "", "nonsense": "nonsense\n", "too much": strings.Repeat("x", 2*probe.MaxPlan)} {
		cmd := exec.Command(install(t), "probe")
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.Output()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || len(out) > 0 || !strings.HasPrefix(string(exit.Stderr), "bottle-guest: plan: ") {
			t.Errorf("%s: got %q, %v, want exit code 2 and an error", name, out, err)
		}
	}
}

func TestReadPlanDoesNotWait(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	started := time.Now()
	if _, err := readPlan(r, hasty); err == nil {
		t.Error("got nil for an input that sends nothing, want an error")
	}
	if took := time.Since(started); took >= ample {
		t.Errorf("took %s, want about %s", took, hasty)
	}
	// A line is enough, even if the other end stays open.
	line, err := probe.EncodePlan(sitePlan(t))
	if err != nil {
		t.Fatal(err)
	}
	r2, w2 := io.Pipe()
	defer w2.Close()
	go func() { _, _ = w2.Write(line) }()
	if _, err := readPlan(r2, ample); err != nil {
		t.Errorf("got %v, want the plan", err)
	}
}

// TestEmptyGuest runs in a guest that has nothing but the prober: no /etc, no
// /proc, no shell, and no network.
func TestEmptyGuest(t *testing.T) {
	require.Root(t)
	path := install(t)
	plan := sitePlan(t)
	cmd := exec.Command("/bottle-guest", "probe")
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: filepath.Dir(path), Cloneflags: syscall.CLONE_NEWNET}
	r := report(t, cmd, plan)
	for _, result := range r.Results {
		if result.Outcome == probe.Reached || result.Outcome == probe.Accepted {
			t.Errorf("got %v without a network", result)
		}
		if !result.Target.Addr.IsValid() && result.Outcome != probe.NotTried {
			t.Errorf("got %v without a resolv.conf, want not tried", result)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want the prober to be gone", err)
	}
}

// TestUnprivilegedGuest: a guest that may not send an echo request reports that.
func TestUnprivilegedGuest(t *testing.T) {
	require.Root(t)
	path := install(t)
	cmd := exec.Command("/bottle-guest", "probe")
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot: filepath.Dir(path), Cloneflags: syscall.CLONE_NEWNET,
		Credential: &syscall.Credential{Uid: 65534, Gid: 65534},
	}
	for _, result := range report(t, cmd, sitePlan(t)).Results {
		if result.Target.Proto == probe.ProtoICMP && result.Outcome != probe.NotTried {
			t.Errorf("got %v, want not tried", result)
		}
	}
}

// report runs a prober on a plan.
func report(t *testing.T, cmd *exec.Cmd, plan probe.Plan) probe.Report {
	t.Helper()
	line, err := probe.EncodePlan(plan)
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(line), &out, &errs
	cmd.WaitDelay = ample
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	if n := bytes.Count(out.Bytes(), []byte("\n")); n != 1 {
		t.Errorf("got %d lines, want 1", n)
	}
	r, err := probe.DecodeReport(plan, &out)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
