// SPDX-License-Identifier: Apache-2.0

// Package state is the agent's part of the node's disk: one folder per Bottle,
// the folder of images, and the record of the cluster that they all belong to. It
// keeps what cannot be read back from docker or smolvm, above all what a
// machine was created with. It decides nothing, talks to no API, and does not
// touch smolvm's own folder beyond making it.
package state

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"botbottle.dev/bottle-operator/internal/atomicfile"
	"botbottle.dev/bottle-operator/internal/guestenv"
	"botbottle.dev/bottle-operator/internal/host"
)

// Names below the state directory.
const (
	bottlesDir    = "bottles"
	imagesDir     = "images"
	smolvmDir     = "smolvm"
	caDir         = "ca"
	clusterIDFile = "cluster-id"
)

// uidPattern is what may name a Bottle's folder: metadata.uid is a UUID, and
// nothing that could climb out of the state directory passes.
var uidPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,63}$`)

// Dir is the state directory of one agent.
type Dir struct {
	root string
	lock *os.File // held open until the process ends
}

// Open makes the state directory and its first level. The way to images and to
// smolvm's world is 0711, because each VMM runs as a user of its own; Bottles'
// folders are root's alone.
func Open(root string) (*Dir, error) {
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("state directory %s: want an absolute path", root)
	}
	for _, d := range []struct {
		path string
		mode fs.FileMode
	}{
		{root, 0o711},
		{filepath.Join(root, bottlesDir), 0o700},
		{filepath.Join(root, imagesDir), 0o711},
		{filepath.Join(root, smolvmDir), 0o711},
	} {
		if err := ensureDir(d.path, d.mode); err != nil {
			return nil, fmt.Errorf("state directory: %w", err)
		}
	}
	return &Dir{root: root}, nil
}

// ImagesDir is the folder of image archives, of which internal/image is the
// keeper.
func (d *Dir) ImagesDir() string { return filepath.Join(d.root, imagesDir) }

// SmolvmHome is the HOME of every call of smolvm.
func (d *Dir) SmolvmHome() string { return filepath.Join(d.root, smolvmDir) }

// Folder is the folder of the Bottle with this UID. It need not exist. A UID
// that is no name for a folder gets an error.
func (d *Dir) Folder(uid string) (Folder, error) {
	if !uidPattern.MatchString(uid) {
		return Folder{}, fmt.Errorf("bottle uid %q: not a UID", uid)
	}
	return Folder{path: filepath.Join(d.root, bottlesDir, uid), caDir: filepath.Join(d.root, caDir, uid), uid: uid}, nil
}

// Owners returns the owner of every folder, in order of UID. A folder without
// a readable owner is returned with its UID alone.
func (d *Dir) Owners() ([]host.Owner, error) {
	entries, err := os.ReadDir(filepath.Join(d.root, bottlesDir))
	if err != nil {
		return nil, fmt.Errorf("list the Bottles' folders: %w", err)
	}
	var owners []host.Owner
	for _, e := range entries {
		f, err := d.Folder(e.Name())
		if err != nil || !e.IsDir() {
			continue
		}
		o, err := f.Owner()
		if err != nil {
			o = host.Owner{UID: f.uid}
		}
		owners = append(owners, o)
	}
	slices.SortFunc(owners, func(a, b host.Owner) int {
		if a.UID < b.UID {
			return -1
		}
		return 1
	})
	return owners, nil
}

// ErrOtherCluster: the state directory belongs to another cluster.
var ErrOtherCluster = errors.New("the state directory belongs to another cluster")

// ClaimCluster records id, the UID of the kube-system namespace, the first
// time, and afterwards refuses any other with ErrOtherCluster: with the wrong
// kubeconfig, or against a cluster restored under another identity, every
// machine of the node would look like an orphan.
func (d *Dir) ClaimCluster(id string) error {
	if id == "" {
		return errors.New("the cluster has no identity: the kube-system namespace has no UID")
	}
	path := filepath.Join(d.root, clusterIDFile)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := atomicfile.Write(path, []byte(id+"\n"), 0o644); err != nil {
			return fmt.Errorf("record the cluster: %w", err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("read the recorded cluster: %w", err)
	}
	recorded := string(trimNewline(data))
	if recorded != id {
		return fmt.Errorf("%w: %s records %s, the API server's kube-system namespace has %s; check --kubeconfig, or, when the node really moved, remove its bottles and then this file",
			ErrOtherCluster, path, recorded, id)
	}
	return nil
}

func trimNewline(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r') {
		b = b[:len(b)-1]
	}
	return b
}

// Folder is one Bottle's folder.
type Folder struct{ path, caDir, uid string }

// Names within a Bottle's folder.
const (
	ownerFile    = "owner.json"
	recordFile   = "machine.json"
	smolfileFile = "Smolfile"
	secretsDir   = "secrets"
	bundleDir    = "bundle"
	rulesFile    = "egress.json"
)

// Path is the folder's own path.
func (f Folder) Path() string { return f.path }

// SmolfilePath is where the Smolfile is.
func (f Folder) SmolfilePath() string { return filepath.Join(f.path, smolfileFile) }

// SecretPath is where the value of the variable name is. A name too long for a
// file gets one made from its digest.
func (f Folder) SecretPath(name string) string {
	return filepath.Join(f.path, secretsDir, secretFileName(name))
}

func secretFileName(name string) string {
	const longest = 200 // well below NAME_MAX
	if len(name) <= longest {
		return name
	}
	digest := sha256.Sum256([]byte(name))
	return name[:100] + "-" + hex.EncodeToString(digest[:])
}

// BundleDir is the folder that is mounted into the built-in bundle.
func (f Folder) BundleDir() string { return filepath.Join(f.path, bundleDir) }

// Ensure makes the folder and records whose it is.
func (f Folder) Ensure(owner host.Owner) error {
	for _, d := range []struct {
		path string
		mode fs.FileMode
	}{
		{f.path, 0o700},
		{filepath.Join(f.path, secretsDir), 0o700},
		// The bundle runs as a user of its own and sees this folder alone,
		// through a mount.
		{f.BundleDir(), 0o755},
	} {
		if err := ensureDir(d.path, d.mode); err != nil {
			return fmt.Errorf("folder of the Bottle: %w", err)
		}
	}
	data, err := json.MarshalIndent(owner, "", "  ")
	if err != nil {
		return fmt.Errorf("owner of the folder: %w", err)
	}
	_, err = atomicfile.WriteIfChanged(filepath.Join(f.path, ownerFile), append(data, '\n'), 0o600)
	return err
}

// Owner is whose the folder is; fs.ErrNotExist when there is no folder.
func (f Folder) Owner() (host.Owner, error) {
	data, err := os.ReadFile(filepath.Join(f.path, ownerFile))
	if err != nil {
		return host.Owner{}, fmt.Errorf("owner of the folder: %w", err)
	}
	var o host.Owner
	if err := json.Unmarshal(data, &o); err != nil {
		return host.Owner{}, fmt.Errorf("owner of the folder %s: %w", f.path, err)
	}
	if o.UID != f.uid {
		return host.Owner{}, fmt.Errorf("owner of the folder %s: names another UID", f.path)
	}
	return o, nil
}

// Remove removes the folder with all that is in it; absent is nil.
func (f Folder) Remove() error {
	if err := os.RemoveAll(f.path); err != nil {
		return fmt.Errorf("remove the folder of the Bottle: %w", err)
	}
	return f.removeCA()
}

// WriteSmolfile writes the Smolfile and says whether it changed.
func (f Folder) WriteSmolfile(data []byte) (bool, error) {
	return atomicfile.WriteIfChanged(f.SmolfilePath(), data, 0o600)
}

// WriteRules writes the egress rules that the bundle reads and says whether
// they changed.
func (f Folder) WriteRules(data []byte) (bool, error) {
	return atomicfile.WriteIfChanged(filepath.Join(f.BundleDir(), rulesFile), data, 0o644)
}

// Rules reads what WriteRules wrote; nil without an error when there is none.
func (f Folder) Rules() ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(f.BundleDir(), rulesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("egress rules of the Bottle: %w", err)
	}
	return data, nil
}

// WriteSecrets makes the files below secrets/ exactly these, one per variable,
// and returns the names whose file changed, in order. Files of the names to
// keep stay as they are: a machine reads at each start what it was created
// with.
func (f Folder) WriteSecrets(values map[string]string, keep ...string) ([]string, error) {
	dir := filepath.Join(f.path, secretsDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("secret files: %w", err)
	}
	wanted := make(map[string]bool, len(values))
	for _, name := range keep {
		wanted[secretFileName(name)] = true
	}
	for name := range values {
		if !guestenv.ValidName(name) {
			return nil, fmt.Errorf("secret file %q: not the name of a variable", name)
		}
		wanted[secretFileName(name)] = true
	}
	for _, e := range entries {
		if wanted[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return nil, fmt.Errorf("secret files: %w", err)
		}
	}
	var changed []string
	for name, value := range values {
		wrote, err := atomicfile.WriteIfChanged(f.SecretPath(name), []byte(value), 0o600)
		if err != nil {
			return nil, err
		}
		if wrote {
			changed = append(changed, name)
		}
	}
	slices.Sort(changed)
	return changed, nil
}
