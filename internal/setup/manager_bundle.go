// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// BundleOptions say which bundles placeholder Pods run.
type BundleOptions struct {
	// Image is the image of the built-in bundle; "" means that of the manager's own Pod.
	Image   string
	Allowed []string
}

// Bind adds the flags.
func (o *BundleOptions) Bind(fs *pflag.FlagSet) {
	fs.StringVar(&o.Image, "bundle-image", "", "image of the operator, from which each Bottle's Pod runs the built-in bundle; it must name a numeric user other than root; if empty, the image of the manager's own Pod (required outside a Pod)")
	bindAllowedImages(fs, &o.Allowed)
	// Earlier releases needed this flag where no public registry could be reached. It is
	// accepted, so that a manager that is still given it starts after an upgrade.
	fs.String("placeholder-image", "", "")
	if err := fs.MarkDeprecated("placeholder-image", "it has no effect: Pods run from the operator's image (--bundle-image)"); err != nil {
		panic(err) // the flag exists
	}
}

// bindAllowedImages adds the flag that the manager and the agent have.
func bindAllowedImages(fs *pflag.FlagSet, globs *[]string) {
	fs.StringArrayVar(globs, "allowed-bundle-images", nil, "glob of images that spec.bundle.image may name, such as ghcr.io/org/*; may be repeated; by default, none; the manager and the agents need the same ones")
}

// validateAllowedImages returns an error that names every invalid glob.
func validateAllowedImages(globs []string) error {
	var errs []error
	for _, glob := range globs {
		if _, err := path.Match(glob, ""); err != nil || glob == "" {
			errs = append(errs, fmt.Errorf("--allowed-bundle-images %q: want a glob such as ghcr.io/org/*", glob))
		}
	}
	return errors.Join(errs...)
}

// Names in config/manager.
const (
	podNameVariable  = "POD_NAME"
	managerContainer = "manager"
)

// image returns the image of the built-in bundle. The operator's image has it, and the
// manager's Pod runs from that image, wherever it was mirrored to.
func (o *BundleOptions) image(ctx context.Context, c client.Reader, namespace string) (string, error) {
	if o.Image != "" {
		return o.Image, nil
	}
	name := os.Getenv(podNameVariable)
	if name == "" {
		return "", fmt.Errorf("--bundle-image: required where %s does not name the manager's Pod", podNameVariable)
	}
	pod := &corev1.Pod{}
	if err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, pod); err != nil {
		return "", fmt.Errorf("--bundle-image: get the manager's own Pod %s/%s: %w", namespace, name, err)
	}
	for _, container := range pod.Spec.Containers {
		if container.Name == managerContainer {
			return container.Image, nil
		}
	}
	return "", fmt.Errorf("--bundle-image: required, because Pod %s/%s has no container %q", namespace, name, managerContainer)
}
