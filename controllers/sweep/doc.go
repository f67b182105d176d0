// SPDX-License-Identifier: Apache-2.0

// Package sweep finds what is left on the node of Bottles that are no longer
// there: what a teardown could not remove, because the Bottle was taken away
// without one. It removes nothing itself: the Bottles' controller does, in its
// work queue. What belongs to another cluster, to another node or to nobody is
// never touched.
package sweep
