// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
