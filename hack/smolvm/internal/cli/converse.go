// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/cmdline"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/fault"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/guest"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/wire"
)

// streams are the sources and destinations of a conversation's data. A nil stream
// is absent.
type streams struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	// control is called with the connection before any data is copied.
	control func(*wire.Conn)
}

// converse sends a request to a machine's process, copies data, and returns the
// outcome.
func (a *app) converse(name string, r *wire.Request, s streams) (*wire.Outcome, error) {
	raw, err := guest.Dial(a.store.Dir(name), pingTimeout)
	if err != nil {
		return nil, agentError("connect", "%w", err)
	}
	c := wire.New(raw)
	defer func() { _ = c.Close() }()
	if err := c.SendRequest(r); err != nil {
		return nil, agentError("connect", "%w", err)
	}
	if s.control != nil {
		s.control(c)
	}
	if s.stdin != nil {
		go func() {
			_, _ = io.Copy(wire.Writer{Conn: c, Kind: wire.Data}, s.stdin)
			_ = c.Write(wire.DataEnd, nil)
		}()
	}
	return receive(c, s)
}

func receive(c *wire.Conn, s streams) (*wire.Outcome, error) {
	for {
		kind, b, err := c.Read()
		if err != nil {
			return nil, agentError("receive", "connection closed by the guest: %w", err)
		}
		var to io.Writer
		switch kind {
		case wire.Stdout:
			to = s.stdout
		case wire.Stderr:
			to = s.stderr
		case wire.End:
			o := &wire.Outcome{}
			return o, json.Unmarshal(b, o)
		}
		if to == nil {
			continue
		}
		if _, err := to.Write(b); err != nil {
			return nil, err
		}
	}
}

// reachable returns the machine's record if exec and cp can use the machine, and
// otherwise an error.
func (a *app) reachable(name string) (*machine.Record, error) {
	r, err := a.find(name)
	if err != nil {
		return nil, err
	}
	running := r.State == machine.Running || r.State == machine.Unreachable
	if !running || !alive(r.PID, r.PIDStartTime) {
		hint := "Use 'smolvm machine start --name %[1]s' first."
		if a.rel.AtLeast("1.32.2") {
			hint = "Start it with 'smolvm machine start --name %[1]s'; if a start is already in progress, retry once it finishes."
		}
		return nil, agentError("connect", "machine '%[1]s' is not running. "+hint, name)
	}
	if fault.Matches(a.faults.Unreachable, name) {
		// smolvm records this state and does not probe again until a start or stop.
		if err := a.setState(name, func(r *machine.Record) { r.State = machine.Unreachable }); err != nil {
			return nil, err
		}
		return nil, agentError("connect", "connection timed out")
	}
	return r, nil
}

// resolveSecrets reads the current values of secrets. It strips newlines from the
// end of a file.
func (a *app) resolveSecrets(refs map[string]machine.Secret) ([]string, error) {
	var env []string
	for name, s := range refs {
		if s.FromFile == "" {
			v, ok := os.LookupEnv(s.FromEnv)
			if !ok {
				return nil, configError("secrets", "secret '%s': host environment variable '%s' is not set", name, s.FromEnv)
			}
			env = append(env, name+"="+v)
			continue
		}
		b, err := os.ReadFile(s.FromFile)
		if err != nil {
			return nil, configError("secrets", "secret '%s': failed to read %s: %w", name, s.FromFile, withoutPath(err))
		}
		env = append(env, name+"="+strings.TrimRight(string(b), "\r\n"))
	}
	return env, nil
}

// secretFlags parses --secret-file and --secret-env of create or exec. It does
// not check that the file or variable exists.
func secretFlags(args *cmdline.Args) (map[string]machine.Secret, error) {
	var refs map[string]machine.Secret
	add := func(name string, s machine.Secret) {
		if refs == nil {
			refs = map[string]machine.Secret{}
		}
		refs[name] = s
	}
	for _, kv := range args.All("secret-file") {
		name, path, err := splitFlag("--secret-file", "empty secret name in '%s'", kv)
		if err != nil {
			return nil, err
		}
		if !filepath.IsAbs(path) {
			return nil, configError("--secret-file", "secret '%s': from_file path '%s' is relative; absolute paths are required", name, path)
		}
		add(name, machine.Secret{FromFile: path})
	}
	for _, kv := range args.All("secret-env") {
		name, from, err := splitFlag("--secret-env", "empty secret name in '%s'", kv)
		if err != nil {
			return nil, err
		}
		add(name, machine.Secret{FromEnv: from})
	}
	return refs, nil
}

// splitFlag splits KEY=VALUE. Its errors have smolvm's texts.
func splitFlag(flag, empty, kv string) (name, value string, err error) {
	name, value, ok := strings.Cut(kv, "=")
	switch {
	case !ok:
		return "", "", configError(flag, "expected KEY=VALUE, got '%s'", kv)
	case name == "":
		return "", "", configError(flag, empty, kv)
	}
	return name, value, nil
}
