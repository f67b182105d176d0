// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Condition types of a Bottle. An absent condition counts as Unknown.
const (
	// ConditionReady is True when all of the conditions from Scheduled to
	// EgressEnforced are True, or when the machine is verified to be down because
	// spec.desiredState is Stopped or the workload ended with exit code 0. Wait for
	// this condition.
	ConditionReady = "Ready"
	// ConditionScheduled is True when kube-scheduler has chosen a node.
	ConditionScheduled = "Scheduled"
	// ConditionNetworkReady is True when the Bottle's subnet and addresses are
	// allocated and the bundle's network exists on the node.
	ConditionNetworkReady = "NetworkReady"
	// ConditionSmolfileReady is True when the Smolfile on the node, the file that
	// configures the machine, matches this generation of the spec.
	ConditionSmolfileReady = "SmolfileReady"
	// ConditionBundleReady is True when the sidecar container runs at its fixed
	// IP address and answers on its ports.
	ConditionBundleReady = "BundleReady"
	// ConditionMachineReady is True when the machine is running and answers.
	ConditionMachineReady = "MachineReady"
	// ConditionEgressEnforced is True when a proof from inside the guest has shown
	// that the guest can reach nothing but its bundle. The proof rests on what the
	// node observed, not on what the guest reports.
	ConditionEgressEnforced = "EgressEnforced"
	// ConditionEgressLimited is present only while True: the Bottle runs without the
	// rules of spec.egress.allow that its message names, because the platform refuses
	// them.
	ConditionEgressLimited = "EgressLimited"
	// ConditionFinished is present only once the workload has ended for good: it is True
	// then. The machine is stopped and its resources are released. Its disk, logs and
	// files stay until the Bottle is deleted.
	ConditionFinished = "Finished"
	// ConditionFilesOpen is present only while True: the machine of a finished Bottle
	// runs, without its workload, so that files can be copied.
	ConditionFilesOpen = "FilesOpen"
	// ConditionPendingRestart is present only while True: changes to the fields
	// that its message names take effect only in a new machine, or after a restart of
	// this one. The message says which of the two is enough.
	ConditionPendingRestart = "PendingRestart"
	// ConditionReconciling is present only while True, as kstatus expects: work
	// is in progress.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is present only while True, as kstatus expects: the Bottle
	// cannot make progress until the user changes something.
	ConditionStalled = "Stalled"
)

// Reasons of more than one condition type.
const (
	// ReasonReady: the condition is met.
	ReasonReady = "Ready"
	// ReasonBlocked: an earlier step has not finished yet.
	ReasonBlocked = "Blocked"
	// ReasonError: the state could not be determined; the operator retries with
	// backoff.
	ReasonError = "Error"
	// ReasonStopped: the Bottle is stopped because spec.desiredState is Stopped.
	ReasonStopped = "Stopped"
	// ReasonStopping: the machine is being stopped because spec.desiredState is
	// Stopped.
	ReasonStopping = "Stopping"
	// ReasonProgressing: the operator is still working on this generation of the
	// spec.
	ReasonProgressing = "Progressing"
	// ReasonTerminating: the Bottle is being deleted, and its parts are being
	// removed from the node.
	ReasonTerminating = "Terminating"
	// ReasonAgentLost: the node's agent no longer renews its Lease, so the state
	// of the Bottle is unknown.
	ReasonAgentLost = "AgentLost"
	// ReasonDockerUnavailable: the node's Docker Engine does not answer, or has no API
	// version in common with this release of the operator.
	ReasonDockerUnavailable = "DockerUnavailable"
	// ReasonDockerStuck: the node's Docker Engine neither removes a container or
	// network of the Bottle, nor lets it be used or replaced. The message says what
	// to do on the node.
	ReasonDockerStuck = "DockerStuck"
	// ReasonContainerRuntimeUnavailable: the node's container runtime (containerd or
	// CRI-O) does not answer the agent. The message says what to do on the node.
	ReasonContainerRuntimeUnavailable = "ContainerRuntimeUnavailable"
	// ReasonPodStarting: the kubelet has not started the Bottle's Pod yet, or starts it
	// again. kubectl describe pod shows what it waits for.
	ReasonPodStarting = "PodStarting"
)

// Reasons of Finished, and of Ready once the Bottle has finished.
const (
	// ReasonCompleted: the workload ended with exit code 0, and spec.restartPolicy is
	// not Always.
	ReasonCompleted = "Completed"
	// ReasonFailed: the workload did not end with exit code 0, or its machine was lost,
	// and spec.restartPolicy is Never. On an Event, it also says that one attempt to pull
	// the image or artifact failed.
	ReasonFailed = "Failed"
	// ReasonDeadlineExceeded: the Bottle ran for spec.lifetime.activeDeadlineSeconds.
	ReasonDeadlineExceeded = "DeadlineExceeded"
)

