// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"botbottle.dev/bottle-operator/hack/internal/imagetar"
	"botbottle.dev/bottle-operator/internal/bundleimage"
	"botbottle.dev/bottle-operator/internal/cabundle"
)

const (
	setupPackage = "botbottle.dev/bottle-operator/internal/setup"
	// installVersion is the variable in which the installer finds the version of what
	// it installs.
	installVersion = "BOTTLE_INSTALL_VERSION="
)

// program is a program of this repository.
type program struct {
	name, pkg string
	stamped   bool // knows the version of the operator
}

// installer copies what is in an image to the node.
var installer = program{name: "bottle-install", pkg: "./cmd/bottle-install"}

// programs are those of the operator's image, each in a layer of its own.
var programs = []program{
	installer,
	{name: "bottle-guest", pkg: "./cmd/bottle-guest"},
	{name: "bottle-bundle", pkg: "./cmd/bottle-bundle"},
	{name: "bottle-operator", pkg: ".", stamped: true},
}

// compile builds the programs for an architecture into dir. Nothing but the sources,
// the version and the release of Go has an influence on the result.
func compile(ctx context.Context, r release, arch, dir string) error {
	for _, p := range programs {
		// Without its build ID, a program changes only if its code does.
		link := "-s -w -buildid="
		if p.stamped {
			link += fmt.Sprintf(" -X %s.version=%s -X %s.commit=%s", setupPackage, r.version, setupPackage, r.revision)
		}
		cmd := exec.CommandContext(ctx, "go", "build", "-C", r.source, "-trimpath", "-buildvcs=false",
			"-ldflags", link, "-o", filepath.Join(dir, p.name), p.pkg)
		cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0", "CGO_ENABLED=0",
			"GOWORK=off", "GOFIPS140=off", "GOEXPERIMENT=", "GOFLAGS=-trimpath")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s for %s: %w\n%s", p.pkg, arch, err, out)
		}
	}
	return nil
}

// operatorProduct compiles the programs into scratch/ARCHITECTURE and returns the
// image that has them.
func operatorProduct(ctx context.Context, r release, scratch string) (*product, error) {
	own := labels(r, map[string]string{
		"title":       "Bottle Operator",
		"description": "Manager, node agent, bundle and guest program of the Bottle Operator",
		"version":     r.version,
		"licenses":    "Apache-2.0",
	})
	p := &product{name: "bottle-operator", version: r.version}
	for _, platform := range r.platforms {
		dir := filepath.Join(scratch, platform.Architecture)
		if err := compile(ctx, r, platform.Architecture, dir); err != nil {
			return nil, err
		}
		contents, err := operatorLayers(r, dir)
		if err != nil {
			return nil, err
		}
		one, err := newPlatformImage(platform, contents, v1.Config{
			User:       bundleimage.User,
			Entrypoint: []string{"/bottle-operator"},
			WorkingDir: "/",
			Env:        []string{installVersion + r.version},
			Labels:     own,
		}, r)
		if err != nil {
			return nil, err
		}
		p.platforms = append(p.platforms, one)
	}
	return p, p.setIndex(own)
}

func operatorLayers(r release, dir string) (layers, error) {
	license, err := os.ReadFile(filepath.Join(r.source, "LICENSE"))
	if err != nil {
		return nil, err
	}
	contents := layers{{
		imagetar.Regular("licenses/LICENSE", 0o644, license),
		imagetar.Regular("etc/passwd", 0o644, fmt.Appendf(nil, "root:x:0:0:root:/:/sbin/nologin\nbottle:x:%[1]d:%[1]d:bottle:/:/sbin/nologin\n", bundleimage.UserID)),
		imagetar.Regular("etc/group", 0o644, fmt.Appendf(nil, "root:x:0:\nbottle:x:%d:\n", bundleimage.UserID)),
		imagetar.Regular("etc/ssl/certs/ca-certificates.crt", 0o644, cabundle.WithPublicRoots(nil)),
	}}
	for _, p := range programs {
		layer, err := p.layer(dir)
		if err != nil {
			return nil, err
		}
		contents = append(contents, layer)
	}
	return contents, nil
}

// layer returns a layer with the program, which compile built into dir.
func (p program) layer(dir string) ([]imagetar.File, error) {
	content, err := os.ReadFile(filepath.Join(dir, p.name))
	return []imagetar.File{imagetar.Regular(p.name, 0o755, content)}, err
}
