// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
	"unicode/utf8"
)

// The report file is one record of exactly MaxReport bytes: the report as a line of
// JSON, then a line with the CRC-32 of the JSON in eight hex digits, then spaces. It
// is always written in place. Once the record exists, writing it needs no more space,
// so that a full folder cannot hold up a report. A reader may see a record that is
// only half written; the checksum then does not match, and the reader tries again.

// ErrTorn means that the record is incomplete or was being written.
var ErrTorn = errors.New("the report's record is incomplete")

// Record returns the content of the report file.
func Record(r Report) ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	record := fmt.Appendf(text, "\n%08x\n", crc32.ChecksumIEEE(text))
	if len(record) > MaxReport {
		return nil, fmt.Errorf("the report has %d bytes, the maximum is %d", len(record), MaxReport)
	}
	return append(record, bytes.Repeat([]byte{' '}, MaxReport-len(record))...), nil
}

// Parse reads the content of a report file. The content is untrusted: whatever
// Parse returns without an error is within bounds, but need not be true. The error is
// ErrTorn if another try may succeed.
func Parse(record []byte) (Report, error) {
	if len(record) > MaxReport {
		return Report{}, fmt.Errorf("more than %d bytes", MaxReport)
	}
	text, rest, found := bytes.Cut(record, []byte("\n"))
	sum, _, ended := bytes.Cut(rest, []byte("\n"))
	if !found || !ended || string(sum) != fmt.Sprintf("%08x", crc32.ChecksumIEEE(text)) {
		return Report{}, ErrTorn
	}
	var r Report
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Report{}, errors.New("not a report")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Report{}, errors.New("more than one report")
	}
	return r, r.check()
}

const (
	maxStart  = 64
	maxSignal = 64
)

// check returns an error if a value is out of bounds.
func (r *Report) check() error {
	switch {
	case len(r.Start) > maxStart || !utf8.ValidString(r.Start):
		return errors.New("start: not an identifier")
	case r.ExitCode != nil && (*r.ExitCode < 0 || *r.ExitCode > 255):
		return errors.New("exitCode: not within 0 and 255")
	case r.Signal < 0 || r.Signal > maxSignal:
		return errors.New("signal: not a signal")
	case r.ExitCode != nil && r.Signal != 0:
		return errors.New("exitCode and signal: both are set")
	case r.Restarts < 0:
		return errors.New("restarts: negative")
	case r.LostOutput < 0:
		return errors.New("lostOutput: negative")
	}
	for _, t := range []time.Time{r.StartTime, r.FinishTime, r.NextStartTime} {
		if !t.IsZero() && (t.Year() < 1970 || t.Year() > 9999) {
			return errors.New("a time is out of range")
		}
	}
	return nil
}