// Reasons of FilesOpen.
const (
	// ReasonCopying: a user copies files, or has done so within the last minute.
	ReasonCopying = "Copying"
)

// Reasons of Scheduled.
const (
	// ReasonScheduled: kube-scheduler bound the placeholder Pod to a node.
	ReasonScheduled = "Scheduled"
	// ReasonReleased: the Bottle has finished. It stays on its node, but nothing is
	// booked for it there.
	ReasonReleased = "Released"
	// ReasonPending: the Bottle waits for the manager, or its placeholder Pod for
	// kube-scheduler.
	ReasonPending = "Pending"
	// ReasonUnschedulable: no node fits; the message comes from kube-scheduler.
	ReasonUnschedulable = "Unschedulable"
	// ReasonPlaceholderRefused: the API server refused the placeholder Pod, for
	// example because of a quota, limit or policy; the message gives its answer. An
	// Event of this name also reports a change to the Pod's labels or annotations
	// that the API server refused.
	ReasonPlaceholderRefused = "PlaceholderRefused"
	// ReasonPlaceholderMismatch: the placeholder Pod is not what the manager
	// creates: it requests less or has other containers. It places no Bottle, and is
	// replaced. The Event of this name says so even if that happens at once.
	ReasonPlaceholderMismatch = "PlaceholderMismatch"
	// ReasonPlaceholderEnded: the placeholder Pod has ended, for example because a
	// kubelet rejected or evicted it, or because its node shut down. Nothing is
	// reserved for the Bottle until a new Pod takes its place: at once the first time,
	// and after growing pauses if that ends too. A machine that exists keeps running,
	// unless its bundle runs in the Pod: then it ended with the Pod, and starts again in
	// the next one. Scheduled stays True. The Event of this name says so each time.
	ReasonPlaceholderEnded = "PlaceholderEnded"
	// ReasonNamespaceTerminating: the Bottle's namespace is being deleted, so no
	// placeholder Pod can be created in it.
	ReasonNamespaceTerminating = "NamespaceTerminating"
	// ReasonNodeLost: the node is gone or was declared out of service; the Bottle
	// is being placed again.
	ReasonNodeLost = "NodeLost"
	// ReasonEvicted: the placeholder Pod was deleted while it had not ended, for example
	// by a drain or a preemption, or the Node was removed. The agent removes the machine,
	// with its disk, before the Bottle moves to another node.
	ReasonEvicted = "Evicted"
)

// Reasons of NetworkReady.
const (
	// ReasonSubnetsExhausted: no candidate subnet is free on the node.
	ReasonSubnetsExhausted = "SubnetsExhausted"
	// ReasonNetworkConflict: a docker network that has the Bottle's name, or a link in its
	// Pod, belongs to someone else; or two Pods look like the Bottle's placeholder; or its
	// Pod uses the node's network.
	ReasonNetworkConflict = "NetworkConflict"
	// ReasonRouteConflict: routes of the node overlap the Bottle's subnet. They came
	// after the Bottle, for example with a VPN or from the cluster's network. The
	// machine and its wall stay as they are.
	ReasonRouteConflict = "RouteConflict"
	// ReasonSubnetReserved: the condition is True, but the Bottle's subnet overlaps
	// networks that are in use elsewhere, which the node cannot reach in full. New
	// Bottles get no such subnet.
	ReasonSubnetReserved = "SubnetReserved"
)

// Reasons of SmolfileReady.
const (
	// ReasonEnvironmentNotReady: the manager has not sent the node the values of a Secret
	// or ConfigMap that the Bottle names yet. A machine that runs keeps running.
	ReasonEnvironmentNotReady = "EnvironmentNotReady"
	// ReasonEnvironmentForbidden: the manager may not read a Secret or ConfigMap that
	// the Bottle names.
	ReasonEnvironmentForbidden = "EnvironmentForbidden"
	// ReasonSecretNotFound: a Secret, or a key in it, does not exist.
	ReasonSecretNotFound = "SecretNotFound"
	// ReasonConfigMapNotFound: a ConfigMap, or a key in it, does not exist.
	ReasonConfigMapNotFound = "ConfigMapNotFound"
	// ReasonEnvInvalid: a value cannot be passed to a process because it is too
	// long, contains a NUL or is not valid UTF-8.
	ReasonEnvInvalid = "EnvInvalid"
)

