// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"fmt"

	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
)

func labelsOf(o host.Owner) map[string]string {
	return map[string]string{
		v1alpha1.LabelUID:       o.UID,
		v1alpha1.LabelNamespace: o.Namespace,
		v1alpha1.LabelName:      o.Name,
		v1alpha1.LabelSlug:      o.Slug,
		v1alpha1.LabelCluster:   o.Cluster,
		v1alpha1.LabelNode:      o.Node,
	}
}

// ownerOf returns the owner in labels. Its UID is empty when the labels are not
// ours.
func ownerOf(labels map[string]string) host.Owner {
	return host.Owner{
		UID:       labels[v1alpha1.LabelUID],
		Namespace: labels[v1alpha1.LabelNamespace],
		Name:      labels[v1alpha1.LabelName],
		Slug:      labels[v1alpha1.LabelSlug],
		Cluster:   labels[v1alpha1.LabelCluster],
		Node:      labels[v1alpha1.LabelNode],
	}
}

// labelFilter matches objects that have our labels, of any cluster and node.
func labelFilter() client.Filters {
	return make(client.Filters).Add("label", v1alpha1.LabelUID)
}

// foreign returns an ErrConflict that names the object and its owner.
func foreign(kind, name, id string, labels map[string]string) error {
	owner := "has no labels of a Bottle"
	if o := ownerOf(labels); o.UID != "" {
		owner = fmt.Sprintf("belongs to Bottle %s/%s (uid %s) of cluster %s on node %s", o.Namespace, o.Name, o.UID, o.Cluster, o.Node)
	}
	return fmt.Errorf("docker %s %q (id %.12s) %s: %w", kind, name, id, owner, host.ErrConflict)
}
