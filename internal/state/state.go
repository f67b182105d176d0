// SPDX-License-Identifier: Apache-2.0

// Package state manages the agent's files on the node's disk: one folder per
// Bottle, the folder of images, and the record of the cluster that they all
// belong to. It stores what cannot be read back from docker or smolvm, above all
// what a machine was created with. It makes no decisions and calls no API. It
// creates smolvm's home folder, but does not use it.
package state

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	inDir         = "in"
	outDir        = "out"
	guestDir      = "guest"
	vaultDir      = "vault"
	caDir         = "ca"
	clusterIDFile = "cluster-id"
)

// uidPattern matches valid names of Bottles' folders. metadata.uid is a UUID, and
// a name that could lead out of the state directory does not match.
var uidPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,63}$`)

// Dir is the state directory of one agent.
type Dir struct {
	root string
	lock *os.File // held open until the process ends
}

// Open creates the state directory and the folders directly below it. Folders on
// the path to images and smolvm's home have mode 0711, because each VMM runs as
// a different user. Only root can enter the Bottles' folders.
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

// ImagesDir is the folder of image archives, which internal/image manages.
func (d *Dir) ImagesDir() string { return filepath.Join(d.root, imagesDir) }

// SmolvmHome is the HOME of every call of smolvm.
func (d *Dir) SmolvmHome() string { return filepath.Join(d.root, smolvmDir) }

// InDir is the folder of the folders that guests read. internal/exchange creates and
// manages it, as it does OutDir and GuestDir.
func (d *Dir) InDir() string { return filepath.Join(d.root, inDir) }

// OutDir is the folder of the folders that guests write to.
func (d *Dir) OutDir() string { return filepath.Join(d.root, outDir) }

// GuestDir is the folder of the guest program.
func (d *Dir) GuestDir() string { return filepath.Join(d.root, guestDir) }

// VaultDir is where internal/vault mounts its file system in memory.
func (d *Dir) VaultDir() string { return filepath.Join(d.root, vaultDir) }

// Folder returns the folder of the Bottle with this UID. The folder need not
// exist. It is an error if the UID is not a valid name of a folder.
func (d *Dir) Folder(uid string) (Folder, error) {
	if !uidPattern.MatchString(uid) {
		return Folder{}, fmt.Errorf("bottle uid %q: not a UID", uid)
	}
	return Folder{path: filepath.Join(d.root, bottlesDir, uid), caDir: filepath.Join(d.root, caDir, uid), uid: uid}, nil
}

// Owners returns the owner of every folder, sorted by UID. For a folder without a
// readable owner, only the UID is set.
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

// HasBottles reports whether a state directory has the folder of any Bottle. The directory
// need not exist.
func HasBottles(root string) (bool, error) {
	f, err := os.Open(filepath.Join(root, bottlesDir))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if _, err = f.Readdirnames(1); errors.Is(err, io.EOF) {
		return false, nil
	}
	return err == nil, err
}

// ErrOtherCluster means that the state directory belongs to another cluster.
var ErrOtherCluster = errors.New("the state directory belongs to another cluster")

// ClaimCluster records id, the UID of the kube-system namespace, on the first
// call. Later calls with another id return ErrOtherCluster: with the wrong
// kubeconfig, or with a cluster that was restored under another identity, every
// machine on the node would look like an orphan.
func (d *Dir) ClaimCluster(id string) error {
	if id == "" {
		return errors.New("the cluster has no identity: the kube-system namespace has no UID")
	}
	path := filepath.Join(d.root, clusterIDFile)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := atomicfile.Write(path, []byte(id+"\n"), 0o600); err != nil {
			return fmt.Errorf("record the cluster: %w", err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("read the recorded cluster: %w", err)
	}
	recorded := string(trimNewline(data))
	if recorded != id {
		return fmt.Errorf("%w: %s records %s, but the API server's kube-system namespace has UID %s; check --kubeconfig, or, if the node really moved, remove its bottles and then this file",
			ErrOtherCluster, path, recorded, id)
	}
	return nil
}

// Cluster returns the UID of the cluster that ClaimCluster recorded, or "".
func (d *Dir) Cluster() (string, error) {
	data, err := os.ReadFile(filepath.Join(d.root, clusterIDFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the recorded cluster: %w", err)
	}
	return string(trimNewline(data)), nil
}

func trimNewline(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r') {
		b = b[:len(b)-1]
	}
	return b
}

// Folder is one Bottle's folder.
type Folder struct{ path, caDir, uid string }

// Names of files and folders in a Bottle's folder.
const (
	ownerFile    = "owner.json"
	recordFile   = "machine.json"
	smolfileFile = "Smolfile"
	secretsDir   = "secrets"
	bundleDir    = "bundle"
	rulesFile    = "egress.json"
)

// UID is the UID of the Bottle.
func (f Folder) UID() string { return f.uid }

// Path is the path of the folder.
func (f Folder) Path() string { return f.path }

// SmolfilePath is the path of the Smolfile.
func (f Folder) SmolfilePath() string { return filepath.Join(f.path, smolfileFile) }

// SecretPath is the path of the file with the value of the variable name. If the
// name is too long for a file, the file's name contains its digest instead.
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

// Ensure creates the folder and records its owner.
func (f Folder) Ensure(owner host.Owner) error {
	for _, d := range []struct {
		path string
		mode fs.FileMode
	}{
		{f.path, 0o700},
		{filepath.Join(f.path, secretsDir), 0o700},
		// The bundle runs as another user. A mount gives it only this folder.
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

// Owner returns the owner of the folder. The error is fs.ErrNotExist if there is
// no folder.
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

// WriteSmolfile writes the Smolfile and reports whether it changed.
func (f Folder) WriteSmolfile(data []byte) (bool, error) {
	return atomicfile.WriteIfChanged(f.SmolfilePath(), data, 0o600)
}

// WriteRules writes the egress rules that the bundle reads and reports whether
// they changed.
func (f Folder) WriteRules(data []byte) (bool, error) {
	return atomicfile.WriteIfChanged(filepath.Join(f.BundleDir(), rulesFile), data, 0o644)
}

// Rules reads what WriteRules wrote. It returns nil, nil if there is none.
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

// WriteSecrets writes one file per variable to secrets/, removes all other files
// there, and returns the names of the changed variables, sorted. It does not
// remove the files of the names in keep: at each start, a machine reads the
// secrets that it was created with.
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
			return nil, fmt.Errorf("secret file %q: not a valid name of a variable", name)
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
