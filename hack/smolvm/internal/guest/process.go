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

// process is one program started in the guest.
type process struct {
	pid    int
	ended  chan struct{} // closed after status is set
	status syscall.WaitStatus
}

// stdio are the descriptors that a program gets.
type stdio struct {
	in, out, err *os.File
	// terminal: in is a terminal, to be the program's controlling one.
	terminal bool
}

// errNoProgram is what a missing binary, folder or user becomes.
type errNoProgram struct{ text string }

func (e *errNoProgram) Error() string { return e.text }

// launch starts what r asks for.
func (g *init1) launch(r *wire.Request, io stdio) (*process, error) {
	who, err := lookupUser(r.User)
	if err != nil {
		return nil, &errNoProgram{err.Error()}
	}
	env := dedupe(append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + who.home}, r.Env...))
	dir := r.Workdir
	if dir == "" {
		dir = "/"
	}
	path, err := find(r.Argv[0], dir, env)
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
		return nil, &errNoProgram{fmt.Sprintf("failed to spawn command: %s: %v", r.Argv[0], err)}
	}
	p := &process{pid: pid, ended: make(chan struct{})}
	go func() {
		p.status = <-done
		close(p.ended)
	}()
	return p, nil
}

// find looks a program up in the guest's own PATH.
func find(name, dir string, env []string) (string, error) {
	missing := &errNoProgram{"failed to spawn command: " + name + ": No such file or directory (os error 2)"}
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

// dedupe keeps the last value of each name, in order of first appearance,
// and drops what cannot be an environment entry.
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

// startWorkload runs the machine's own program. Its output goes to
// workload.log; nobody waits for it.
func (g *init1) startWorkload(r *wire.Request) *wire.Outcome {
	null, err := os.Open("/dev/null")
	if err != nil {
		return &wire.Outcome{Error: err.Error()}
	}
	defer null.Close()
	p, err := g.launch(r, stdio{in: null, out: g.log, err: g.log})
	if err != nil {
		return &wire.Outcome{Error: err.Error()}
	}
	g.mu.Lock()
	g.workload = p
	g.mu.Unlock()
	return &wire.Outcome{PID: p.pid}
}
