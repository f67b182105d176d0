// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"fmt"
	"io"
	"log"
	"log/slog"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
)

// LogOptions configure the level and format of logs.
type LogOptions struct {
	// Level is debug, info or error.
	Level string
	// Format is text or json.
	Format string
}

// Bind adds the flags.
func (o *LogOptions) Bind(fs *pflag.FlagSet) {
	fs.StringVar(&o.Level, "log-level", "info", "lowest level to log: debug, info or error")
	fs.StringVar(&o.Format, "log-format", "json", "format of the log: json or text")
}

// Install makes everything in the process log to w.
func (o *LogOptions) Install(w io.Writer) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "error": slog.LevelError}
	level, ok := levels[o.Level]
	if !ok {
		return fmt.Errorf("--log-level %q: want debug, info or error", o.Level)
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler
	switch o.Format {
	case "json":
		handler = slog.NewJSONHandler(w, options)
	case "text":
		handler = slog.NewTextHandler(w, options)
	default:
		return fmt.Errorf("--log-format %q: want json or text", o.Format)
	}
	discardStandardLog()
	logger := logr.FromSlogHandler(handler)
	ctrl.SetLogger(logger)
	klog.SetLogger(logger.WithName("client-go"))
	return nil
}

// discardStandardLog discards the standard logger's lines. Nothing of ours uses
// it, but net/http writes there what servers send without a request, and what is wrong
// with a guest's connections. Servers and guests could cause any number of such lines.
func discardStandardLog() { log.SetOutput(io.Discard) }
