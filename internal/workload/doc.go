// SPDX-License-Identifier: Apache-2.0

// Package workload decides what a Bottle's workload, and the time, mean for the Bottle:
// whether it runs, ends or has finished, what its status says of the workload, and what
// its supervisor is to do. It is pure. A report comes from the guest, where root can
// write anything: it is believed for how the command ended, and for nothing else.
package workload
