// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

type identity struct {
	credential *syscall.Credential
	home       string
}

// lookupUser resolves "name", "uid", "name:group" or "uid:gid" with the guest's
// passwd and group files. An empty spec means root.
func lookupUser(spec string) (identity, error) {
	name, group, _ := strings.Cut(spec, ":")
	if name == "" {
		name = "0"
	}
	id := identity{&syscall.Credential{}, "/"}
	entry := findEntry("/etc/passwd", name)
	uid, err := strconv.ParseUint(name, 10, 32)
	switch {
	case len(entry) >= 6:
		uid, _ = strconv.ParseUint(entry[2], 10, 32)
		gid, _ := strconv.ParseUint(entry[3], 10, 32)
		id.credential.Gid, id.home = uint32(gid), entry[5]
	case err != nil:
		return id, fmt.Errorf("unable to find user %s: no matching entries in passwd file", name)
	case uid == 0:
		id.home = "/root"
	}
	id.credential.Uid = uint32(uid)
	if group == "" {
		return id, nil
	}
	gid, err := strconv.ParseUint(group, 10, 32)
	if err != nil {
		entry := findEntry("/etc/group", group)
		if entry == nil {
			return id, fmt.Errorf("unable to find group %s: no matching entries in group file", group)
		}
		gid, _ = strconv.ParseUint(entry[2], 10, 32)
	}
	id.credential.Gid = uint32(gid)
	return id, nil
}

// findEntry returns the fields of the first line that has key as its first or
// third field, or nil if there is none.
func findEntry(file, key string) []string {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		p := strings.Split(strings.TrimSpace(line), ":")
		if len(p) >= 3 && (p[0] == key || p[2] == key) {
			return p
		}
	}
	return nil
}
