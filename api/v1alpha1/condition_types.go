// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Condition types of a Bottle. Absent counts as Unknown.
const (
	// ConditionReady is True when all conditions below are, or when a Bottle
	// that is to be stopped is verified down. Wait for this one.
	ConditionReady = "Ready"
	// ConditionScheduled is True when kube-scheduler chose a node.
	ConditionScheduled = "Scheduled"
	// ConditionNetworkReady is True when the subnet triple is allocated and
	// the bundle's network exists on the node.
	ConditionNetworkReady = "NetworkReady"
	// ConditionSmolfileReady is True when the Smolfile on the node is the one
	// that this generation asks for.
	ConditionSmolfileReady = "SmolfileReady"
	// ConditionBundleReady is True when the sidecar container runs at the
	// pinned IP and answers on its ports.
	ConditionBundleReady = "BundleReady"
	// ConditionMachineReady is True when the machine is running and answers.
	ConditionMachineReady = "MachineReady"
	// ConditionEgressEnforced is True when it was proven from inside the guest
	// that nothing but the bundle can be reached, by what the node saw.
	ConditionEgressEnforced = "EgressEnforced"
	// ConditionPendingRestart is present only while True: the fields that its
	// message names wait for a new machine.
	ConditionPendingRestart = "PendingRestart"
	// ConditionReconciling is present only while True (kstatus): work goes on.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is present only while True (kstatus): nothing will get
	// better without a change by the user.
	ConditionStalled = "Stalled"
)

// Reasons of more than one condition type.
const (
	// ReasonReady: what the condition says is so.
	ReasonReady = "Ready"
	// ReasonBlocked: an earlier step is not done yet.
	ReasonBlocked = "Blocked"
	// ReasonError: it could not be found out; tried again with backoff.
	ReasonError = "Error"
	// ReasonStopped: the Bottle is stopped, as spec.desiredState asks.
	ReasonStopped = "Stopped"
	// ReasonStopping: the machine is being stopped, as spec.desiredState asks.
	ReasonStopping = "Stopping"
	// ReasonProgressing: the work of this generation goes on.
	ReasonProgressing = "Progressing"
	// ReasonTerminating: the Bottle is being deleted and its parts removed.
	ReasonTerminating = "Terminating"
	// ReasonAgentLost: the node's agent no longer renews its Lease, so nothing
	// is known of the Bottle.
	ReasonAgentLost = "AgentLost"
	// ReasonDockerUnavailable: the node's Docker Engine does not answer.
	ReasonDockerUnavailable = "DockerUnavailable"
)

// Reasons of Scheduled.
const (
	// ReasonScheduled: kube-scheduler bound the placeholder Pod.
	ReasonScheduled = "Scheduled"
	// ReasonPending: the placeholder Pod waits for kube-scheduler.
	ReasonPending = "Pending"
	// ReasonUnschedulable: no node fits; the message is the scheduler's own.
	ReasonUnschedulable = "Unschedulable"
	// ReasonPlaceholderRefused: the API server refused the placeholder Pod,
	// by quota, limit or policy; the message is its own.
	ReasonPlaceholderRefused = "PlaceholderRefused"
	// ReasonNamespaceTerminating: the Bottle's namespace is being deleted, so no
	// placeholder Pod can be created in it.
	ReasonNamespaceTerminating = "NamespaceTerminating"
	// ReasonNodeLost: the node is gone or declared out of service; the Bottle
	// is being placed again.
	ReasonNodeLost = "NodeLost"
	// ReasonEvicted: the placeholder Pod was deleted (drain, preemption); the
	// machine is torn down before the Bottle goes elsewhere.
	ReasonEvicted = "Evicted"
)

// Reasons of NetworkReady.
const (
	// ReasonSubnetsExhausted: no candidate subnet is free on the node.
	ReasonSubnetsExhausted = "SubnetsExhausted"
	// ReasonNetworkConflict: a docker network of our name is someone else's.
	ReasonNetworkConflict = "NetworkConflict"
)

// Reasons of SmolfileReady.
const (
	// ReasonSecretNotFound: a Secret, or a key of it, is not there.
	ReasonSecretNotFound = "SecretNotFound"
	// ReasonConfigMapNotFound: a ConfigMap, or a key of it, is not there.
	ReasonConfigMapNotFound = "ConfigMapNotFound"
	// ReasonEnvInvalid: a value cannot be given to a process: it is too long,
	// has a NUL or is no UTF-8.
	ReasonEnvInvalid = "EnvInvalid"
)

// Reasons of BundleReady.
const (
	// ReasonBundleRejected: docker refuses the container that spec.bundle asks
	// for.
	ReasonBundleRejected = "BundleRejected"
	// ReasonBundleConflict: a container of our name is someone else's.
	ReasonBundleConflict = "BundleConflict"
	// ReasonBundleImageNotAllowed: the agent's allowed images have no match.
	ReasonBundleImageNotAllowed = "BundleImageNotAllowed"
	// ReasonBundleImageMissing: the node's Docker Engine lacks the image.
	ReasonBundleImageMissing = "BundleImageMissing"
	// ReasonEgressRuleInvalid: a rule of spec.egress.allow passed the schema and
	// still names nothing that can be let through; the message names it.
	ReasonEgressRuleInvalid = "EgressRuleInvalid"
	// ReasonBundleStarting: the container does not run yet.
	ReasonBundleStarting = "BundleStarting"
	// ReasonBundleNotAnswering: a declared port does not answer.
	ReasonBundleNotAnswering = "BundleNotAnswering"
	// ReasonBundleCANotFound: there is no file at spec.bundle.caPath in the
	// bundle's container, yet.
	ReasonBundleCANotFound = "BundleCANotFound"
	// ReasonBundleCAInvalid: the file at spec.bundle.caPath is no list of
	// certificates in PEM, or holds more than that.
	ReasonBundleCAInvalid = "BundleCAInvalid"
)

