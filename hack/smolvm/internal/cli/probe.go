// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/fault"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/guest"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/state"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/wire"
)

// pingTimeout is how long a machine's process may take to answer.
const pingTimeout = 3 * time.Second

// startTime returns the start time of a process in clock ticks since boot, or 0 if
// there is no such process. A zombie has a start time.
func startTime(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	text := string(b)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return 0
	}
	n, _ := strconv.ParseUint(fields[19], 10, 64)
	return n
}

// alive reports whether the process exists, with the same check as smolvm: the pid
// accepts signals and has the recorded start time. An unreaped zombie is alive.
func alive(pid int, started uint64) bool {
	return pid > 0 && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) && startTime(pid) == started
}

// ping reports whether the machine's process answers.
func (a *app) ping(name string) bool {
	if fault.Matches(a.faults.Unreachable, name) {
		return false
	}
	c, err := guest.Dial(a.store.Dir(name), pingTimeout)
	if err != nil {
		return false
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(pingTimeout)); err != nil {
		return false
	}
	w := wire.New(c)
	if err := w.SendRequest(&wire.Request{Op: wire.Ping}); err != nil {
		return false
	}
	kind, _, err := w.Read()
	return err == nil && kind == wire.End
}

// resolve updates r with the machine's actual state. It does not change the record
// in the database: the pid of a dead machine stays there.
func (a *app) resolve(r *machine.Record) {
	if r.State == machine.Running {
		switch {
		case !alive(r.PID, r.PIDStartTime):
			r.State = machine.Stopped
			a.recordDeath(r)
		case !a.ping(r.Name):
			r.State = machine.Unreachable
		}
	}
	if a.rel.AtLeast("1.29.0") {
		r.LastExit = a.lastExit(r.Name)
	}
}

const exitFile = "vmm-exit.json"

// lastExit returns how the last VMM ended, or nil if that is not known.
func (a *app) lastExit(name string) *machine.LastExit {
	b, err := os.ReadFile(filepath.Join(a.store.Dir(name), exitFile))
	if err != nil {
		return nil
	}
	e := &machine.LastExit{}
	if json.Unmarshal(b, e) != nil {
		return nil
	}
	return e
}

func (a *app) writeExit(name string, e *machine.LastExit) {
	b, err := json.Marshal(e)
	if err != nil {
		return
	}
	_ = os.WriteFile(filepath.Join(a.store.Dir(name), exitFile), b, 0o644)
}

// recordDeath records the end of a VMM that no command waited for. It assumes
// SIGKILL, because nothing else ends a VMM that was not told to exit.
func (a *app) recordDeath(r *machine.Record) {
	if e := a.lastExit(r.Name); e != nil && e.PID == r.PID {
		return
	}
	sig := int(syscall.SIGKILL)
	a.writeExit(r.Name, &machine.LastExit{Cause: "killed", Signal: &sig, AtMillis: time.Now().UnixMilli(), PID: r.PID})
}

// find returns a machine's record, or a not-found error.
func (a *app) find(name string) (*machine.Record, error) {
	all, err := a.store.Load()
	if err != nil {
		return nil, err
	}
	r, ok := all[name]
	if !ok {
		return nil, notFound(name)
	}
	return r, nil
}

// setState edits a machine's record in the database. A machine that was deleted
// meanwhile stays deleted.
func (a *app) setState(name string, edit func(*machine.Record)) error {
	return a.store.Change(func(all state.Records) error {
		if r, ok := all[name]; ok {
			edit(r)
		}
		return nil
	})
}

// pidFile reads agent.pid: the pid and the start time, each on its own line. It
// returns zeros if there is no valid file.
func (a *app) pidFile(name string) (pid int, started uint64) {
	b, err := os.ReadFile(filepath.Join(a.store.Dir(name), "agent.pid"))
	if err != nil {
		return 0, 0
	}
	if _, err := fmt.Sscanf(string(b), "%d\n%d", &pid, &started); err != nil {
		return 0, 0
	}
	return pid, started
}
