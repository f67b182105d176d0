// SPDX-License-Identifier: Apache-2.0

package wall

import "botbottle.dev/bottle-operator/internal/host"

// withoutPod judges a wall whose Pod has no network namespace. The kernel deletes the wall's
// link together with the namespace that it leads into, so only another link could lead
// anywhere.
func (j *judgment) withoutPod() {
	j.closedFault("the Pod's sandbox does not exist")
	if j.facts.known() {
		j.extraLinks()
	}
}

// pod checks what a Pod has besides the filter. The table does not keep the machine in, so
// a fault in it does not open the wall: it lets others use the bundle. A bridge that
// forwards would pass on a packet that got past the filter.
func (j *judgment) pod() {
	f, bridge := j.facts.pod, j.spec.Owner.Bridge()
	if f.forwards {
		report := j.closedFault
		if j.facts.leadsOut() {
			report = j.openFault
		}
		report("bridge %s forwards packets", bridge)
	}
	for _, name := range f.ports {
		j.closedFault("link %q is in bridge %s", name, bridge)
	}
	if b := j.facts.bridge; b != nil && b.mac != host.BundleMAC(j.spec.BundleIP).String() {
		j.closedFault("bridge %s does not have the bundle's MAC address", bridge)
	}
	if f.table != "" {
		j.closedFault("table inet %s %s", podTableName, f.table)
	}
}
