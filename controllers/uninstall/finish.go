// SPDX-License-Identifier: Apache-2.0

package uninstall

import (
	"context"
	"errors"
	"fmt"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/controllers/node"
)

// What the manager and the agents create in the operator's namespace.
const (
	agentLeases  = "bottle-agent-"
	managerLease = "bottle-manager"
	accessSecret = "bottle-access-ca"
)

// pageSize is how many Nodes are read at a time.
const pageSize = 250

// Finish removes what the manager and the agents left in the cluster, after they were
// removed: the label and the resource on Nodes, and their Leases and the Secret in the
// operator's namespace. c must not read from a cache.
func Finish(ctx context.Context, c client.Client, namespace string) error {
	var errs []error
	nodes := &corev1.NodeList{}
	for {
		if err := c.List(ctx, nodes, client.Limit(pageSize), client.Continue(nodes.Continue)); err != nil {
			return fmt.Errorf("list Nodes: %w", err)
		}
		for i := range nodes.Items {
			n := &nodes.Items[i]
			_, labelled := n.Labels[v1alpha1.LabelAgent]
			_, capacity := n.Status.Capacity[v1alpha1.ResourceBottle]
			_, allocatable := n.Status.Allocatable[v1alpha1.ResourceBottle]
			if labelled || capacity || allocatable {
				errs = append(errs, node.Withdraw(ctx, c, n.Name))
			}
		}
		if nodes.Continue == "" {
			break
		}
	}
	leases := &coordinationv1.LeaseList{}
	if err := c.List(ctx, leases, client.InNamespace(namespace)); err != nil {
		return errors.Join(append(errs, fmt.Errorf("list Leases: %w", err))...)
	}
	for i := range leases.Items {
		if l := &leases.Items[i]; l.Name == managerLease || strings.HasPrefix(l.Name, agentLeases) {
			errs = append(errs, client.IgnoreNotFound(c.Delete(ctx, l)))
		}
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: accessSecret}}
	return errors.Join(append(errs, client.IgnoreNotFound(c.Delete(ctx, secret)))...)
}
