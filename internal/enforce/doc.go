// SPDX-License-Identifier: Apache-2.0

// Package enforce keeps every running machine of the node behind its wall, and
// proves from inside the guest that nothing but the Bottle's bundle can be
// reached. It is the only package that decides what a leak is, and the only
// one that acts on it.
//
// It has four parts behind one interface, Enforcement:
//
//   - the guard (loop.go, look.go) looks at all machines and walls every
//     second. It kills the machine of a wall that does not hold, and repairs
//     the wall. It needs only the kernel and the state directory: a hanging
//     dockerd, smolvm or API server does not stop it, and it guards the
//     machines of an earlier agent before the API server has answered;
//   - the leaks (leak.go): the rule, the kill, and the evidence;
//   - the walls (wall.go, reach.go): making a wall, and narrowing what it and
//     the bundle let through;
//   - the prover (prover.go, prove.go): running proofs, and what they came to.
//
// The package starts no machine and writes no status: whoever it notifies does.
// What a guest says about itself never proves anything.
package enforce