// Reasons of BundleReady.
const (
	// ReasonBundleRejected: Docker refused to create the container that spec.bundle
	// describes. In a Pod, see PodStarting.
	ReasonBundleRejected = "BundleRejected"
	// ReasonBundleConflict: a docker container that has the Bottle's name belongs to
	// someone else; or two Pods look like the Bottle's placeholder; or its Pod uses the
	// node's network.
	ReasonBundleConflict = "BundleConflict"
	// ReasonBundleImageNotAllowed (also of Scheduled): spec.bundle.image matches none of
	// the images that the agent or, for a Pod, the manager allows (the chart's value
	// bundle.allowedImages, which sets their flags --allowed-bundle-images).
	ReasonBundleImageNotAllowed = "BundleImageNotAllowed"
	// ReasonBundleImageMissing: the node's Docker Engine does not have the image.
	ReasonBundleImageMissing = "BundleImageMissing"
	// ReasonEgressRuleInvalid: a rule in spec.egress is valid in the schema but names a
	// destination that cannot be allowed, or has a path pattern that matches nothing; the
	// message names the field and the rule.
	ReasonEgressRuleInvalid = "EgressRuleInvalid"
	// ReasonEgressRuleRefused (also of EgressLimited): the platform closes what a rule
	// in spec.egress names. The message names the rule, and says whether it is in
	// the subnet pool, an address of the node, in a network of the agent's flag
	// --egress-closed, or not within its flag --egress-ceiling. A Bottle without a
	// machine gets none until the rule is removed; one that has a machine keeps it and
	// runs without the rule.
	ReasonEgressRuleRefused = "EgressRuleRefused"
	// ReasonBundleStarting: the container is not running yet.
	ReasonBundleStarting = "BundleStarting"
	// ReasonPodOutdated: the Bottle's Pod was made for an earlier spec.bundle, or by an
	// earlier release. The machine is down, and starts in the Pod that the manager makes
	// in its place.
	ReasonPodOutdated = "PodOutdated"
	// ReasonBundleOutOfMemory: the container was killed for want of memory, and starts
	// again after a few seconds. With the runtime Docker, it exceeded its own limit,
	// status.resources.bundle.memory. With the runtime Pod, the whole Pod ran out of
	// memory: the machine, its overhead and the bundle together.
	ReasonBundleOutOfMemory = "BundleOutOfMemory"
	// ReasonBundleNotAnswering: a port in spec.bundle.ports does not answer.
	ReasonBundleNotAnswering = "BundleNotAnswering"
	// ReasonBundleCANotFound: the file at spec.bundle.caPath does not exist in the
	// bundle's container yet.
	ReasonBundleCANotFound = "BundleCANotFound"
	// ReasonBundleCAInvalid: the file at spec.bundle.caPath is not a list of PEM
	// certificates, or it contains something else as well.
	ReasonBundleCAInvalid = "BundleCAInvalid"
)

