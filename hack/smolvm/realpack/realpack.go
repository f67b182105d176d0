// SPDX-License-Identifier: Apache-2.0

// Package realpack writes .smolmachine files that the real smolvm (1.7.7 to
// 1.32.2) can read. Unlike `smolvm pack create` it boots no machine, so that
// tests can try `machine create --from` anywhere. The files contain no agent and
// are not compressed, except for blocks of one repeated byte.
package realpack

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/pack"
)

// Pack is the content of an artifact.
type Pack struct {
	Env, Entrypoint, Cmd []string
	CPUs                 int // smolvm's default is 4
	MemoryMiB            int // smolvm's default is 8192
	Network, GPU         bool
	// Layer is the tar archive of the root filesystem.
	Layer []byte
}

type asset struct {
	Path   string `json:"path"`
	Size   int    `json:"size"`
	Digest string `json:"digest,omitempty"`
}

// Write writes the artifact to path.
func Write(path string, p Pack) error {
	sum := sha256.Sum256(p.Layer)
	digest := hex.EncodeToString(sum[:])
	layer := asset{Path: "layers/" + digest[:12] + ".tar", Size: len(p.Layer), Digest: "sha256:" + digest}
	var empty bytes.Buffer
	if err := tar.NewWriter(&empty).Close(); err != nil {
		return err
	}
	agent := asset{Path: "agent-rootfs.tar", Size: empty.Len()}
	var assets bytes.Buffer
	w := tar.NewWriter(&assets)
	for _, f := range []struct {
		asset
		content []byte
	}{{agent, empty.Bytes()}, {layer, p.Layer}} {
		if err := w.WriteHeader(&tar.Header{Name: f.Path, Mode: 0o644, Size: int64(f.Size)}); err != nil {
			return err
		}
		if _, err := w.Write(f.content); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	platform := "linux/" + runtime.GOARCH
	manifest, err := json.Marshal(map[string]any{
		"mode": "container", "image": "example.test/packed:1", "digest": layer.Digest, "platform": platform, "host_platform": platform,
		"created": "2026-01-01T00:00:00Z", "smolvm_version": "1.32.2", "network": p.Network, "gpu": p.GPU,
		"env": list(p.Env), "entrypoint": list(p.Entrypoint), "cmd": list(p.Cmd), "cpus": p.CPUs, "mem": p.MemoryMiB,
		"assets": map[string]any{"libraries": []asset{}, "agent_rootfs": agent, "layers": []asset{layer}},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(path, file(zstd(assets.Bytes()), manifest), 0o644)
}

// WriteStandin is like Write, in the form that the stand-in reads. The layer
// becomes the image's archive, which the stand-in reads at the first start.
func WriteStandin(path string, p Pack) error {
	archive, err := os.CreateTemp("", "layer-")
	if err != nil {
		return err
	}
	defer os.Remove(archive.Name())
	_, err = archive.Write(p.Layer)
	if err := errors.Join(err, archive.Close()); err != nil {
		return err
	}
	return pack.Write(path, pack.Manifest{
		Image: "example.test/packed:1", Env: p.Env, Entrypoint: p.Entrypoint, Cmd: p.Cmd,
		CPUs: uint8(p.CPUs), MemoryMiB: uint32(p.MemoryMiB), Network: p.Network, GPU: p.GPU,
	}, archive.Name())
}

// OnlyLayer returns the layer of a one-layer archive in the format of docker save.
func OnlyLayer(archive string) ([]byte, error) {
	file, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for r := tar.NewReader(file); ; {
		h, err := r.Next()
		if err != nil {
			return nil, fmt.Errorf("layer of %s: %w", archive, err)
		}
		if filepath.Base(h.Name) == "layer.tar" {
			return io.ReadAll(r)
		}
	}
}

// list returns words, but never nil, because smolvm does not accept null.
func list(words []string) []string { return append([]string{}, words...) }

// file joins the assets, the manifest and a footer with their positions.
func file(assets, manifest []byte) []byte {
	n := uint64(len(assets))
	b := append(assets, manifest...)
	sum := crc32.ChecksumIEEE(b)
	b = append(b, "SMOLPACK"...)
	b = binary.LittleEndian.AppendUint32(b, 3)
	for _, at := range []uint64{0, 0, n, n, uint64(len(manifest))} {
		b = binary.LittleEndian.AppendUint64(b, at)
	}
	b = binary.LittleEndian.AppendUint32(b, sum)
	return append(b, make([]byte, 8)...)
}

// zstd returns a zstd frame that stores the content in uncompressed blocks, and a
// block of one repeated byte as that byte.
func zstd(content []byte) []byte {
	const block = 128 << 10
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3} // a window of 128 KiB
	for last := false; !last; {
		n := min(block, len(content))
		last = n == len(content)
		header, stored := n<<3, content[:n]
		if n > 0 && bytes.Count(stored, stored[:1]) == n {
			header, stored = header|1<<1, stored[:1]
		}
		if last {
			header |= 1
		}
		b = append(b, byte(header), byte(header>>8), byte(header>>16))
		b = append(b, stored...)
		content = content[n:]
	}
	return b
}
