// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// markPrefix is the prefix of a bridge's mark. The marks of walls begin with
	// "botbottle.dev " instead.
	markPrefix = "botbottle.dev/network "
	// maxNode is the length of the longest node's name that a mark contains; of a longer one
	// it has a digest. The kernel keeps 255 bytes of a link's alias.
	maxNode = 90
)

// markOf returns the mark of a network, which is the alias of its bridge. It records what
// the bridge's address does not show.
func markOf(n host.Network) string {
	return fmt.Sprintf("%suid=%s cluster=%s node=%s subnet=%s gateway=%s",
		markPrefix, n.Owner.UID, n.Owner.Cluster, nodeMark(n.Owner.Node), n.Subnet, n.Gateway)
}

func nodeMark(node string) string {
	if len(node) <= maxNode {
		return node
	}
	sum := sha256.Sum256([]byte(node))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// parseMark is the reverse of markOf. The network's owner has only what is in the mark. It
// returns false if mark is not one of ours.
func parseMark(mark string) (host.Network, bool) {
	rest, ok := strings.CutPrefix(mark, markPrefix)
	if !ok {
		return host.Network{}, false
	}
	values := map[string]string{}
	for _, field := range strings.Fields(rest) {
		key, value, _ := strings.Cut(field, "=")
		values[key] = value
	}
	n := host.Network{Owner: host.Owner{UID: values["uid"], Cluster: values["cluster"], Node: values["node"]}}
	var err error
	if n.Subnet, err = netip.ParsePrefix(values["subnet"]); err != nil {
		return host.Network{}, false
	}
	if n.Gateway, err = netip.ParseAddr(values["gateway"]); err != nil {
		return host.Network{}, false
	}
	return n, n.Owner.UID != ""
}

// marked reports whether a mark names this owner.
func marked(n host.Network, owner host.Owner) bool {
	return n.Owner.UID == owner.UID && n.Owner.Cluster == owner.Cluster && n.Owner.Node == nodeMark(owner.Node)
}
