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
)

// smolfile is what the fake understands of a Smolfile.
type smolfile struct {
	Env     []string `toml:"env"`
	CPUs    int32    `toml:"cpus"`
	Memory  int64    `toml:"memory"`
	Storage int64    `toml:"storage"`
	Overlay int64    `toml:"overlay"`
	Network struct {
		AllowCIDRs []string `toml:"allow_cidrs"`
	} `toml:"network"`
}

// content is what the machine is made with: by a Smolfile, or by what takes its
// place beside an artifact. An artifact is any file that is not empty.
func (f *Machines) content(spec host.MachineSpec) (smolfile, error) {
	if err := checkFile("image", spec.Image); err != nil {
		return smolfile{}, err
	}
	if spec.Artifact == "" {
		if len(spec.Env) > 0 || spec.AllowCIDR.IsValid() {
			return smolfile{}, fmt.Errorf("env and an address beside a Smolfile: %w", host.ErrInvalid)
		}
		file, err := readSmolfile(spec.Smolfile)
		file.Env = kept(file.Env)
		return file, err
	}
	if !f.version.Artifacts {
		return smolfile{}, fmt.Errorf("an artifact: %w", host.ErrUnsupported)
	}
	if spec.Image != "" || spec.Smolfile != "" || !spec.AllowCIDR.IsValid() {
		return smolfile{}, fmt.Errorf("an artifact beside an image or a Smolfile, or without addresses: %w", host.ErrInvalid)
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

// imageName is what smolvm calls an archive; "" for none.
func imageName(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	content, err := os.ReadFile(path)
	return fmt.Sprintf("local:%x", sha256.Sum256(content)), err
}

// checkFile refuses what is there and cannot be read by everyone, or is empty.
func checkFile(what, path string) error {
	if path == "" {
		return nil
	}
	st, err := os.Lstat(path)
	if err == nil && (!filepath.IsAbs(path) || !st.Mode().IsRegular() || st.Size() == 0 || what == "image" && st.Mode()&0o004 == 0) {
		err = errors.New("no plain file that can be read")
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w: %w", what, path, host.ErrInvalid, err)
	}
	return nil
}

// kept is what smolvm keeps of env: entries are trimmed, those without a name
// dropped.
func kept(entries []string) []string {
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
