// SPDX-License-Identifier: Apache-2.0

package dockertest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"botbottle.dev/bottle-operator/test/require"
)

// ForeignImage is the reference of the image that LoadForeign loads. Its
// container listens on ports 8888, 9418 and 9100, and on port 9099 of its
// loopback interface.
const ForeignImage = "example.test/foreign-bundle:1"

// BuildBundle builds the static program bottle-bundle, from which the built-in image is
// made. It returns the program's path.
func BuildBundle(t testing.TB) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "bottle-bundle")
	goRun(t, "build", "-o", out, "./cmd/bottle-bundle")
	return out
}

// LoadForeign loads an image that is not the operator's. It uses the archive that
// make has built, or builds it.
func (d *Daemon) LoadForeign(t testing.TB) {
	t.Helper()
	archive := filepath.Join(repository(t), "bin", "images", "foreign-bundle.tar")
	if _, err := os.Stat(archive); err != nil {
		if _, err := exec.LookPath("busybox"); err != nil {
			require.Unmet(t, "needs busybox: install Debian's busybox-static")
		}
		dir := t.TempDir()
		wget := filepath.Join(dir, "wget")
		goRun(t, "build", "-o", wget, "./hack/images/wget")
		goRun(t, "run", "./hack/images", "-wget", wget, dir)
		archive = filepath.Join(dir, "foreign-bundle.tar")
	}
	d.Load(t, archive)
}

// goRun runs the go command in the repository. The namespaces have no network:
// everything it needs is in Go's caches, because the test itself was built.
func goRun(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = repository(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOPROXY=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("dockertest: go %v: %v\n%s", args, err, out)
	}
}

// repository returns the folder of go.mod, above the package under test.
func repository(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatalf("dockertest: %v", err)
	}
	for dir != "/" {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	t.Fatal("dockertest: no go.mod above the working directory")
	return ""
}
