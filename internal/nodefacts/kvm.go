// SPDX-License-Identifier: Apache-2.0

package nodefacts

import (
	"encoding/binary"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// kvmGetAPIVersion is _IO(KVMIO, 0x00).
	kvmGetAPIVersion = 0xAE00
	// kvmAPIVersion is the version that every KVM since Linux 2.6.22 returns.
	kvmAPIVersion = 12
	// firstMachineUID is the first user that smolvm runs a VMM as.
	firstMachineUID = 2000000
)

// kvm is what was observed of the device.
type kvm struct {
	path    string // "" if the device is not checked
	statErr error
	mode    fs.FileMode
	acl     []byte // system.posix_acl_access, nil if there is none
	openErr error
	api     int
	apiErr  error
}

func observeKVM(path string) kvm {
	k := kvm{path: path}
	if path == "" {
		return k
	}
	st, err := os.Stat(path)
	if err != nil {
		k.statErr = err
		return k
	}
	k.mode = st.Mode()
	acl := make([]byte, 4096)
	if n, err := unix.Getxattr(path, "system.posix_acl_access", acl); err == nil {
		k.acl = acl[:n]
	}
	if k.mode&fs.ModeCharDevice == 0 {
		return k
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		k.openErr = err
		return k
	}
	defer unix.Close(fd)
	k.api, k.apiErr = unix.IoctlRetInt(fd, kvmGetAPIVersion)
	return k
}

// kvmFact returns whether machines can use KVM, and if not, why.
func kvmFact(k kvm) host.Fact {
	switch {
	case k.path == "":
		return good(kvmName, "not checked: no KVM device is set")
	case os.IsNotExist(k.statErr):
		return bad(kvmName, "%s is missing: load the module (modprobe kvm_intel or kvm_amd), and if this is a virtual machine, allow nested virtualisation", k.path)
	case k.statErr != nil:
		return bad(kvmName, "%s cannot be inspected: %s", k.path, reason(k.statErr))
	case k.mode&fs.ModeCharDevice == 0:
		return bad(kvmName, "%s is not a device: set --kvm-device", k.path)
	case k.openErr != nil:
		return bad(kvmName, "%s cannot be opened by the agent: %s", k.path, k.openErr)
	case k.apiErr != nil:
		return bad(kvmName, "%s does not respond as KVM does (%s): set --kvm-device", k.path, k.apiErr)
	case k.api != kvmAPIVersion:
		return bad(kvmName, "%s has KVM interface %d, not %d: use another kernel", k.path, k.api, kvmAPIVersion)
	case k.mode&0o006 != 0o006 && !aclOpens(k.acl):
		return bad(kvmName, "%s is not open to the users that machines run as (mode %04o): chmod 666 %s, and to keep it, add a udev rule: KERNEL==\"kvm\", MODE=\"0666\"",
			k.path, k.mode.Perm(), k.path)
	}
	return good(kvmName, "")
}

// Tags of a POSIX ACL in its extended attribute.
const (
	aclVersion = 2
	aclUser    = 0x02
	aclGroup   = 0x08
	aclMask    = 0x10
	aclRW      = 0x06
)

// aclOpens reports whether an ACL gives users or groups of machines read and
// write access that the mask does not remove. It does not check which of them:
// that is up to whoever wrote the ACL.
func aclOpens(b []byte) bool {
	if len(b) < 4 || binary.LittleEndian.Uint32(b) != aclVersion {
		return false
	}
	named, mask := false, uint16(aclRW)
	for b = b[4:]; len(b) >= 8; b = b[8:] {
		tag, perm, id := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])
		switch {
		case tag == aclMask:
			mask = perm
		case (tag == aclUser || tag == aclGroup) && id >= firstMachineUID && perm&aclRW == aclRW:
			named = true
		}
	}
	return named && mask&aclRW == aclRW
}
