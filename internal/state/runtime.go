// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"botbottle.dev/bottle-operator/internal/atomicfile"
	"botbottle.dev/bottle-operator/internal/host"
)

// Names of files in a Bottle's folder.
const (
	runtimeFile = "runtime"
	podFile     = "pod.json"
)

// Runtime returns what WriteRuntime wrote; "" if there is nothing.
func (f Folder) Runtime() (string, error) {
	data, err := os.ReadFile(filepath.Join(f.path, runtimeFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("folder of the Bottle: %w", err)
	}
	return string(trimNewline(data)), nil
}

// WriteRuntime stores the runtime of the Bottle's bundle.
func (f Folder) WriteRuntime(name string) error {
	_, err := atomicfile.WriteIfChanged(filepath.Join(f.path, runtimeFile), []byte(name+"\n"), 0o600)
	return err
}

// Used reports whether an agent has made a machine or a wall for the Bottle. What cannot
// be read counts as made.
func (f Folder) Used() bool {
	for _, name := range []string{recordFile, wallFile} {
		if _, err := os.Lstat(filepath.Join(f.path, name)); !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

// Pod is what a restarted agent must know about the Pod of a Bottle before the container
// runtime has answered.
type Pod struct {
	UID  string `json:"uid"`
	Name string `json:"name"`
	// NetNS is the file of the Pod's network namespace, and NetNSID its identity.
	NetNS   string     `json:"netns"`
	NetNSID host.NetNS `json:"netnsID"`
	// Cgroup is the Pod's cgroup, below the mount of the unified hierarchy.
	Cgroup string `json:"cgroup"`
	// Rules and Secrets are the folders of its volumes; "" if it has none.
	Rules   string `json:"rules,omitempty"`
	Secrets string `json:"secrets,omitempty"`
	// Replaced: this namespace took the place of another one, and that was not reported yet.
	Replaced bool `json:"replaced,omitempty"`
	// Started is the UID of the Pod in which the machine was last started, which may be
	// another one; "" for none.
	Started string `json:"started,omitempty"`
}

// Pod reads what WritePod wrote. It returns nil, nil if there is nothing.
func (f Folder) Pod() (*Pod, error) { return readJSON[Pod](f, podFile) }

// WritePod stores the Pod.
func (f Folder) WritePod(p Pod) error { return f.writeJSON(podFile, p) }

// UpstreamCA reads what WriteUpstreamCA wrote. It returns nil, nil if there is none.
func (f Folder) UpstreamCA() ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(f.BundleDir(), upstreamCAFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("certificates of upstreams: %w", err)
	}
	return data, nil
}
