// SPDX-License-Identifier: Apache-2.0

// Command image builds the project's images for Linux on amd64 and arm64,
// without Docker, and pushes them:
//
//   - bottle-operator has the programs of this repository;
//   - bottle-smolvm has smolvm's files from its wheel, for the node installer;
//   - bundle.tar is the default bundle's image, for sites that scan images.
//     Agents do not need it: each makes and loads it from bottle-bundle.
//
// For each image it writes an archive for "docker load" of one platform, an OCI
// layout of all platforms, and an SBOM (SPDX 2.3). The same commit, version, Go
// and wheels give the same bytes, wherever and by whomever they are built.
//
// It runs nothing but go and hack/smolvm-real/wheel, and never runs what it packs.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const usage = `usage: image build [FLAGS] OUTDIR     writes archives, OCI layouts and SBOMs
       image push LAYOUT REFERENCE     pushes an OCI layout with all its platforms`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) > 0 && args[0] == "build":
		return runBuild(ctx, args[1:])
	case len(args) == 3 && args[0] == "push":
		return push(ctx, args[1], args[2])
	}
	return fmt.Errorf("unknown command\n%s", usage)
}

// release says what the images are made from.
type release struct {
	source   string // the folder of the repository
	version  string // of the operator; the tag of its image
	revision string // the commit
	created  time.Time
	smolvm   string // the release of smolvm; the tag of its image
	wheels   string // the folder to which wheels are downloaded
	// archive is the architecture of the archives for docker load.
	archive   string
	platforms []v1.Platform
}

func runBuild(ctx context.Context, args []string) error {
	var r release
	var platforms string
	var created int64
	flags := flag.NewFlagSet("image build", flag.ContinueOnError)
	flags.StringVar(&r.source, "source", ".", "the folder of the repository")
	flags.StringVar(&r.version, "version", "", "the version of the operator (required)")
	flags.StringVar(&r.revision, "revision", "", "the commit that the sources are at (required)")
	flags.Int64Var(&created, "created", 0, "the time of the commit, in seconds since 1970 (required)")
	flags.StringVar(&r.smolvm, "smolvm", "", "the release of smolvm (required)")
	flags.StringVar(&r.wheels, "wheels", "", "the folder that keeps wheels of smolvm (required)")
	flags.StringVar(&r.archive, "archive", runtime.GOARCH, "the architecture of the archives for docker load")
	flags.StringVar(&platforms, "platforms", "linux/amd64,linux/arm64", "the platforms to build for")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 || r.version == "" || r.revision == "" || created <= 0 || r.smolvm == "" || r.wheels == "" {
		flags.Usage()
		return fmt.Errorf("a flag or the output folder is missing\n%s", usage)
	}
	r.created = time.Unix(created, 0).UTC()
	var err error
	if r.platforms, err = parsePlatforms(platforms); err != nil {
		return err
	}
	return build(ctx, r, flags.Arg(0))
}

func parsePlatforms(list string) ([]v1.Platform, error) {
	var platforms []v1.Platform
	for one := range strings.SplitSeq(list, ",") {
		p, err := v1.ParsePlatform(one)
		if err != nil {
			return nil, fmt.Errorf("platform %q: %w", one, err)
		}
		if p.OS != "linux" || (p.Architecture != "amd64" && p.Architecture != "arm64") || p.String() != one {
			return nil, fmt.Errorf("platform %q: want linux/amd64 or linux/arm64", one)
		}
		platforms = append(platforms, *p)
	}
	return platforms, nil
}

func build(ctx context.Context, r release, dir string) error {
	out, err := newOutput(dir)
	if err != nil {
		return err
	}
	defer out.discard()
	operator, err := operatorProduct(ctx, r, out.scratch)
	if err != nil {
		return fmt.Errorf("build bottle-operator: %w", err)
	}
	smolvm, err := smolvmProduct(ctx, r, out.scratch)
	if err != nil {
		return fmt.Errorf("build bottle-smolvm: %w", err)
	}
	for _, p := range []*product{operator, smolvm} {
		if err := out.add(p, r); err != nil {
			return fmt.Errorf("write %s: %w", p.name, err)
		}
	}
	if err := out.addBundle(r); err != nil {
		return fmt.Errorf("write the bundle's image: %w", err)
	}
	return out.publish()
}
