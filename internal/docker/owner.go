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

// ownerOf returns the owner that labels tell, with an empty UID when they are
// not ours.
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

// labelled filters for what bears our labels, of any cluster and node.
func labelled() client.Filters {
	return make(client.Filters).Add("label", v1alpha1.LabelUID)
}

// foreign is ErrConflict, naming the thing and whose it is.
func foreign(kind, name, id string, labels map[string]string) error {
	whose := "bears no labels of a Bottle"
	if o := ownerOf(labels); o.UID != "" {
		whose = fmt.Sprintf("belongs to Bottle %s/%s (uid %s) of cluster %s on node %s", o.Namespace, o.Name, o.UID, o.Cluster, o.Node)
	}
	return fmt.Errorf("docker %s %q (id %.12s) %s: %w", kind, name, id, whose, host.ErrConflict)
}