// Reasons of MachineReady.
const (
	// ReasonImagePulling: the image is being pulled to the node.
	ReasonImagePulling = "ImagePulling"
	// ReasonErrImagePull: the image could not be pulled; the message says why, in
	// the agent's own words.
	ReasonErrImagePull = "ErrImagePull"
	// ReasonImagePullBackOff: the image could not be pulled; the node tries again
	// after growing pauses.
	ReasonImagePullBackOff = "ImagePullBackOff"
	// ReasonInvalidImageName: the reference is malformed, or this node does not
	// support it.
	ReasonInvalidImageName = "InvalidImageName"
	// ReasonImageNeverPull: the image is not on the node, and
	// spec.imagePullPolicy is Never.
	ReasonImageNeverPull = "ImageNeverPull"
	// ReasonImageNotFound: the archive is not in the node's local image
	// directory.
	ReasonImageNotFound = "ImageNotFound"
	// ReasonUnsupportedBySmolvm: the node's smolvm is too old for the spec, or no
	// release of smolvm supports it.
	ReasonUnsupportedBySmolvm = "UnsupportedBySmolvm"
	// ReasonNodeNotReady: the node lacks something that machines need, for example
	// smolvm, its files or KVM; the message says what.
	ReasonNodeNotReady = "NodeNotReady"
	// ReasonNodeFull: the node has no room for another machine in addition to those that
	// it runs, because one of them had no placeholder Pod for a while and the scheduler
	// gave its room to another Bottle, or because the Bottle's own placeholder Pod has ended. The
	// machine is created when there is room.
	ReasonNodeFull = "NodeFull"
	// ReasonMachineConflict: a machine with the Bottle's name exists and does not
	// belong to the Bottle.
	ReasonMachineConflict = "MachineConflict"
	// ReasonMachineStarting: the machine has been created or is being started.
	ReasonMachineStarting = "MachineStarting"
	// ReasonBootFailed: the machine did not boot; the agent retries with backoff.
	ReasonBootFailed = "BootFailed"
	// ReasonWallBroken: the agent killed the machine because its wall did not
	// hold. It starts again behind a repaired wall, with backoff.
	ReasonWallBroken = "WallBroken"
	// ReasonMachineUnreachable: the VM is running, but the smolvm agent in the
	// guest does not answer.
	ReasonMachineUnreachable = "MachineUnreachable"
	// ReasonStorageTooSmall: the image is larger than the machine's data disk. The
	// message has both sizes.
	ReasonStorageTooSmall = "StorageTooSmall"
	// ReasonMachineRejected: smolvm refused to create the machine that the spec
	// describes, or made one that has what the spec does not ask for.
	ReasonMachineRejected = "MachineRejected"
	// ReasonPolicyNotPersisted: smolvm does not list the bundle's address as the
	// only one that the machine may reach, and the agent is configured to require
	// that.
	ReasonPolicyNotPersisted = "PolicyNotPersisted"
	// ReasonMachineRunning: the machine is running and answers. The message says
	// so if its VMM runs as root, which is the case with smolvm before 1.2.5.
	ReasonMachineRunning = "MachineRunning"
)

// Reasons of EgressEnforced and, because Ready follows it, of Ready.
const (
	// ReasonBothWalls: proven. The node's wall (its packet filter) holds, and
	// smolvm's own filter was observed to refuse what it should.
	ReasonBothWalls = "BothWalls"
	// ReasonHostWall: proven. The node's wall (its packet filter) holds. smolvm's
	// own filter was not observed to refuse what it should, and the message says
	// why.
	ReasonHostWall = "HostWall"
	// ReasonProving: a proof is in progress.
	ReasonProving = "Proving"
	// ReasonProofNotObserved: the node did not observe every attempt that it
	// should have observed, so the guest's own report proves nothing.
	ReasonProofNotObserved = "ProofNotObserved"
	// ReasonProofImpossible: the prober cannot run in the guest.
	ReasonProofImpossible = "ProofImpossible"
	// ReasonBundleNotReached: the guest did not reach its bundle, so its failure
	// to reach anything else proves nothing.
	ReasonBundleNotReached = "BundleNotReached"
	// ReasonLeakDetected: the guest reached something other than its bundle. The
	// machine was stopped, and stays stopped until the spec or the annotation
	// botbottle.dev/prove changes.
	ReasonLeakDetected = "LeakDetected"
	// ReasonWallNotReady: the node's wall cannot be created yet.
	ReasonWallNotReady = "WallNotReady"
	// ReasonWallConflict: a network namespace, link or nftables table with the
	// Bottle's name exists and does not belong to the Bottle.
	ReasonWallConflict = "WallConflict"
	// ReasonUnproven: the Bottle runs without a proof. None is possible, and the
	// agent is configured not to require one.
	ReasonUnproven = "Unproven"
)

// Reasons of PendingRestart.
const (
	// ReasonSpecChanged: fields of the spec differ from those that the machine
	// was created with.
	ReasonSpecChanged = "SpecChanged"
)

