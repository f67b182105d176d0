// SPDX-License-Identifier: Apache-2.0

package smolvm

// DataDir is the folder where smolvm keeps a machine's files.
func DataDir(d *Driver, name string) string { return d.dataDir(name) }
