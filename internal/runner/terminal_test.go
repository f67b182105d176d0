// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

// screen collects what a program prints on its terminal.
type screen struct {
	mu      sync.Mutex
	printed strings.Builder
	changed chan struct{} // has room for one
}

func newScreen() *screen { return &screen{changed: make(chan struct{}, 1)} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.printed.Write(p)
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.printed.String()
}

// wait waits until the text has been printed.
func (s *screen) wait(t *testing.T, text string) {
	t.Helper()
	timeout := time.After(time.Minute)
	for !strings.Contains(s.String(), text) {
		select {
		case <-s.changed:
		case <-timeout:
			t.Fatalf("screen: got %q, want %q", s, text)
		}
	}
}

func TestTerminal(t *testing.T) {
	out, sizes := newScreen(), make(chan [2]uint16)
	in, keys := io.Pipe()
	type end struct {
		res Result
		err error
	}
	ended := make(chan end, 1)
	go func() {
		res, err := Exec{}.Run(t.Context(), Command{
			Path: "/bin/sh", Env: []string{"PATH=/usr/bin:/bin"}, Stdin: in, Stdout: out,
			Args: []string{"-c", `test -t 0 && test -t 1 && test -t 2 && echo terminal; stty size; read line; echo "got $line" >&2; stty size; exit 5`},
			Terminal: &Terminal{Columns: 103, Rows: 41, Next: func(ctx context.Context) (columns, rows uint16, ok bool) {
				select {
				case s := <-sizes:
					return s[0], s[1], true
				case <-ctx.Done():
					return 0, 0, false
				}
			}},
		})
		ended <- end{res, err}
	}()
	out.wait(t, "terminal\n41 103\n")
	sizes <- [2]uint16{80, 25}
	sizes <- [2]uint16{90, 26} // taken only once the first one is set
	sizes <- [2]uint16{90, 26}
	if _, err := io.WriteString(keys, "hello\n"); err != nil {
		t.Fatal(err)
	}
	got := <-ended
	var e *Error
	if !errors.As(got.err, &e) || e.ExitCode != 5 || got.res.ExitCode != 5 {
		t.Errorf("got %+v, want exit code 5", got)
	}
	if want := "terminal\n41 103\ngot hello\n26 90\n"; out.String() != want {
		t.Errorf("screen: got %q, want %q", out, want)
	}
}

func TestTerminalHasAllOutput(t *testing.T) {
	out := newScreen()
	_, err := Exec{}.Run(t.Context(), Command{Path: "/bin/sh", Env: []string{"PATH=/usr/bin:/bin"}, Stdout: out, Terminal: &Terminal{}, Args: []string{"-c", "head -c 1000000 /dev/zero | tr '\\0' x"}})
	if err != nil || len(out.String()) != 1000000 {
		t.Errorf("got %d bytes, %v, want 1000000", len(out.String()), err)
	}
}

func TestCancelledTerminal(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := newScreen()
	go func() {
		out.wait(t, "up")
		cancel()
	}()
	_, err := Exec{}.Run(ctx, Command{
		Path: "/bin/sh", Env: []string{"PATH=/usr/bin:/bin"}, Stdout: out, Terminal: &Terminal{}, Timeout: NoTimeout, Grace: 100 * time.Millisecond,
		Args: []string{"-c", "trap '' TERM HUP; sh -c 'trap \"\" TERM HUP; echo up; sleep 600'; sleep 600"},
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}
