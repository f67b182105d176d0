// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// call is one line of the call log.
type call struct {
	Argv  []string  `json:"argv"`
	Start time.Time `json:"time"`
	MS    float64   `json:"ms"`
	Code  int       `json:"exit_code"`
}

// logCall appends the call to $HOME/.standin/calls.jsonl if
// $HOME/.standin/log-calls exists, so that tests and benchmarks can count calls.
// It omits the values of environment variables. It ignores errors, so that the
// command does not fail because of its log.
func logCall(home string, argv []string, c call) {
	dir := filepath.Join(home, ".standin")
	if _, err := os.Stat(filepath.Join(dir, "log-calls")); err != nil {
		return
	}
	c.Argv, c.MS = withoutValues(argv), float64(time.Since(c.Start).Microseconds())/1000
	b, err := json.Marshal(c)
	if err != nil {
		return
	}
	f, err := os.OpenFile(filepath.Join(dir, "calls.jsonl"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.Write(append(b, '\n'))
}

func withoutValues(argv []string) []string {
	out := make([]string, len(argv))
	for i, w := range argv {
		out[i] = w
		switch {
		case i > 0 && (argv[i-1] == "-e" || argv[i-1] == "--env"):
			out[i] = hideValue(w)
		case strings.HasPrefix(w, "--env="):
			out[i] = "--env=" + hideValue(w[len("--env="):])
		case strings.HasPrefix(w, "-e") && strings.Contains(w, "="):
			out[i] = "-e" + hideValue(w[len("-e"):])
		}
		if w == "--" {
			copy(out[i:], argv[i:])
			break
		}
	}
	return out
}

func hideValue(kv string) string {
	if name, _, ok := strings.Cut(kv, "="); ok {
		return name + "=…"
	}
	return kv
}
