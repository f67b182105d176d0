// SPDX-License-Identifier: Apache-2.0

package smoltoml

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	f, err := Parse("\ufeffenv = [\"A=1\", \"B=x\\ny\\u0001\\U0001F600\"]\r\ncpus = 2\r\n[network]\r\nallow_cidrs = [\"192.168.44.2/32\"]\r\n")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"A=1", "B=x\ny\x01\U0001F600"}, f.Env); diff != "" {
		t.Errorf("env (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"192.168.44.2/32"}, f.Network.AllowCIDRs); diff != "" {
		t.Errorf("allow_cidrs (-want +got)\n%s", diff)
	}
	if f.CPUs == nil || *f.CPUs != 2 || f.Memory != nil {
		t.Errorf("got cpus %v, memory %v, want 2 and nil", f.CPUs, f.Memory)
	}
}

// TestErrors shows that errors contain the whole line, including secrets, so
// callers must not pass them on.
func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"a = 1\n[network\n":                "TOML parse error at line 2, column 9\n  |\n2 | [network\n  |         ^\ninvalid table header\nexpected `.`, `]`\n",
		"env = [\"K=hunter2\"]\nbogus = 1": "TOML parse error at line 2, column 1\n  |\n2 | bogus = 1\n  | ^\nunknown field `bogus`, expected one of `image`, `entrypoint`, ",
		"[network]\nbogus = 1":             "unknown field `bogus`, expected `allow_hosts` or `allow_cidrs`\n",
		"[dev]\nimage = 'x'":               "unknown field `image`, expected one of `volumes`, `env`,",
		"env = \"A=hunter2\"":              "1 | env = \"A=hunter2\"\n  |       ^\ninvalid type: string \"A=hunter2\", expected a sequence\n",
		"env = [1]":                        "invalid type: integer `1`, expected a string\n",
		"env = []\nenv = []":               "duplicate key `env` in document root\n",
		"env = [\"A=\x01\"]":               "invalid basic string\n",
		"env = [\"A=x\ny\"]":               "invalid basic string\n",
		"cpus = 300":                       "invalid value: integer `300`, expected u8\n",
	} {
		_, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got\n%v\nwant\n%s", text, err, want)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("\xff\xfe"), 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		bad:                        "failed to read " + bad + ": stream did not contain valid UTF-8",
		dir:                        "failed to read " + dir + ": Is a directory (os error 21)",
		filepath.Join(dir, "none"): "failed to read " + filepath.Join(dir, "none") + ": No such file or directory (os error 2)",
	} {
		if _, err := Load(path); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", path, err, want)
		}
	}
}
