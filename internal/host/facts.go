// SPDX-License-Identifier: Apache-2.0

package host

import "context"

// Fact is one thing that the node must have to run bottles.
type Fact struct {
	// Name is one of smolvm, smolvm-version, smolvm-files, docker, kvm, cgroups,
	// state-dir, guest-program, kvm-boot.
	Name string
	OK   bool
	// Message says what is wrong and what to do about it; it is stable from
	// call to call.
	Message string
}

// Facts inspects the node. It changes nothing.
type Facts interface {
	// NodeFacts returns all facts, in a fixed order.
	NodeFacts(ctx context.Context) []Fact
}
