// SPDX-License-Identifier: Apache-2.0

package smolvm

// DataDir is where smolvm keeps what belongs to a machine.
func DataDir(d *Driver, name string) string { return d.dataDir(name) }
