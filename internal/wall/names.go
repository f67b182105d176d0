// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"crypto/sha256"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// innerName is the link inside the namespace.
	innerName = "bundle0"
	// chainName is the only chain of a wall's table.
	chainName = "ingress"
	// markPrefix is the prefix of every mark of ours.
	markPrefix = "botbottle.dev "
	// maxMark is the maximum length of a mark, in bytes: the kernel keeps that
	// much of a link's alias, and a rule's comment has room for it.
	maxMark = 253
	// filePrefix and tablePrefix are the prefixes of the names of our namespaces
	// and tables.
	filePrefix, tablePrefix = "bottle-", "bottle-"
)

// tableName returns the name of the wall's table, of the family netdev.
func tableName(o host.Owner) string { return tablePrefix + o.UID8() }

// isWallTable reports whether a table of the family netdev has the name of a wall's.
func isWallTable(name string) bool { return strings.HasPrefix(name, tablePrefix) }

func (w *Walls) path(o host.Owner) string { return filepath.Join(w.dir, o.ID()) }

// markOf returns the mark of a wall, which every part of it has: as the alias of
// the link at the bundle's end; as the alias of the namespace's loopback (which
// nobody can delete, so that a namespace keeps its mark whatever happens to its
// links); and as the comment of the filter's last rule.
func markOf(o host.Owner) string {
	return fmt.Sprintf("%sid=%s uid=%s cluster=%s", markPrefix, o.ID(), o.UID, o.Cluster)
}

// parseMark is the reverse of markOf. It returns false if mark is not one of ours.
func parseMark(mark string) (host.WallOwner, bool) {
	rest, ok := strings.CutPrefix(mark, markPrefix)
	if !ok {
		return host.WallOwner{}, false
	}
	var o host.WallOwner
	for _, field := range strings.Fields(rest) {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "id":
			o.ID = value
		case "uid":
			o.UID = value
		case "cluster":
			o.Cluster = value
		}
	}
	return o, o.ID != "" && o.UID != ""
}

// machineMAC returns the MAC address of the link inside. It depends only on the
// owner, so that the filter does too, and so that a recreated link has the same
// address.
func machineMAC(o host.Owner) net.HardwareAddr { return hashedMAC(0x02, o) }

// bundleEndMAC returns the MAC address of the bundle's end. Its first byte is high: a
// bridge without its own address takes the lowest address of its ports, and a low
// one would change the address of a bridge that is in use.
func bundleEndMAC(o host.Owner) net.HardwareAddr { return hashedMAC(0xfe, o) }

func hashedMAC(first byte, o host.Owner) net.HardwareAddr {
	sum := sha256.Sum256([]byte(o.UID + "/" + o.Cluster))
	return append(net.HardwareAddr{first}, sum[:5]...)
}

func checkSpecs(specs []host.WallSpec) error {
	for _, s := range specs {
		if err := checkSpec(s); err != nil {
			return err
		}
	}
	return nil
}

// checkSpec returns ErrInvalid for a spec that cannot be written as rules.
func checkSpec(s host.WallSpec) error {
	switch {
	case checkOwner(s.Owner) != nil:
		return checkOwner(s.Owner)
	case !s.Subnet.Addr().Is4() || s.Subnet.Masked() != s.Subnet:
		return fmt.Errorf("wall %s: subnet %s is not an IPv4 network: %w", s.Owner.ID(), s.Subnet, host.ErrInvalid)
	case !s.Subnet.Contains(s.BundleIP) || !s.Subnet.Contains(s.MachineIP) || s.BundleIP == s.MachineIP:
		return fmt.Errorf("wall %s: %s and %s are not two addresses of %s: %w", s.Owner.ID(), s.BundleIP, s.MachineIP, s.Subnet, host.ErrInvalid)
	}
	for _, p := range s.Ports {
		if p < 1 || p > 65535 {
			return fmt.Errorf("wall %s: %d is not a valid port: %w", s.Owner.ID(), p, host.ErrInvalid)
		}
	}
	return nil
}

// checkOwner returns ErrInvalid for an owner that no file or link can be named
// after.
func checkOwner(o host.Owner) error {
	id := o.ID()
	if o.Slug == "" || len(o.UID) < 8 || filepath.Base(id) != id || len(markOf(o)) > maxMark || strings.ContainsAny(o.UID+o.Cluster, " \n") {
		return fmt.Errorf("wall %q: no file or link can have this name: %w", id, host.ErrInvalid)
	}
	return nil
}
