// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"
)

// maxLogLine is how long a line of a log in the format CRI may be: 16 KiB of text, and
// what is before it.
const maxLogLine = 64 << 10

// output takes a log in the format CRI apart. It can go on with a second log that
// begins again somewhere in what it has seen.
type output struct {
	out, errOut io.Writer
	// notes is where the supervisor's own remarks go; nil for nowhere.
	notes io.Writer

	last  time.Time // of the newest line that was written
	count int       // lines of that time
	// skip is how many lines of the time last are still left out after a new beginning.
	skip int
}

// again prepares for a log that begins again at the time last, or before it.
func (o *output) again() { o.skip = o.count }

// copy writes the lines of a log until it ends.
func (o *output) copy(r io.Reader) error {
	lines := bufio.NewReaderSize(r, maxLogLine)
	for {
		line, err := lines.ReadSlice('\n')
		if err == nil || len(line) > 0 && errors.Is(err, bufio.ErrBufferFull) {
			if werr := o.write(line); werr != nil {
				return werr
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

// write writes the text of one line to the stream that it names. It leaves out lines
// that were written before, and what is not in the format.
func (o *output) write(line []byte) error {
	fields := bytes.SplitN(line, []byte(" "), 4)
	if len(fields) < 4 {
		return nil
	}
	text := fields[3]
	if string(fields[1]) == "system" { // such a line may have no time of its own
		if o.notes != nil && o.skip == 0 {
			fmt.Fprintf(o.notes, "[%s]\n", clean(string(bytes.TrimSpace(text))))
		}
		return nil
	}
	at, err := time.Parse(time.RFC3339Nano, string(fields[0]))
	if err != nil || !o.isNew(at) {
		return nil //nolint:nilerr // a line in another format says nothing
	}
	if string(fields[2]) != "F" {
		text = bytes.TrimSuffix(text, []byte("\n"))
	}
	switch string(fields[1]) {
	case "stdout":
		_, err = o.out.Write(text)
	case "stderr":
		_, err = o.errOut.Write(text)
	}
	return err
}

// isNew reports whether a line of this time was not written before.
func (o *output) isNew(at time.Time) bool {
	switch {
	case at.Before(o.last):
		if o.skip > 0 {
			return false
		}
		o.last, o.count = at, 1 // the guest's clock was set back
	case at.Equal(o.last):
		if o.skip > 0 {
			o.skip--
			return false
		}
		o.count++
	default:
		o.last, o.count, o.skip = at, 1, 0
	}
	return true
}
