// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/wire"
)

// process is a program that runs in the guest.
type process struct {
	pid    int
	ended  chan struct{} // closed after status is set
	status syscall.WaitStatus
}

// stdio holds the standard streams of a program.
type stdio struct {
	in, out, err *os.File
	// terminal means that in becomes the program's controlling terminal.
	terminal bool
}

// notFoundError means that the program, its folder or its user does not exist.
type notFoundError struct{ text string }

func (e *notFoundError) Error() string { return e.text }

// launch starts the program that r specifies.
func (g *guestInit) launch(r *wire.Request, io stdio) (*process, error) {
	who, err := lookupUser(r.User)
	if err != nil {
		return nil, &notFoundError{err.Error()}
	}
	env := dedupe(append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + who.home}, r.Env...))
	dir := r.Workdir
	if dir == "" {
		dir = "/"
	}
	path, err := findProgram(r.Argv[0], dir, env)
	if err != nil {
		return nil, err
	}
	attr := &syscall.ProcAttr{
		Dir: dir, Env: env,
		Files: []uintptr{io.in.Fd(), io.out.Fd(), io.err.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: io.terminal, Credential: who.credential},
	}
	pid, done, err := g.children.start(path, r.Argv, attr)
	if err != nil {
		return nil, &notFoundError{fmt.Sprintf("failed to spawn command: %s: %v", r.Argv[0], err)}
	}
	p := &process{pid: pid, ended: make(chan struct{})}
	go func() {
		p.status = <-done
		close(p.ended)
	}()
	return p, nil
}

// findProgram resolves a program's name with the PATH in env.
func findProgram(name, dir string, env []string) (string, error) {
	missing := &notFoundError{"failed to spawn command: " + name + ": No such file or directory (os error 2)"}
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			return "", missing
		}
		return name, nil
	}
	for _, kv := range env {
		list, ok := strings.CutPrefix(kv, "PATH=")
		for _, d := range strings.Split(list, ":") {
			if !ok || d == "" {
				continue
			}
			path := filepath.Join(d, name)
			if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
				return path, nil
			}
		}
	}
	return "", missing
}

// dedupe keeps the last value of each variable, in the order of first appearance,
// and drops invalid entries.
func dedupe(env []string) []string {
	at := map[string]int{}
	var out []string
	for _, kv := range env {
		name, _, ok := strings.Cut(kv, "=")
		if !ok || name == "" || strings.ContainsRune(kv, 0) {
			continue
		}
		if i, seen := at[name]; seen {
			out[i] = kv
			continue
		}
		at[name] = len(out)
		out = append(out, kv)
	}
	return out
}

// startWorkload starts the machine's main program and does not wait for it. The
// output goes to workload.log.
func (g *guestInit) startWorkload(r *wire.Request) *wire.Outcome {
	null, err := os.Open("/dev/null")
	if err != nil {
		return &wire.Outcome{Error: err.Error()}
	}
	defer null.Close()
	from, to, err := pipe()
	if err != nil {
		return &wire.Outcome{Error: err.Error()}
	}
	p, err := g.launch(r, stdio{in: null, out: to, err: to})
	to.Close()
	if err != nil {
		from.Close()
		return &wire.Outcome{Error: err.Error()}
	}
	logged := make(chan struct{})
	go func() {
		g.log.pump(from)
		close(logged)
	}()
	g.mu.Lock()
	g.workload, g.logged = p, logged
	g.mu.Unlock()
	return &wire.Outcome{PID: p.pid}
}
