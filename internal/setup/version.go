// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"fmt"
	"io"
	"runtime/debug"
)

// Set at build time: -ldflags "-X botbottle.dev/bottle-operator/internal/setup.version=… -X ….commit=…".
var (
	version = ""
	commit  = ""
)

// The oldest smolvm release that the driver supports, and the one that it was
// mainly tested with.
const (
	oldestSmolvm    = "0.8.0"
	referenceSmolvm = "1.32.2"
)

// Version returns the operator's version.
func Version() string {
	if version == "" {
		return "devel"
	}
	return version
}

func commitOrUnknown() string {
	if commit != "" {
		return commit
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

// PrintVersion writes the operator's version and commit, and the smolvm releases
// that it supports.
func PrintVersion(w io.Writer) error {
	_, err := fmt.Fprintf(w, "bottle-operator %s\ncommit %s\nsmolvm oldest %s, reference %s\n",
		Version(), commitOrUnknown(), oldestSmolvm, referenceSmolvm)
	return err
}
