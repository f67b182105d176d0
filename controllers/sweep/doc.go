// SPDX-License-Identifier: Apache-2.0

// Package sweep finds orphans: objects on the node whose Bottle no longer
// exists. They are left behind if a Bottle is removed without a teardown. If the
// API server reports the removal, the teardown follows at once; whatever else is
// found must have been an orphan for a grace period. The
// package removes nothing itself: it requests a teardown from the Bottle
// controller, which runs it in its work queue. Objects that belong to another
// cluster, to another node or to nobody are never changed.
package sweep
