// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestArguments(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	rules := filepath.Join(t.TempDir(), "none")
	tests := map[string]struct {
		args []string
		want string // part of the error; "" for none
	}{
		"all":           {[]string{"--rules", rules, "--listen", "127.0.0.1:0"}, ""},
		"no rules":      {nil, "--rules"},
		"no port":       {[]string{"--rules", rules, "--listen", "8888"}, "--listen"},
		"an argument":   {[]string{"--rules", rules, "bundle"}, "bundle"},
		"other flag":    {[]string{"--rule", rules}, "--rule"},
		"negative":      {[]string{"--rules", rules, "--memory-limit", "-1"}, "--memory-limit"},
		"several flaws": {[]string{"--listen", "8888"}, "--rules: required\n--listen"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := run(ended, tt.args, io.Discard)
			if tt.want == "" && err != nil {
				t.Errorf("got %v, want nil", err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// Docker stops a bundle with SIGTERM. In a Pod that ends, the guest may still need its
// bundle, so there the signal ends nothing.
func TestSigtermEndsTheBundleUnlessItIsToGoOn(t *testing.T) {
	program := filepath.Join(t.TempDir(), "bottle-bundle")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	for name, tt := range map[string]struct {
		args []string
		want unix.Signal // that ends it
	}{
		"docker": {nil, unix.SIGTERM},
		"a Pod":  {[]string{"--ignore-sigterm"}, unix.SIGKILL},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			address := listener.Addr().String()
			listener.Close()
			cmd := exec.CommandContext(t.Context(), program, append([]string{"--rules", filepath.Join(t.TempDir(), "none"), "--listen", address}, tt.args...)...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				_ = cmd.Wait()
				close(ended)
			}()
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				<-ended
			})
			wantServing(t, address)
			if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if tt.want == unix.SIGKILL {
				select {
				case <-ended:
					t.Fatal("SIGTERM ended the bundle, want it to go on")
				case <-time.After(time.Second):
				}
				wantServing(t, address)
				return
			}
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Fatal("SIGTERM did not end the bundle within 10 s")
			}
		})
	}
}

// wantServing waits until the bundle accepts a connection.
func wantServing(t *testing.T, address string) {
	t.Helper()
	check := time.NewTicker(20 * time.Millisecond)
	defer check.Stop()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-check.C {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return
		}
	}
	t.Fatal("the bundle does not serve")
}

// net/http writes what a server sends unasked to the standard logger.
func TestStandardLogIsDiscarded(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	var out bytes.Buffer
	log.SetOutput(&out)
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	_ = run(ended, []string{"--rules", filepath.Join(t.TempDir(), "none"), "--listen", "127.0.0.1:0"}, io.Discard)
	log.Print("a stranger's words")
	if out.Len() > 0 {
		t.Errorf("got %q logged, want nothing", out.String())
	}
}
