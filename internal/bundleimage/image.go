// SPDX-License-Identifier: Apache-2.0

// Package bundleimage makes the built-in bundle's container image from the
// static program bottle-bundle, so that a node needs no registry for it. The image
// holds this one file in an otherwise empty root, run by a user that is not root. The same executable always gives the same image, byte
// for byte. The package does not run the image and does not decide with which
// privileges it runs.
package bundleimage

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	// Repository is the image's name. Its tag is the first twelve digits of
	// the SHA-256 of the executable.
	Repository = "botbottle.dev/bundle"
	// RulesDir is where the bundle looks for its rules. It is a mounted folder,
	// so that the bundle sees a file that is renamed into it.
	RulesDir = "/etc/bottle"
	// RulesFile is the name of the rules file in RulesDir.
	RulesFile = "egress.json"
	// SecretsDir is where the bundle looks for its authority and the values of its
	// Bottle's Secrets (package brokerfile). It is a mounted folder of a tmpfs.
	SecretsDir = "/run/bottle-broker"
	// UpstreamCAFile is the name of the file in RulesDir with the authorities that the
	// bundle accepts for upstreams beside the public ones. It may be absent.
	UpstreamCAFile = "upstream-ca.pem"
	// User is the user and group that the bundle runs as.
	User = "65532:65532"
	// UserID is the number of that user and of that group.
	UserID = 65532
	// Port is the TCP port on which the bundle listens.
	Port = 8888

	entryName = "bottle-bundle"
	tagDigits = 12
)

// Entrypoint is the command that runs the bundle, here and in the operator's image.
var Entrypoint = []string{"/" + entryName, "--rules", RulesDir + "/" + RulesFile, "--secrets-dir", SecretsDir, "--upstream-ca", RulesDir + "/" + UpstreamCAFile}

// Image is a bundle image that can be written or loaded.
type Image struct {
	executable string
	size       int64
	reference  string
	config     []byte
	diffID     string // digest of the only layer
}

// New reads the executable, which must be a static ELF binary, and returns the
// image that is made from it. The executable must not change while the Image is
// in use.
func New(executable string) (*Image, error) {
	arch, err := staticArch(executable)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(executable)
	if err != nil {
		return nil, fmt.Errorf("make bundle image: %w", err)
	}
	im := &Image{executable: executable, size: info.Size()}

	// The archive contains the config before the layer, and the config contains
	// the layer's digest. So read the executable once here for the digests, and
	// once more for the archive.
	file, layer := sha256.New(), sha256.New()
	if err := im.writeLayer(layer, file); err != nil {
		return nil, fmt.Errorf("make bundle image: %w", err)
	}
	im.reference = Repository + ":" + hex.EncodeToString(file.Sum(nil))[:tagDigits]
	im.diffID = "sha256:" + hex.EncodeToString(layer.Sum(nil))
	im.config, err = json.Marshal(imageConfig(arch, im.diffID))
	if err != nil {
		return nil, fmt.Errorf("make bundle image: %w", err)
	}
	return im, nil
}

// Reference returns the image's name and tag.
func (im *Image) Reference() string { return im.reference }

// staticArch returns docker's name for the executable's architecture.
func staticArch(executable string) (string, error) {
	f, err := elf.Open(executable)
	if err != nil {
		return "", fmt.Errorf("make bundle image: %s is not a Linux executable: %w", executable, err)
	}
	defer func() { _ = f.Close() }() // only read
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		interp, err := io.ReadAll(io.LimitReader(p.Open(), 4096))
		if err != nil {
			return "", fmt.Errorf("make bundle image: read %s: %w", executable, err)
		}
		return "", fmt.Errorf("make bundle image: %s is dynamically linked (it needs %.100q), but the image contains nothing else: build it with CGO_ENABLED=0", executable, cString(interp))
	}
	switch f.Machine {
	case elf.EM_X86_64:
		return "amd64", nil
	case elf.EM_AARCH64:
		return "arm64", nil
	}
	return "", fmt.Errorf("make bundle image: %s is for %s, want x86-64 or arm64", executable, f.Machine)
}

func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

type config struct {
	Architecture string          `json:"architecture"`
	OS           string          `json:"os"`
	Created      string          `json:"created"`
	Config       containerConfig `json:"config"`
	RootFS       rootFS          `json:"rootfs"`
	History      []history       `json:"history"`
}

type containerConfig struct {
	User         string              `json:"User"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts"`
	Entrypoint   []string            `json:"Entrypoint"`
	WorkingDir   string              `json:"WorkingDir"`
	Labels       map[string]string   `json:"Labels"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type history struct {
	Created   string `json:"created"`
	CreatedBy string `json:"created_by"`
}

func imageConfig(arch, diffID string) config {
	const epoch = "1970-01-01T00:00:00Z"
	return config{
		Architecture: arch,
		OS:           "linux",
		Created:      epoch,
		Config: containerConfig{
			User:         User,
			ExposedPorts: map[string]struct{}{fmt.Sprintf("%d/tcp", Port): {}},
			Entrypoint:   Entrypoint,
			WorkingDir:   "/",
			Labels: map[string]string{
				"org.opencontainers.image.title":    "Bottle Operator's bundle",
				"org.opencontainers.image.licenses": "Apache-2.0",
			},
		},
		RootFS:  rootFS{Type: "layers", DiffIDs: []string{diffID}},
		History: []history{{Created: epoch, CreatedBy: "bottle-operator"}},
	}
}

var errChanged = errors.New("the executable has changed since it was first read")
