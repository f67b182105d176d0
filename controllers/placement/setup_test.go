// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// TestSlimNodeKeepsAddresses: the access API connects to agents only at these.
func TestSlimNodeKeepsAddresses(t *testing.T) {
	node := &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}}}
	slim, err := slimNode(node)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(node.Status.Addresses, slim.(*corev1.Node).Status.Addresses); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}
