// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/pack"
	"botbottle.dev/bottle-operator/hack/smolvm/realpack"
	"botbottle.dev/bottle-operator/test/require"
)

// fixtures are the files that the command lines of testdata/agree*.txt name.
var fixtures = map[string]string{
	"S":       "env = [\"A=1\",\"B=x=y\",\"EMPTY=\",\"NOEQ\",\" T=v \"]\n[network]\nallow_cidrs = [\"192.168.44.2\"]\n",
	"bad":     "a = 1\n[network\n",
	"unk":     "bogus = 1\n",
	"unk2":    "[network]\nbogus = 1\n",
	"typ":     "env = \"A=1\"\n",
	"typ2":    "env = [1]\n",
	"dup":     "env=[\"A=1\"]\nenv=[\"B=2\"]\n",
	"cidr":    "[network]\nallow_cidrs=[\"nope\"]\n",
	"utf":     "\xff\xfe",
	"ctl":     "env = [\"A=\x01b\"]\n",
	"cpu":     "cpus = 300\n",
	"cpu2":    "cpus = \"x\"\n",
	"unterm":  "env = [\"SECRET=hunter2\"\n",
	"restart": "[restart]\npolicy = \"bogus\"\n",
	"ports":   "ports = [\"0:1\"]\n",
	"nl":      "env = [\"A=a\nb\"]\n",
	"img.tar": "x",
	"two.tar": "xx",
}

// TestAgreesWithRealCLI compares the stand-in with the real command line of the
// same release, for everything that does not need a running machine. It uses the
// release in $SMOLVM_REAL_DIR, or else those in bin/smolvm.
func TestAgreesWithRealCLI(t *testing.T) {
	dirs := []string{os.Getenv("SMOLVM_REAL_DIR")}
	if dirs[0] == "" {
		dirs = []string{"../../bin/smolvm/1.32.2", "../../bin/smolvm/1.9.1"}
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			real, err := filepath.Abs(filepath.Join(dir, "smolvm"))
			if err != nil {
				t.Fatal(err)
			}
			require.File(t, real, "run make smolvm smolvm-older, or set SMOLVM_REAL_DIR to the folder of a release")
			compare(t, real, "testdata/agree.txt", 200)
			compare(t, real, "testdata/agree-packs.txt", 60)
		})
	}
}

// compare runs the command lines in a file with both programs, each with a new
// HOME. The file must hold at least minimum lines.
func compare(t *testing.T, real, file string, minimum int) {
	t.Helper()
	out, err := exec.Command(real, "--version").Output()
	version := strings.TrimSpace(strings.TrimPrefix(string(out), "smolvm "))
	if err != nil || version == "" {
		t.Fatalf("%s --version: got %q, %v", real, out, err)
	}
	lines, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	theirs := &caller{exe: real, home: t.TempDir(), files: t.TempDir()}
	ours := &caller{exe: filepath.Join(installed, "1.32.2", "smolvm"), home: t.TempDir(), files: t.TempDir(), env: "SMOLVM_STANDIN_VERSION=" + version}
	for _, c := range []*caller{theirs, ours} {
		for name, text := range fixtures {
			if err := os.WriteFile(filepath.Join(c.files, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		// Its size is above smolvm's limit, but it takes no room.
		big := filepath.Join(c.files, "big.tar")
		if err := errors.Join(os.WriteFile(big, nil, 0o644), os.Truncate(big, 9<<30)); err != nil {
			t.Fatal(err)
		}
		c.writeDenials(t, "refused", denialLines)
	}
	writePacks(t, theirs.files, ours.files)
	compared := 0
	for line := range strings.Lines(string(lines)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		compared++
		line, loose := strings.CutPrefix(line, "~")
		got, want := ours.call(t, line), theirs.call(t, line)
		if loose {
			got.errors, want.errors = "", ""
		}
		if got != want {
			t.Errorf("smolvm %s\n got %+v\nwant %+v", line, got, want)
		}
	}
	if compared < minimum {
		t.Errorf("%s: compared %d command lines, want at least %d", file, compared, minimum)
	}
	t.Logf("%s: %d command lines, smolvm %s", file, compared, version)
}

// caller runs one of the two programs.
type caller struct{ exe, home, files, env string }

// denialLines are log lines of a VMM: denials, and lines that resemble them.
const denialLines = `[2026-08-13T02:31:05Z WARN  krun_egress] egress policy denied connect to 93.184.215.16:443
[2026-08-13T02:31:06.123456Z WARN  krun_egress] egress policy denied sendto to [fe80::1]:53
egress policy denied connect 1.2.3.4:81
egress policy denied connect: 1.2.3.4:80
egress policy denied bogus to 1.2.3.4:82
2026-08-13T02:31:05Z WARN egress policy denied connect to "anything", and more
a line of something else
[2026-08-13T02:31:07Z WARN  krun_egress] egress policy denied sendto to 8.8.8.8:53
`

// writeDenials writes the denial log of a machine that need not exist.
func (c *caller) writeDenials(t *testing.T, machine, denials string) {
	t.Helper()
	sum := sha256.Sum256([]byte(machine))
	dir := filepath.Join(c.home, ".cache/smolvm/vms", hex.EncodeToString(sum[:])[:16])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "egress-denials.log"), []byte(denials), 0o644); err != nil {
		t.Fatal(err)
	}
}

// writePacks writes the same packs in the real format and in the stand-in's.
func writePacks(t *testing.T, theirs, ours string) {
	t.Helper()
	env, entrypoint, cmd := []string{"PACKED=1", "A=pack"}, []string{"/ep"}, []string{"c"}
	for name, network := range map[string]bool{"pack": false, "netpack": true, "gpupack": false} {
		gpu := name == "gpupack"
		err := realpack.Write(filepath.Join(theirs, name), realpack.Pack{
			Env: env, Entrypoint: entrypoint, Cmd: cmd, CPUs: 2, MemoryMiB: 512, Network: network, GPU: gpu, Layer: tarOf(t),
		})
		if err == nil {
			err = pack.Write(filepath.Join(ours, name), pack.Manifest{
				Image: "example.test/packed:1", Env: env, Entrypoint: entrypoint, Cmd: cmd, CPUs: 2, MemoryMiB: 512, Network: network, GPU: gpu,
			}, filepath.Join(ours, "img.tar"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

var timestamps = regexp.MustCompile(`("created_at": |Created: )\S+`)

// call runs a command line and returns the comparable parts of its result. Of
// stderr it returns only the first line, because usage and advice follow.
func (c *caller) call(t *testing.T, line string) result {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.exe, words(strings.ReplaceAll(line, "{D}", c.files))...)
	cmd.Env = []string{"HOME=" + c.home, "PATH=/usr/sbin:/usr/bin:/sbin:/bin", c.env}
	cmd.Dir = c.files
	r := runCommand(t, cmd)
	normalise := strings.NewReplacer(c.home, "HOME", c.files, "FILES")
	r.out = timestamps.ReplaceAllString(normalise.Replace(r.out), "${1}T")
	r.errors, _, _ = strings.Cut(normalise.Replace(r.errors), "\n")
	return r
}

// words splits a line at spaces. Single quotes keep words together.
func words(line string) []string {
	var out []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}
