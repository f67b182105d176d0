// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/pelletier/go-toml/v2"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

// smolfile is the part of a Smolfile that the fake understands.
type smolfile struct {
	Env []string `toml:"env"`
	machinesize.Size
	Network struct {
		AllowCIDRs []string `toml:"allow_cidrs"`
	} `toml:"network"`
}

// content returns the machine's settings: from a Smolfile, or from the fields of
// spec that replace it when there is an artifact. Any file that is not empty
// counts as an artifact.
func (f *Machines) content(spec host.MachineSpec) (smolfile, error) {
	if err := checkFile("image", spec.Image); err != nil {
		return smolfile{}, err
	}
	if spec.Artifact == "" {
		if len(spec.Env) > 0 || spec.AllowCIDR.IsValid() {
			return smolfile{}, fmt.Errorf("env or addresses with a Smolfile: %w", host.ErrInvalid)
		}
		file, err := readSmolfile(spec.Smolfile)
		file.Env = storedEnv(file.Env)
		return file, err
	}
	if !f.version.Artifacts {
		return smolfile{}, fmt.Errorf("an artifact: %w", host.ErrUnsupported)
	}
	if spec.Image != "" || spec.Smolfile != "" || !spec.AllowCIDR.IsValid() {
		return smolfile{}, fmt.Errorf("an artifact with an image or a Smolfile, or without addresses: %w", host.ErrInvalid)
	}
	if err := checkFile("artifact", spec.Artifact); err != nil {
		return smolfile{}, err
	}
	file := smolfile{Env: spec.Env}
	for i, kv := range spec.Env {
		if strings.Index(kv, "=") < 1 || strings.ContainsRune(kv, 0) || strings.ToValidUTF8(kv, "") != kv || len(kv) >= 128<<10-len("--env=") {
			return file, fmt.Errorf("env entry %d: %w", i+1, host.ErrInvalid)
		}
	}
	if f.version.ArtifactPolicy {
		file.Network.AllowCIDRs = []string{spec.AllowCIDR.String()}
	}
	return file, nil
}

// imageName returns smolvm's name of an archive, or "" if path is empty.
func imageName(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	content, err := os.ReadFile(path)
	return fmt.Sprintf("local:%x", sha256.Sum256(content)), err
}

// checkFile refuses a file that is not regular, is empty or, if it is an image, is
// not readable by everyone. An empty path is accepted.
func checkFile(what, path string) error {
	if path == "" {
		return nil
	}
	st, err := os.Lstat(path)
	if err == nil && (!filepath.IsAbs(path) || !st.Mode().IsRegular() || st.Size() == 0 || what == "image" && st.Mode()&0o004 == 0) {
		err = errors.New("not a regular, readable file with content")
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w: %w", what, path, host.ErrInvalid, err)
	}
	return nil
}

// storedEnv returns env as smolvm stores it: it trims entries and drops those
// without a name.
func storedEnv(entries []string) []string {
	var env []string
	for _, kv := range entries {
		if kv = strings.TrimFunc(kv, unicode.IsSpace); strings.Index(kv, "=") > 0 {
			env = append(env, kv)
		}
	}
	return env
}

func readSmolfile(path string) (smolfile, error) {
	var s smolfile
	f, err := os.Open(path)
	if err != nil {
		return s, fmt.Errorf("load smolfile: %w: %w", host.ErrInvalid, err)
	}
	defer f.Close()
	if err := toml.NewDecoder(f).DisallowUnknownFields().Decode(&s); err != nil {
		return s, fmt.Errorf("%w: smolvm cannot read the Smolfile", host.ErrInvalid)
	}
	return s, nil
}
