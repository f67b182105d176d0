// SPDX-License-Identifier: Apache-2.0

package bundleimage

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// WriteArchive writes the image in the form that "docker load" reads.
func (im *Image) WriteArchive(w io.Writer) error {
	if err := im.writeArchive(w); err != nil {
		return fmt.Errorf("write archive of %s: %w", im.reference, err)
	}
	return nil
}

func (im *Image) writeArchive(w io.Writer) error {
	configSum := sha256.Sum256(im.config)
	configName := hex.EncodeToString(configSum[:]) + ".json"
	layerDir := strings.TrimPrefix(im.diffID, "sha256:")
	layerName := layerDir + "/layer.tar"
	manifest, err := json.Marshal([]map[string]any{{
		"Config":   configName,
		"RepoTags": []string{im.reference},
		"Layers":   []string{layerName},
	}})
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	if err := writeFile(tw, configName, im.config); err != nil {
		return err
	}
	if err := writeDir(tw, layerDir+"/"); err != nil {
		return err
	}
	// Write the layer to a counter first: its header must contain its length.
	var length counter
	if err := im.writeLayer(&length, io.Discard); err != nil {
		return err
	}
	if err := tw.WriteHeader(header(layerName, 0o644, int64(length))); err != nil {
		return err
	}
	sum := sha256.New()
	if err := im.writeLayer(io.MultiWriter(tw, sum), io.Discard); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != im.diffID {
		return errChanged
	}
	if err := writeFile(tw, "manifest.json", manifest); err != nil {
		return err
	}
	return tw.Close()
}

// writeLayer writes the image's root filesystem to w and only the executable to
// file.
func (im *Image) writeLayer(w, file io.Writer) error {
	f, err := os.Open(im.executable)
	if err != nil {
		return err
	}
	defer f.Close()
	tw := tar.NewWriter(w)
	for _, dir := range []string{"etc/", strings.TrimPrefix(RulesDir, "/") + "/", "run/", strings.TrimPrefix(SecretsDir, "/") + "/"} {
		if err := writeDir(tw, dir); err != nil {
			return err
		}
	}
	if err := tw.WriteHeader(header(entryName, 0o755, im.size)); err != nil {
		return err
	}
	n, err := io.Copy(io.MultiWriter(tw, file), io.LimitReader(f, im.size))
	if err != nil {
		return err
	}
	if n != im.size {
		return errChanged
	}
	return tw.Close()
}

func writeDir(tw *tar.Writer, name string) error {
	h := header(name, 0o755, 0)
	h.Typeflag = tar.TypeDir
	return tw.WriteHeader(h)
}

func writeFile(tw *tar.Writer, name string, content []byte) error {
	if err := tw.WriteHeader(header(name, 0o644, int64(len(content)))); err != nil {
		return err
	}
	_, err := tw.Write(content)
	return err
}

// header sets no time and no owner but root, so that images differ only if
// their executables do.
func header(name string, mode, size int64) *tar.Header {
	return &tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size,
		ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
