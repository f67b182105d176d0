// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"botbottle.dev/bottle-operator/hack/internal/imagetar"
)

// epoch is when an image was created as it says, so that equal input gives equal bytes.
var epoch = time.Unix(0, 0).UTC()

// image is a one-layer image.
type image struct {
	tag        string
	user       string
	env        []string
	entrypoint []string
	cmd        []string
	files      []imagetar.File
}

// archive renders the image in the format of `docker save`: the config, one
// layer, and manifest.json, which names both.
func (i image) archive() ([]byte, error) {
	layer, err := archiveOf(i.files)
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
	return archiveOf([]imagetar.File{
		imagetar.Folder(layerSum, 0o755),
		imagetar.Regular(layerName, 0o644, layer),
		imagetar.Regular(configName, 0o644, config),
		imagetar.Regular("manifest.json", 0o644, manifest),
	})
}

func archiveOf(files []imagetar.File) ([]byte, error) {
	var out bytes.Buffer
	err := imagetar.Write(&out, files)
	return out.Bytes(), err
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
