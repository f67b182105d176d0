// SPDX-License-Identifier: Apache-2.0

// Package enforce keeps every running machine of the node behind its wall, and
// proves from inside the guest that nothing but the Bottle's bundle can be
// reached. It is the only package that decides what a leak is, and the only
// one that acts on it.
//
// It has four parts behind one interface, Enforcement:
//
//   - the guard (loop.go, scan.go) checks all machines and walls every
//     second. If a wall does not hold, it kills the machine and repairs the
//     wall. It needs only the kernel and the state directory: a hanging
//     dockerd, smolvm or API server does not stop it, and it guards the
//     machines of an earlier agent before the API server has answered;
//   - the leaks (leak.go) define what a leak is, kill the machine, and keep the
//     evidence;
//   - the walls (wall.go, reach.go) make a wall, and narrow what it and the
//     bundle let through;
//   - the prover (prover.go, prove.go) runs proofs and keeps their results.
//
// The package starts no machine and writes no status: its subscriber does.
// What a guest reports about itself never proves anything.
package enforce
