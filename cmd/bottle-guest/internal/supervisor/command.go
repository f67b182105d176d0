// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Exit codes of a command that could not be started, as in a shell.
const (
	exitNotFound    = 127
	exitNotRunnable = 126
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookUp returns the path of the program name. It searches the folders of PATH if name
// has no slash.
func lookUp(name string, env []string) (string, error) {
	if name == "" {
		return "", fs.ErrNotExist
	}
	if strings.Contains(name, "/") {
		return name, nil
	}
	list := defaultPath
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, "PATH="); ok {
			list = value
		}
	}
	var result error = fs.ErrNotExist
	for _, dir := range filepath.SplitList(list) {
		path := filepath.Join(dir, name)
		if dir == "" || dir == "." {
			path = "./" + name
		}
		info, err := os.Stat(path)
		switch {
		case err != nil || info.IsDir():
		case info.Mode()&0o111 == 0:
			result = fs.ErrPermission
		default:
			return path, nil
		}
	}
	return "", result
}

// startCode returns the exit code for a command that could not be started.
func startCode(err error) int32 {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return exitNotFound
	}
	return exitNotRunnable
}

// withOrdered returns env with the variables of the orders in the place of those with
// the same names.
func withOrdered(env []string, ordered map[string]string) []string {
	if len(ordered) == 0 {
		return env
	}
	out := make([]string, 0, len(env)+len(ordered))
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		if _, replaced := ordered[name]; !replaced {
			out = append(out, entry)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ordered)) {
		out = append(out, name+"="+ordered[name])
	}
	return out
}

// withTerm adds TERM for a workload that has a terminal, if the environment has none.
func withTerm(env []string) []string {
	for _, entry := range env {
		if strings.HasPrefix(entry, "TERM=") {
			return env
		}
	}
	return append(env[:len(env):len(env)], "TERM=xterm")
}
