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
	// LabelAgent is set to "ready" on Nodes that can run Bottles.
	LabelAgent = "botbottle.dev/agent"
	// LabelAgentReady is the value of LabelAgent on such Nodes.
	LabelAgentReady = "ready"
)

// Annotations on a Bottle that trigger an action when their value changes.
const (
	// AnnotationRestartedAt stops and starts the machine; its disk is kept.
	AnnotationRestartedAt = "botbottle.dev/restartedAt"
	// AnnotationRecreatedAt replaces the machine with a new one, created with
	// the pending changes; its disk is lost.
	AnnotationRecreatedAt = "botbottle.dev/recreatedAt"
	// AnnotationProve runs the egress proof now; after a leak it also lets the
	// machine start again.
	AnnotationProve = "botbottle.dev/prove"
	// AnnotationFilesAt starts the machine of a finished Bottle without its workload, so
	// that files can be copied. The manager sets it for a user who copies.
	AnnotationFilesAt = "botbottle.dev/filesAt"
)

// AnnotationHold keeps the workload of a Bottle from starting for as long as it is
// present. The machine runs meanwhile, so that files can be copied into it first. It
// has no effect on a workload that has started.
const AnnotationHold = "botbottle.dev/hold"

// AnnotationBundle is on a placeholder Pod: a digest of the parts of spec.bundle that the
// Pod was made from. The Pod also has the Bottle's annotations AnnotationRestartedAt and
// AnnotationRecreatedAt as they were then.
const AnnotationBundle = "botbottle.dev/bundle"

// AnnotationAgentAddress is on an agent's Lease: the IP:PORT at which the agent
// serves the manager.
const AnnotationAgentAddress = "botbottle.dev/agent-address"

// InUse is an annotation on the CRD of Bottles, and a finalizer on the operator's
// admission policies. Both are present while Bottles exist. The annotation's value is the
// operator's namespace. The policy bottle-uninstall reads the annotation.
const InUse = "botbottle.dev/in-use"

const (
	// FinalizerNode is set on a Bottle before the first side effect on a node
	// and is removed once nothing of the Bottle is left there.
	FinalizerNode = "botbottle.dev/node"
	// FinalizerMachine is set on a placeholder Pod until its Bottle's machine is
	// gone, so that a drained Pod keeps its resources reserved until then.
	FinalizerMachine = "botbottle.dev/machine"
	// ResourceBottle is an extended resource. Its capacity on a Node is the
	// number of Bottles that the Node may run.
	ResourceBottle = "botbottle.dev/bottle"
)

// Field managers for server-side apply.
const (
	// ManagerFieldOwner owns status.nodeName, status.resources and the condition
	// Scheduled.
	ManagerFieldOwner = "bottle-manager"
	// AgentFieldOwner owns the rest of the status. Every node's agent uses it.
	AgentFieldOwner = "bottle-agent"
)
