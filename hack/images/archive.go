// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// epoch is the timestamp of everything in an image, so that equal input gives equal bytes.
var epoch = time.Unix(0, 0).UTC()

// file is one entry of an image's root file system. It is a folder if path ends
// in a slash, a symbolic link if link is set, and otherwise a regular file. The
// owner is always root.
type file struct {
	path    string
	mode    int64
	content []byte
	link    string
}

// image is a one-layer image.
type image struct {
	tag        string
	user       string
	env        []string
	entrypoint []string
	cmd        []string
	files      []file
}

// archive renders the image in the format of `docker save`: the config, one
// layer, and manifest.json, which names both.
func (i image) archive() ([]byte, error) {
	layer, err := renderTar(i.files)
	if err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	layerSum := sum(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64",
		"os":           "linux",
		"created":      epoch.Format(time.RFC3339),
		"config": map[string]any{
			"User":       i.user,
			"Env":        i.env,
			"Entrypoint": i.entrypoint,
			"Cmd":        i.cmd,
			"WorkingDir": "/",
		},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + layerSum}},
		"history": []map[string]any{{"created": epoch.Format(time.RFC3339), "created_by": "hack/images"}},
	})
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	configName, layerName := sum(config)+".json", layerSum+"/layer.tar"
	manifest, err := json.Marshal([]map[string]any{{
		"Config":   configName,
		"RepoTags": []string{i.tag},
		"Layers":   []string{layerName},
	}})
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return renderTar([]file{
		{path: layerSum + "/", mode: 0o755},
		{path: layerName, mode: 0o644, content: layer},
		{path: configName, mode: 0o644, content: config},
		{path: "manifest.json", mode: 0o644, content: manifest},
	})
}

func renderTar(files []file) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		h := &tar.Header{Name: f.path, Mode: f.mode, ModTime: epoch, Typeflag: tar.TypeReg, Size: int64(len(f.content))}
		switch {
		case f.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		case f.path[len(f.path)-1] == '/':
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("%s: %w", f.path, err)
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, fmt.Errorf("%s: %w", f.path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
