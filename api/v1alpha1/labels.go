// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Labels on placeholder Pods and on the Docker and smolvm objects of a Bottle.
const (
	// LabelUID is the Bottle's metadata.uid.
	LabelUID = "botbottle.dev/uid"
	// LabelNamespace is the Bottle's namespace.
	LabelNamespace = "botbottle.dev/namespace"
	// LabelName is the Bottle's name.
	LabelName = "botbottle.dev/name"
	// LabelSlug is the Bottle's slug.
	LabelSlug = "botbottle.dev/slug"
	// LabelCluster is the UID of the cluster's kube-system namespace.
	LabelCluster = "botbottle.dev/cluster"
	// LabelNode is the name of the Node.
	LabelNode = "botbottle.dev/node"
	// LabelAgent is set to "ready" on Nodes that can run bottles.
	LabelAgent = "botbottle.dev/agent"
	// LabelAgentReady is the value of LabelAgent on such Nodes.
	LabelAgentReady = "ready"
)

// Annotations on a Bottle that act when their value changes.
const (
	// AnnotationRestartedAt stops and starts the machine; its disk is kept.
	AnnotationRestartedAt = "botbottle.dev/restartedAt"
	// AnnotationRecreatedAt replaces the machine by a new one made with what
	// is pending; its disk is lost.
	AnnotationRecreatedAt = "botbottle.dev/recreatedAt"
	// AnnotationProve has the egress walls proven now; after a leak it lets the
	// machine start again.
	AnnotationProve = "botbottle.dev/prove"
)

const (
	// FinalizerNode is on a Bottle from before the first side effect on a
	// node until nothing of it is left there.
	FinalizerNode = "botbottle.dev/node"
	// FinalizerMachine is on a placeholder Pod until its Bottle's machine
	// is gone, so that a drained Pod holds its resources until then.
	FinalizerMachine = "botbottle.dev/machine"
	// ResourceBottle is the extended resource of which a Node has one for
	// each Bottle that it may run.
	ResourceBottle = "botbottle.dev/bottle"
)

// Field managers of server-side apply.
const (
	// ManagerFieldOwner owns nodeName, resources and Scheduled in a status.
	ManagerFieldOwner = "bottle-manager"
	// AgentFieldOwner owns the rest of a status, one name on every node.
	AgentFieldOwner = "bottle-agent"
)
