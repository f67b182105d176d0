// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
)

// setHealth stores the health checks and the restart policy, which have no effect.
func (d *draft) setHealth() error {
	if h := d.file.Health; h != nil {
		d.rec.HealthCmd, d.rec.HealthRetries = h.Exec, h.Retries
		d.rec.HealthInterval, d.rec.HealthTimeout, d.rec.HealthGrace = parseSeconds(h.Interval), parseSeconds(h.Timeout), parseSeconds(h.StartupGrace)
	}
	r := d.file.Restart
	if r == nil {
		return nil
	}
	d.rec.RestartMaxRetries = r.MaxRetries
	for _, p := range []string{"never", "always", "on-failure", "unless-stopped"} {
		if w := strings.ToLower(r.Policy); w == p || w == strings.ReplaceAll(p, "-", "") {
			d.rec.RestartPolicy = p
			return nil
		}
	}
	if r.Policy == "" {
		return nil
	}
	return configError("smolfile [restart] policy", "invalid restart policy: %s", r.Policy)
}

// parseSeconds parses "5", "5s", "5m" and "5h". It returns nil for anything else.
func parseSeconds(s *string) *int {
	if s == nil || *s == "" {
		return nil
	}
	unit, digits := 1, *s
	switch (*s)[len(*s)-1] {
	case 's':
		digits = digits[:len(digits)-1]
	case 'm':
		unit, digits = 60, digits[:len(digits)-1]
	case 'h':
		unit, digits = 3600, digits[:len(digits)-1]
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 {
		return nil
	}
	n *= unit
	return &n
}

func (d *draft) setVolumes() error {
	for _, v := range d.devOrTop(d.file.Volumes, d.file.Dev.Volumes, "volume") {
		m, err := d.parseVolume(v)
		if err != nil {
			return err
		}
		d.rec.Mounts = append(d.rec.Mounts, m)
	}
	return nil
}

// isProtected reports whether a folder of the host cannot be mounted in a guest.
func isProtected(path string) bool {
	if path == "/" || path == "/var" {
		return true
	}
	for _, top := range []string{"/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/proc", "/sys", "/dev", "/run", "/boot", "/var/run", "/var/log"} {
		if path == top || strings.HasPrefix(path, top+"/") {
			return true
		}
	}
	return false
}

func (d *draft) parseVolume(v string) (machine.Mount, error) {
	form := "(expected host:guest[:ro|:rw])"
	if d.rel.AtLeast("1.32.2") {
		form = "(expected host:guest[:ro|:rw|:staged])"
	}
	rest, readOnly := strings.CutSuffix(v, ":ro")
	if !readOnly {
		rest = strings.TrimSuffix(v, ":rw")
	}
	colon := strings.LastIndexByte(rest, ':')
	if colon < 1 {
		return machine.Mount{}, fmt.Errorf("invalid mount path: invalid format '%s' %s", v, form)
	}
	m := machine.Mount{Source: rest[:colon], Target: rest[colon+1:], ReadOnly: readOnly}
	if st, err := os.Stat(m.Source); err != nil || !st.IsDir() {
		return m, mountSourceError(m.Source, err)
	}
	if !strings.HasPrefix(m.Target, "/") {
		return m, fmt.Errorf("mount operation failed: validate guest path: target path on guest should be an absolute directory: %s", m.Target)
	}
	real, err := filepath.EvalSymlinks(m.Source)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return m, fmt.Errorf("mount source not found: %s", m.Source)
	}
	if isProtected(real) {
		return m, fmt.Errorf("mount operation failed: validate host path: source path on host is a protected system path and cannot be mounted: %s", real)
	}
	m.Source = real
	return m, nil
}

func mountSourceError(path string, err error) error {
	if err != nil {
		return fmt.Errorf("mount source not found: %s", path)
	}
	return fmt.Errorf("mount operation failed: validate host path: source path on host must be a directory (virtiofs limitation): %s", path)
}

// setPorts checks and stores the port mappings. The stand-in forwards none of them.
func (d *draft) setPorts() error {
	seen := map[string]bool{}
	for _, p := range d.devOrTop(d.file.Ports, d.file.Dev.Ports, "port") {
		host, guest, err := parsePort(p)
		if err != nil {
			return configError("smolfile ports", "%w", err)
		}
		if seen[host] {
			return configError("validate ports", "duplicate host port %s: each host port can only be mapped once", host)
		}
		seen[host] = true
		d.rec.Ports = append(d.rec.Ports, host+":"+guest)
	}
	return nil
}

// setProgram sets the environment, folder, user and command. It trims the space
// around entries from a Smolfile, but not around those from -e.
func (d *draft) setProgram() error {
	for _, kv := range slices.Concat(d.file.Env, d.file.Dev.Env) {
		d.addEnv(strings.TrimSpace(kv))
	}
	for _, kv := range d.args.All("env") {
		d.addEnv(kv)
	}
	for _, w := range []*string{d.file.Workdir, d.file.Dev.Workdir} {
		if w != nil {
			d.rec.Workdir = *w
		}
	}
	if d.args.Has("workdir") {
		d.rec.Workdir = d.args.Get("workdir")
	}
	d.rec.User = d.args.Get("user")
	d.rec.Init = d.devOrTop(d.file.Init, d.file.Dev.Init, "init")
	d.rec.Entrypoint, d.rec.Cmd = d.file.Entrypoint, d.file.Cmd
	if len(d.args.Trailing) > 0 {
		d.rec.Cmd = d.args.Trailing
	}
	return nil
}

// addEnv stores an environment entry. For an entry without "=", releases from
// 0.8.1 take the value from the caller's environment; if there is none, and in
// older releases, the entry is silently dropped.
func (d *draft) addEnv(kv string) {
	name, value, ok := strings.Cut(kv, "=")
	if name == "" {
		return
	}
	if !ok {
		if value = d.getenv(name); value == "" || !d.rel.AtLeast("0.8.1") {
			return
		}
	}
	d.rec.Env = append(d.rec.Env, [2]string{name, value})
}
