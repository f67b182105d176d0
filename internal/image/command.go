// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"botbottle.dev/bottle-operator/internal/host"
)

// Command implements host.Images. It reads the config in the archive, so that images
// that an earlier release pulled have one, too.
func (s *Store) Command(_ context.Context, path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("image: %w: %w", host.ErrNotFound, err)
	}
	defer f.Close()
	found, err := scanArchive(f)
	if err != nil {
		return nil, fmt.Errorf("image: %w: %w", host.ErrInvalid, err)
	}
	_, img, err := found.saved(f)
	if err != nil {
		return nil, fmt.Errorf("image: %w: %w", host.ErrInvalid, err)
	}
	var config struct {
		Config struct {
			Entrypoint []string `json:"Entrypoint"`
			Cmd        []string `json:"Cmd"`
		} `json:"config"`
	}
	if json.Unmarshal(img.config, &config) != nil {
		return nil, fmt.Errorf("image: %w: %w", host.ErrInvalid, errNoConfig)
	}
	command := append(config.Config.Entrypoint, config.Config.Cmd...)
	if err := host.CheckCommand(command); err != nil {
		return nil, err
	}
	return command, nil
}
