// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"os"
	"strconv"
	"strings"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/cmdline"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/guest"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/state"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/wire"
)

// copy implements `cp`: it copies one file. One side must be NAME:PATH.
func (a *app) copy(args *cmdline.Args) error {
	src, dst := args.Positional[0], args.Positional[1]
	if name, path, ok := strings.Cut(src, ":"); ok {
		return a.download(name, path, dst)
	}
	if name, path, ok := strings.Cut(dst, ":"); ok {
		return a.upload(src, name, path, args)
	}
	example := "myvm:/path/file"
	if a.rel.AtLeast("1.4.0") {
		example = "myvm:/workspace/file"
	}
	return configError("cp", "one of SRC or DST must use machine:path syntax (e.g., %s)", example)
}

func (a *app) upload(src, name, path string, args *cmdline.Args) error {
	if _, err := a.reachable(name); err != nil {
		return err
	}
	f, err := os.Open(src)
	if err != nil {
		return configError("cp", "failed to open %s: %w", src, state.Rust(withoutPath(err)))
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return configError("cp", "%s is not a regular file", src)
	case st.Size() > guest.MaxFile:
		return configError("cp", "%s is %d bytes, over the %d-byte limit", src, st.Size(), int64(guest.MaxFile))
	}
	r := &wire.Request{Op: wire.Put, Path: path, Mode: 0o644, UID: number(args, "uid"), GID: number(args, "gid")}
	if args.Has("mode") {
		mode, err := strconv.ParseUint(args.Get("mode"), 8, 32)
		if err != nil || mode > 0o7777 {
			return configError("cp", "--mode: invalid octal mode '%s'", args.Get("mode"))
		}
		r.Mode = uint32(mode)
	}
	o, err := a.converse(name, r, streams{stdin: f})
	if err != nil {
		return err
	}
	if o.Error != "" {
		return agentError("cp", "agent error: %s", o.Error)
	}
	return nil
}

// number returns the value of a whole-number flag, or 0 if it was not given.
func number(args *cmdline.Args, flag string) int {
	n, _ := strconv.Atoi(args.Get(flag)) // the parser has validated it
	return n
}

func (a *app) download(name, path, dst string) error {
	if _, err := a.reachable(name); err != nil {
		return err
	}
	tmp := dst + ".smolvm-part"
	f, err := os.Create(tmp)
	if err != nil {
		return configError("cp", "failed to create %s: %w", dst, state.Rust(withoutPath(err)))
	}
	defer os.Remove(tmp)
	defer f.Close()
	o, err := a.converse(name, &wire.Request{Op: wire.Get, Path: path}, streams{stdout: f})
	if err != nil {
		return err
	}
	if o.Error != "" {
		return agentError("cp", "agent error: %s", o.Error)
	}
	return os.Rename(tmp, dst)
}
