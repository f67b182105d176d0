// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Filter checks that the kernel can make a wall. try makes one and removes it.
func Filter(try func() error) Check {
	return Check{"nftables", func(context.Context) (Outcome, string) {
		if err := try(); err != nil {
			return Failure, fmt.Sprintf("the kernel cannot make a wall (%v): load the modules nf_tables and veth (modprobe nf_tables veth), "+
				"or use a kernel with CONFIG_NF_TABLES_NETDEV and CONFIG_VETH", err)
		}
		return OK, ""
	}}
}

// fileSystems are file systems that the state folder must not be on, and why.
var fileSystems = map[int64]string{
	unix.TMPFS_MAGIC:       "tmpfs, which loses the machines' disks at a reboot",
	unix.RAMFS_MAGIC:       "ramfs, which loses the machines' disks at a reboot",
	unix.NFS_SUPER_MAGIC:   "NFS, which other nodes may write to",
	unix.SMB_SUPER_MAGIC:   "SMB, which other nodes may write to",
	unix.CIFS_SUPER_MAGIC:  "SMB, which other nodes may write to",
	unix.FUSE_SUPER_MAGIC:  "FUSE, whose server may hang or see the machines' disks",
	unix.MSDOS_SUPER_MAGIC: "FAT, which has no owners and no sparse files",
}

// usualRoom is the free space, in bytes, below which few Bottles fit: each machine's disk
// and each image take some GiB.
const usualRoom = 10 << 30

// Disk checks the file system of the state folder, which need not exist yet. reserve is
// how many bytes the agent itself leaves free.
func Disk(dir string, reserve int64, statfs func(path string, st *unix.Statfs_t) error) Check {
	return Check{"disk", func(context.Context) (Outcome, string) {
		var st unix.Statfs_t
		at := dir
		err := statfs(at, &st)
		for errors.Is(err, unix.ENOENT) && at != "/" {
			at = filepath.Dir(at)
			err = statfs(at, &st)
		}
		if err != nil {
			return Failure, fmt.Sprintf("the file system of %s cannot be inspected (%v): repair the disk, or set --state-dir", dir, err)
		}
		free := int64(min(st.Bavail, math.MaxInt64>>20)) * st.Bsize
		switch why := fileSystems[st.Type]; {
		case why != "":
			return Failure, fmt.Sprintf("%s is on %s: mount a local disk with ext4 or XFS there, or set --state-dir", dir, why)
		case st.Files > 0 && st.Ffree < 1000:
			return Failure, fmt.Sprintf("the file system of %s has %d free inodes: remove files, or set --state-dir", dir, st.Ffree)
		case free <= max(reserve, 0):
			return Failure, fmt.Sprintf("the file system of %s has %s free, which is not more than the reserve (--image-reserve-bytes): free some space, or set --state-dir", dir, size(free))
		case free < usualRoom:
			return Warning, fmt.Sprintf("the file system of %s has %s free, which is enough for few Bottles: free %s, or set --state-dir", dir, size(free), size(usualRoom))
		}
		return OK, size(free) + " free"
	}}
}

func size(bytes int64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }

// NetworkNode is what Network checks.
type NetworkNode struct {
	// ProcSys is /proc/sys.
	ProcSys string
	// ForwardDrops is the function ForwardDrops.
	ForwardDrops func() (bool, error)
	// UsesDocker reports whether the node runs new bundles with docker.
	UsesDocker func(context.Context) bool
}

// Network checks the kernel's settings that the bundles' networks and the walls rely on,
// and whether the chain FORWARD cuts off Pods.
func Network(n NetworkNode) Check {
	return Check{"network", func(ctx context.Context) (Outcome, string) {
		procSys, docker := n.ProcSys, n.UsesDocker(ctx)
		var notes []string
		forwards := setting(procSys, "net/ipv4/ip_forward") != "0"
		if !forwards && docker {
			return Failure, "the kernel does not forward IPv4, so no bundle reaches anything: " + turnOnForwarding
		}
		// Each Bottle needs two: its machine's, and its container's or Pod's.
		if n, err := strconv.ParseInt(setting(procSys, "user/max_net_namespaces"), 10, 64); err == nil && n < 16 {
			return Failure, fmt.Sprintf("the kernel allows %d network namespaces, and each Bottle needs two: sysctl -w user.max_net_namespaces=10000, and write it to a file in /etc/sysctl.d", n)
		}
		// A Pod's bridge is in the Pod's namespace, where the node's rules do not apply.
		if docker && setting(procSys, "net/bridge/bridge-nf-call-iptables") == "1" {
			notes = append(notes, "br_netfilter is on, so the node's iptables rules also see the packets between a machine and its bundle")
		}
		if setting(procSys, "net/ipv6/conf/all/disable_ipv6") == "" {
			notes = append(notes, "the kernel has no IPv6")
		}
		if !forwards { // some CNIs carry the Pods' packets past the kernel's forwarding
			return Warning, "the kernel does not forward IPv4; unless the cluster's CNI does without that, Pods, and so the bundles in them, reach nothing beyond the node: " + turnOnForwarding
		}
		if drops, err := n.ForwardDrops(); err == nil && drops {
			return Warning, "the policy of the iptables chain FORWARD is DROP, so Pods whose CNI does not accept their traffic are cut off: iptables -P FORWARD ACCEPT (docs/kubernetes.md says more, under Beside a CNI)"
		}
		return OK, strings.Join(notes, "; ")
	}}
}

const turnOnForwarding = "sysctl -w net.ipv4.ip_forward=1, and write it to a file in /etc/sysctl.d"

// setting returns a value in /proc/sys, "" if the kernel does not have it.
func setting(procSys, name string) string {
	b, err := os.ReadFile(filepath.Join(procSys, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Port is an address that the agent listens on, and its flag.
type Port struct{ Flag, Address string }

// Ports checks that the agent's addresses are free. agentRuns reports whether an agent runs
// on the node: then they are its own.
func Ports(ports []Port, agentRuns func() bool) Check {
	return Check{"ports", func(ctx context.Context) (Outcome, string) {
		for _, p := range ports {
			if p.Address == "" || p.Address == "0" {
				continue
			}
			l, err := new(net.ListenConfig).Listen(ctx, "tcp", p.Address)
			switch {
			case err == nil:
				l.Close()
			case errors.Is(err, syscall.EADDRINUSE) && agentRuns():
				return OK, "in use; an agent runs on this node"
			case errors.Is(err, syscall.EADDRINUSE):
				return Failure, fmt.Sprintf("another program listens on %s: end it (ss -ltnp shows it), or set --%s", p.Address, p.Flag)
			default:
				return Failure, fmt.Sprintf("nothing can listen on %s (%v): set --%s", p.Address, err, p.Flag)
			}
		}
		return OK, ""
	}}
}

// AgentRuns reports whether an agent holds the lock of a state folder.
func AgentRuns(stateDir string) bool {
	f, err := os.Open(filepath.Join(stateDir, "agent.lock"))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close() // which also releases the lock
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}
