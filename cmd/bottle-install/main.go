// SPDX-License-Identifier: Apache-2.0

// Command bottle-install installs smolvm or the operator's own programs on a node. It
// runs in a container in which the node's root is mounted, and changes nothing on the
// node outside of /opt/NAME.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/nodeinstall"
)

const (
	// versionVariable has the version of an image's files.
	versionVariable = "BOTTLE_INSTALL_VERSION"
	timeout         = 15 * time.Minute
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bottle-install:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	var o nodeinstall.Options
	fs := flag.NewFlagSet("bottle-install", flag.ContinueOnError)
	fs.StringVar(&o.From, "from", "/payload", "directory with the files to install")
	fs.StringVar(&o.HostRoot, "host-root", "", "directory at which the node's root directory is mounted (required)")
	fs.StringVar(&o.Name, "name", "", "name of the directory below the node's /opt, such as smolvm (required)")
	fs.StringVar(&o.Version, "version", os.Getenv(versionVariable), "name of the version; by default "+versionVariable+" of the environment, or else the digest of the files")
	fs.Func("ignore", "pattern of paths, such as run/*.pid, that processes create in an installed version while they use it; may be repeated", func(pattern string) error {
		o.Ignored = append(o.Ignored, pattern)
		return nil
	})
	fs.Usage = func() {
		fmt.Fprintln(fs.Output(), "usage: bottle-install --host-root DIR --name NAME [--from DIR] [--version VERSION] [FILE…]\nWithout FILE, all files in the directory --from are installed.")
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	if o.Name == "" || !filepath.IsAbs(o.HostRoot) {
		return fmt.Errorf("--name and --host-root, an absolute path, are required")
	}
	o.Files = fs.Args()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := nodeinstall.Install(ctx, o)
	if err != nil {
		return err
	}
	report(out, o.Name, r)
	return nil
}

// report prints what was done.
func report(out io.Writer, name string, r nodeinstall.Result) {
	switch {
	case r.Copied:
		fmt.Fprintf(out, "Installed %s %s\n", name, r.Version)
	case r.Switched:
		fmt.Fprintf(out, "%s %s was installed before and is current again\n", name, r.Version)
	default:
		fmt.Fprintf(out, "%s %s is installed already\n", name, r.Version)
	}
	if len(r.Removed) > 0 {
		fmt.Fprintf(out, "Removed unused versions of %s: %s\n", name, strings.Join(r.Removed, ", "))
	}
	if r.Kept != nil {
		fmt.Fprintf(out, "Unused versions of %s were not removed: %v\n", name, r.Kept)
	}
}
