// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/archive"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/pack"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/state"
)

// packedFile is the image of a machine's pack, below the machine's folder.
const packedFile = "pack/image.tar"

// fromSteps are like draftSteps, but for a pack. No release uses secrets there.
var fromSteps = []func(*draft) error{
	(*draft).setLabels, (*draft).setResources, (*draft).setPackPolicy, (*draft).checkName, (*draft).setVolumes,
}

// createFrom creates a machine from a pack. It applies first the pack's settings
// and then the flags. Every release silently drops secrets here, and releases
// before 1.8.0 also drop the policy.
func (d *draft) createFrom(path string) error {
	m, err := d.readPack(path)
	if err != nil {
		return err
	}
	// The pack's sizes have the same precedence as those in a Smolfile.
	d.file.CPUs, d.file.Memory = &m.CPUs, &m.MemoryMiB
	d.rec.Network = m.Network
	if m.GPU {
		d.rec.GPU = &m.GPU
	}
	for _, step := range fromSteps {
		if err := step(d); err != nil {
			return err
		}
	}
	if d.rec.Source, err = canonical(path); err != nil {
		return err
	}
	for _, kv := range slices.Concat(m.Env, d.args.All("env")) {
		d.addEnv(kv)
	}
	d.rec.Image, d.rec.Workdir, d.rec.User = m.Image, m.Workdir, d.args.Get("user")
	d.rec.Entrypoint, d.rec.Cmd = m.Entrypoint, m.Cmd
	if len(d.args.Trailing) > 0 {
		d.rec.Entrypoint, d.rec.Cmd = nil, d.args.Trailing
	}
	d.rec.Init = d.args.All("init")
	for _, p := range d.args.All("port") {
		host, guest, _ := parsePort(p) // the parser has validated it
		d.rec.Ports = append(d.rec.Ports, host+":"+guest)
	}
	if err := d.store.Change(d.insert); err != nil {
		return err
	}
	fmt.Fprintln(d.stdout, "Extracting .smolmachine assets...")
	if err := d.unpack(path); err != nil {
		what := "extract sidecar"
		if d.rel.AtLeast("1.9.0") {
			what = "extract sidecar (shared)"
		}
		return errors.Join(agentError(what, "%w", err), d.store.Change(d.withdraw))
	}
	d.printCreated(d.rec)
	return nil
}

func canonical(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	return filepath.Abs(real)
}

// readPack returns the pack's manifest. For an invalid pack it returns the
// release's error text.
func (a *app) readPack(path string) (pack.Manifest, error) {
	st, err := os.Stat(path)
	if err != nil {
		return pack.Manifest{}, configError("create from .smolmachine", "file not found: %s", path)
	}
	what := "read .smolmachine"
	if a.rel.AtLeast("1.29.0") {
		what = "read checkpoint footer"
	}
	const footer = 64
	if st.Size() < footer {
		return pack.Manifest{}, agentError(what, "I/O error: sidecar file too small to contain footer")
	}
	m, err := pack.Read(path, nil, 0)
	if errors.Is(err, pack.ErrMagic) {
		return m, agentError(what, "invalid magic: expected SMOLPACK")
	}
	if err != nil {
		return m, agentError(what, "I/O error: footer sizes exceed file size (corrupt or truncated sidecar)")
	}
	return m, nil
}

func (d *draft) checkName() error {
	if err := machine.CheckName(d.rec.Name); err != nil {
		return configError("create machine", "%w", err)
	}
	return nil
}

// setPackPolicy is like setPolicy, but without a Smolfile. Here a DNS server does not
// imply a network.
func (d *draft) setPackPolicy() error {
	network := d.rec.Network || d.args.Has("net")
	if err := d.setPolicy(); err != nil {
		return err
	}
	if !d.rel.AtLeast("1.8.0") {
		d.rec.AllowedCIDRs = nil
	}
	d.rec.Network = network || d.rec.AllowedCIDRs != nil
	return nil
}

// withdraw removes the record of a machine whose pack could not be unpacked.
func (d *draft) withdraw(all state.Records) error {
	delete(all, d.rec.Name)
	return os.RemoveAll(d.store.Dir(d.rec.Name))
}

// unpackLimit is the largest image that may be unpacked. Real releases from 1.7.7
// or earlier apply the variable.
func (d *draft) unpackLimit() int64 {
	n, err := strconv.ParseInt(d.getenv("SMOLVM_PACK_MAX_EXTRACT_BYTES"), 10, 64)
	if err != nil || !d.rel.AtLeast("1.7.7") {
		return math.MaxInt64
	}
	return n
}

// unpack copies the pack's image into the machine's folder.
func (d *draft) unpack(path string) (err error) {
	to := filepath.Join(d.store.Dir(d.rec.Name), packedFile)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = pack.Read(path, f, d.unpackLimit())
	return err
}

// openPacked is openImage for a machine that was made from a pack.
func (a *app) openPacked(r *machine.Record) (*archive.Image, error) {
	if _, err := os.Stat(r.Source); err != nil && !a.rel.AtLeast("1.0.0") {
		return nil, agentError("start machine", "source .smolmachine not found: %s\nThe file may have been moved or deleted.", r.Source)
	}
	dir := a.store.Dir(r.Name)
	img, err := archive.Unpack(filepath.Join(dir, packedFile), filepath.Join(dir, "pack/rootfs"))
	if err != nil {
		return nil, agentError("start machine", "import image: %w", err)
	}
	return img, nil
}
