// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/cmdline"
)

// exitStatus ends the command with this exit code and without a message, because
// the program in the guest has already printed everything.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// unknownMachine is the error for a machine without a record.
type unknownMachine struct{ name string }

func (e *unknownMachine) Error() string { return "vm not found: " + e.name }

func notFound(name string) error { return &unknownMachine{name} }

func isNotFound(err error) bool {
	var e *unknownMachine
	return errors.As(err, &e)
}

func configError(operation, format string, a ...any) error {
	return fmt.Errorf("config operation failed: "+operation+": "+format, a...)
}

func agentError(operation, format string, a ...any) error {
	return fmt.Errorf("agent operation failed: "+operation+": "+format, a...)
}

// codes are the stable codes of --error-format json, by the prefix of the message.
var codes = []struct{ prefix, code string }{
	{"vm not found:", "NOT_FOUND"},
	{"mount source not found:", "NOT_FOUND"},
	{"mount operation failed:", "MOUNT_ERROR"},
	{"invalid mount path:", "MOUNT_ERROR"},
	{"config operation failed:", "CONFIG_ERROR"},
	{"invalid vm state:", "CONFLICT"},
	{"", "SMOLVM_ERROR"},
}

// finish prints err and returns the exit code: 0 for nil, the code of an
// exitStatus, 2 for a usage error, which is plain text in either format, and else 1.
func finish(stderr io.Writer, format string, err error) int {
	var status exitStatus
	var usage *cmdline.UsageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &usage):
		fmt.Fprintln(stderr, usage.Error())
		return 2
	case format == "json":
		fmt.Fprintln(stderr, errorJSON(err))
		return 1
	}
	fmt.Fprintf(stderr, "Error: %s\n", err)
	return 1
}

func errorJSON(err error) string {
	type body struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	doc := struct {
		Error body `json:"error"`
	}{body{Message: err.Error()}}
	for _, c := range codes {
		if strings.HasPrefix(doc.Error.Message, c.prefix) {
			doc.Error.Code = c.code
			break
		}
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(doc); err != nil {
		return err.Error()
	}
	return strings.TrimSuffix(b.String(), "\n")
}