// Reasons that only Events have. They report something that happened once, not
// a lasting state, so no condition uses them.
const (
	// ReasonMachineLost: the machine ended without a request to stop it.
	ReasonMachineLost = "MachineLost"
	// ReasonEgressRefused: the guest tried to reach something that it may not
	// reach, and was refused.
	ReasonEgressRefused = "EgressRefused"
	// ReasonEgressDenied: the bundle refused requests of the guest. The message says
	// why each was refused, and what to add to spec.egress.allow or to which field of a
	// rule in spec.egress.rules, in the words of the bundle's answer.
	ReasonEgressDenied = "EgressDenied"
	// ReasonSecretSent: a request of the guest contained the value of a Secret of the
	// Bottle that is too short to be refused: other text may contain it by accident. The
	// message says which Secret and where, and never the value.
	ReasonSecretSent = "SecretSent"
	// ReasonEgressFailed: the bundle could not forward requests of the guest that the
	// rules allow. The message says why each of them failed.
	ReasonEgressFailed = "EgressFailed"
	// ReasonWhiteSpaceDropped: white space at the end of a value of spec.env
	// does not reach the guest.
	ReasonWhiteSpaceDropped = "WhiteSpaceDropped"
	// ReasonOutputLost: the workload printed more than could be kept, and a part of its
	// output is missing from its log.
	ReasonOutputLost = "OutputLost"
	// ReasonPulling: the image or artifact is being pulled to the node.
	ReasonPulling = "Pulling"
	// ReasonPulled: the image or artifact is on the node.
	ReasonPulled = "Pulled"
	// ReasonBackOff: a pull failed, and the node waits before it tries again.
	ReasonBackOff = "BackOff"
	// ReasonOrphanRemoved (on the Node): something that belonged to a Bottle that
	// no longer exists was removed from the node.
	ReasonOrphanRemoved = "OrphanRemoved"
	// ReasonSandboxReplaced: the network namespace of the Bottle's Pod was lost, for
	// example because the Pod's sandbox was killed, and the kubelet made another one.
	// The machine was cut off meanwhile, and got a new link behind a new wall.
	ReasonSandboxReplaced = "SandboxReplaced"
	// ReasonNewerSmolvm (on the Node): the node's smolvm is newer than the
	// releases that this operator was tested with.
	ReasonNewerSmolvm = "NewerSmolvm"
)

// ConditionType describes a condition type to the code that writes and checks
// conditions.
//
// +kubebuilder:object:generate=false
type ConditionType struct {
	// Type of the condition.
	Type string
	// Manager and Agent say which of the two controllers write the condition.
	// Where both do, the manager writes it while no agent can.
	Manager, Agent bool
	// DoneReason and DoneMessage are what the condition reports when the steps
	// that it covers are done; empty for a condition that is computed otherwise.
	DoneReason, DoneMessage string
	// Events: a change of the condition is reported by an Event.
	Events bool
	// OnlyTrue: the condition is present only while it is True.
	OnlyTrue bool
}

// ConditionTypes are all condition types. Those that steps report are in the
// order in which the steps are reached.
var ConditionTypes = []ConditionType{
	{Type: ConditionScheduled, Manager: true},
	{Type: ConditionNetworkReady, Agent: true, Events: true,
		DoneReason: ReasonReady, DoneMessage: "the subnet is allocated and the bundle's network exists"},
	{Type: ConditionSmolfileReady, Agent: true, Events: true,
		DoneReason: ReasonReady, DoneMessage: "the Smolfile on the node matches the spec"},
	{Type: ConditionBundleReady, Agent: true, Events: true,
		DoneReason: ReasonReady, DoneMessage: "the bundle runs and answers on its ports"},
	{Type: ConditionMachineReady, Agent: true, Events: true,
		DoneReason: ReasonMachineRunning, DoneMessage: "the machine is running and answers"},
	{Type: ConditionEgressEnforced, Manager: true, Agent: true, Events: true},
	{Type: ConditionEgressLimited, Agent: true, Events: true, OnlyTrue: true},
	{Type: ConditionFinished, Agent: true, Events: true, OnlyTrue: true},
	{Type: ConditionFilesOpen, Agent: true, OnlyTrue: true},
	{Type: ConditionPendingRestart, Agent: true, Events: true, OnlyTrue: true},
	{Type: ConditionReady, Manager: true, Agent: true},
	{Type: ConditionReconciling, Agent: true, OnlyTrue: true},
	{Type: ConditionStalled, Agent: true, OnlyTrue: true},
}

// RoutineReasons are the reasons that every Bottle goes through, or that another
// Event reports already. A condition that changes to one of them causes no Event.
var RoutineReasons = map[string]bool{
	ReasonBlocked:         true,
	ReasonMachineStarting: true,
	ReasonBundleStarting:  true,
	ReasonPodStarting:     true,
	ReasonPodOutdated:     true,
	ReasonStopping:        true,
	ReasonProving:         true,
	// The pull itself records Events with the reasons that Pods use.
	ReasonImagePulling:     true,
	ReasonErrImagePull:     true,
	ReasonImagePullBackOff: true,
	// Finished reports how a Bottle has ended.
	ReasonCompleted:        true,
	ReasonFailed:           true,
	ReasonDeadlineExceeded: true,
}

// UnknownReasons are the reasons of EgressEnforced that leave it unknown whether
// the walls hold, so that the condition is Unknown rather than False.
var UnknownReasons = map[string]bool{
	ReasonProving:          true,
	ReasonProofNotObserved: true,
	ReasonProofImpossible:  true,
	ReasonBundleNotReached: true,
	ReasonError:            true,
}
