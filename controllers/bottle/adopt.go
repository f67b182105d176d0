// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// adoptStep claims the Bottle for this node.
type adoptStep struct {
	client client.Client
}

// ensure adds the finalizer, before anything is created on the node, and then
// creates the Bottle's folder.
func (a *adoptStep) ensure(ctx context.Context, s *scope) error {
	if !controllerutil.ContainsFinalizer(s.bottle, v1alpha1.FinalizerNode) {
		b := s.bottle.DeepCopy()
		controllerutil.AddFinalizer(b, v1alpha1.FinalizerNode)
		if err := patchMeta(ctx, a.client, s, b); err != nil {
			return fmt.Errorf("add the finalizer to bottle %s: %w", s.key(), err)
		}
	}
	return s.folder.Ensure(s.owner)
}

// patchMeta writes the differences between b and the scope's Bottle. It fails
// if somebody else wrote in between.
func patchMeta(ctx context.Context, c client.Client, s *scope, b *v1alpha1.Bottle) error {
	patch := client.MergeFromWithOptions(s.bottle, client.MergeFromWithOptimisticLock{})
	if err := c.Patch(ctx, b, patch); err != nil {
		return err
	}
	s.bottle = b
	return nil
}
