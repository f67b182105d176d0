// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/archive"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/cmdline"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/pack"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/state"
)

// packCreate makes a pack from an image's archive, which releases before 1.32.2
// cannot do. It boots no machine, but like smolvm it fails if none could boot.
func (a *app) packCreate(args *cmdline.Args) error {
	image, output := args.Get("image"), args.Get("output")
	const usage = "smolvm pack create --output <PATH> --image <IMAGE>"
	switch {
	case output == "":
		return &cmdline.UsageError{Message: "a value is required for '--output <PATH>' but none was supplied"}
	case args.Has("from-vm"):
		return a.packMachine(args.Get("from-vm"))
	case !args.Has("image"):
		return &cmdline.UsageError{Message: "the following required arguments were not provided:\n  --image <IMAGE>", Usage: usage}
	}
	if err := a.checkPackable(image); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout, "Starting agent VM...")
	if err := a.preflight(); err != nil {
		return err
	}
	if !isLocal(image) || !a.rel.AtLeast("1.32.2") {
		return agentError("pull image", "agent error: pull %s: the stand-in cannot pull from a registry", image)
	}
	c, err := archiveConfig(image)
	if err != nil {
		return agentError("import image", "%w", err)
	}
	m := pack.Manifest{
		Image: "imported:" + runtime.GOARCH, Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, Workdir: c.WorkingDir,
		CPUs: machine.DefaultCPUs, MemoryMiB: machine.DefaultMemoryMiB,
	}
	if args.Has("cpus") {
		m.CPUs = uint8(number(args, "cpus"))
	}
	if args.Has("mem") {
		m.MemoryMiB = uint32(number(args, "mem"))
	}
	const program = "#!/bin/sh\necho 'packs of the smolvm stand-in cannot be run directly' >&2\nexit 1\n"
	if err := os.WriteFile(output, []byte(program), 0o755); err != nil {
		return agentError("pack", "%w", state.Rust(withoutPath(err)))
	}
	if err := pack.Write(output+".smolmachine", m, image); err != nil {
		return agentError("pack", "%w", state.Rust(withoutPath(err)))
	}
	fmt.Fprintf(a.stdout, "Packed: %s\n", output)
	return nil
}

// checkPackable returns the release's error for an image that it rejects before
// booting anything.
func (a *app) checkPackable(image string) error {
	if !isLocal(image) {
		return nil
	}
	switch _, err := os.Stat(image); {
	case err != nil && a.rel.AtLeast("1.32.2"):
		return configError("--image", "cannot read archive %s: %w", image, state.Rust(withoutPath(err)))
	case a.rel.AtLeast("1.14.0") && !a.rel.AtLeast("1.32.2"):
		return configError("pack create", "'--image' accepts container registry references (e.g. 'alpine:latest'). "+
			"To create a packed executable from a local image archive or rootfs directory ('%[1]s'), first create the machine with "+
			"'smolvm machine create --image %[1]s' and then pack it with 'smolvm pack create --from-vm <name>'.", image)
	}
	return nil
}

// packMachine always fails: the stand-in cannot pack machines. For an unknown
// machine it returns smolvm's error.
func (a *app) packMachine(name string) error {
	if _, err := a.find(name); isNotFound(err) {
		return agentError("pack from VM", "VM '%s' not found", name)
	} else if err != nil {
		return err
	}
	return errors.New("smolvm stand-in: cannot pack machines")
}

func archiveConfig(image string) (archive.Config, error) {
	dir, err := os.MkdirTemp("", "standin-pack-")
	if err != nil {
		return archive.Config{}, err
	}
	defer os.RemoveAll(dir)
	img, err := archive.Unpack(image, dir+"/image")
	if err != nil {
		return archive.Config{}, err
	}
	return img.Config, nil
}