// Reasons of MachineReady.
const (
	// ReasonImagePulling: the image is on its way to the node.
	ReasonImagePulling = "ImagePulling"
	// ReasonErrImagePull: the image could not be pulled; the message is the
	// registry's.
	ReasonErrImagePull = "ErrImagePull"
	// ReasonImagePullBackOff: it could not, and is tried again with growing
	// pauses.
	ReasonImagePullBackOff = "ImagePullBackOff"
	// ReasonInvalidImageName: the reference names no image that this node can
	// be asked for.
	ReasonInvalidImageName = "InvalidImageName"
	// ReasonImageNeverPull: the image is not on the node, and
	// spec.imagePullPolicy is Never.
	ReasonImageNeverPull = "ImageNeverPull"
	// ReasonImageNotFound: the archive is not in the node's image folder.
	ReasonImageNotFound = "ImageNotFound"
	// ReasonUnsupportedBySmolvm: the node's smolvm is too old for the spec, or
	// no release can do what it asks.
	ReasonUnsupportedBySmolvm = "UnsupportedBySmolvm"
	// ReasonNodeNotReady: a node fact fails: smolvm, its files, or KVM.
	ReasonNodeNotReady = "NodeNotReady"
	// ReasonMachineConflict: a machine of our name is someone else's.
	ReasonMachineConflict = "MachineConflict"
	// ReasonMachineStarting: the machine was created or is being started.
	ReasonMachineStarting = "MachineStarting"
	// ReasonBootFailed: the machine did not boot; tried again with backoff.
	ReasonBootFailed = "BootFailed"
	// ReasonWallBroken: the agent killed the machine because its wall did not
	// hold. It starts again behind a repaired wall, with backoff.
	ReasonWallBroken = "WallBroken"
	// ReasonMachineUnreachable: its VM lives but its agent does not answer.
	ReasonMachineUnreachable = "MachineUnreachable"
	// ReasonMachineRejected: smolvm refused the machine as it was asked for.
	ReasonMachineRejected = "MachineRejected"
	// ReasonPolicyNotPersisted: smolvm does not show exactly the one allowed
	// address for the machine, and the agent was told to insist on that.
	ReasonPolicyNotPersisted = "PolicyNotPersisted"
	// ReasonMachineRunning: the machine is running and answers. The message says
	// so where its VMM runs as root, as smolvm older than 1.2.5 has it.
	ReasonMachineRunning = "MachineRunning"
)

// Reasons of EgressEnforced and, following it, of Ready.
const (
	// ReasonBothWalls: proven; the node's wall holds, and smolvm's own was seen
	// to refuse what it should.
	ReasonBothWalls = "BothWalls"
	// ReasonHostWall: proven; the node's wall holds, smolvm's own was not seen
	// to, and the message says why.
	ReasonHostWall = "HostWall"
	// ReasonProving: a proof is under way.
	ReasonProving = "Proving"
	// ReasonProofNotObserved: the node did not see everything tried that it
	// can see, so that what the guest says of itself proves nothing.
	ReasonProofNotObserved = "ProofNotObserved"
	// ReasonProofImpossible: no prober can be run in the guest.
	ReasonProofImpossible = "ProofImpossible"
	// ReasonBundleNotReached: the guest did not reach its bundle, so that
	// reaching nothing else proves nothing.
	ReasonBundleNotReached = "BundleNotReached"
	// ReasonLeakDetected: something but the bundle was reached. The machine was
	// stopped and stays so until the spec or the prove annotation changes.
	ReasonLeakDetected = "LeakDetected"
	// ReasonWallNotReady: the wall cannot be made yet.
	ReasonWallNotReady = "WallNotReady"
	// ReasonWallConflict: a network namespace, link or nftables table of our
	// name is someone else's.
	ReasonWallConflict = "WallConflict"
	// ReasonUnproven: the Bottle runs, no proof can be made of it, and the agent
	// was told not to insist on one.
	ReasonUnproven = "Unproven"
)

// Reasons of PendingRestart.
const (
	// ReasonSpecChanged: fields of the spec differ from what the machine was
	// created with.
	ReasonSpecChanged = "SpecChanged"
)

// Reasons that only Events have. They report what happened once, not a state
// that lasts, so no condition uses them.
const (
	// ReasonMachineLost: the machine ended without being asked to.
	ReasonMachineLost = "MachineLost"
	// ReasonEgressRefused: the guest tried to reach something that it may not
	// reach, and did not reach it.
	ReasonEgressRefused = "EgressRefused"
	// ReasonWhiteSpaceDropped: white space at the end of a value of spec.env
	// does not reach the guest.
	ReasonWhiteSpaceDropped = "WhiteSpaceDropped"
	// ReasonPulling: the image or artifact is being pulled to the node.
	ReasonPulling = "Pulling"
	// ReasonPulled: the image or artifact is on the node.
	ReasonPulled = "Pulled"
	// ReasonFailed: one attempt to pull the image or artifact failed.
	ReasonFailed = "Failed"
	// ReasonBackOff: a pull failed, and the node waits before it tries again.
	ReasonBackOff = "BackOff"
	// ReasonOrphanRemoved (on the Node): something of a Bottle that no longer
	// exists was removed from the node.
	ReasonOrphanRemoved = "OrphanRemoved"
	// ReasonNewerSmolvm (on the Node): the node's smolvm is newer than the
	// releases that this operator was tested with.
	ReasonNewerSmolvm = "NewerSmolvm"
)
