// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Bounds on what is read from the other side. MaxPlan and MaxReport are in bytes.
const (
	MaxPlan   = 64 << 10
	MaxReport = 256 << 10
	maxDetail = 128
	maxTrip   = 10 * time.Minute
)

var outcomes = []Outcome{Reached, Accepted, Refused, Unreachable, TimedOut, NotTried}

// EncodePlan returns a plan as one line of JSON.
func EncodePlan(p Plan) ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	return encode("plan", p, MaxPlan)
}

// DecodePlan reads one plan, of at most MaxPlan bytes. If it returns an error,
// the plan is empty.
func DecodePlan(r io.Reader) (Plan, error) {
	var p Plan
	if err := decode(r, MaxPlan, &p); err != nil {
		return Plan{}, fmt.Errorf("plan: %w", err)
	}
	if err := p.check(); err != nil {
		return Plan{}, fmt.Errorf("plan: %w", err)
	}
	return p, nil
}

// EncodeReport returns a report as one line of JSON, with shortened details.
func EncodeReport(r Report) ([]byte, error) {
	r.Results = slices.Clone(r.Results)
	for i := range r.Results {
		r.Results[i].Detail = plain(r.Results[i].Detail)
	}
	return encode("report", r, MaxReport)
}

// DecodeReport reads a guest's report on plan p, of at most MaxReport bytes. The
// report must list each target of the plan once, in the plan's order, and
// nothing else. The result is bounded and printable, but it may still be a lie.
func DecodeReport(p Plan, r io.Reader) (Report, error) {
	var out Report
	if err := decode(r, MaxReport, &out); err != nil {
		return Report{}, fmt.Errorf("report: %w", err)
	}
	if err := out.check(p); err != nil {
		return Report{}, fmt.Errorf("report: %w", err)
	}
	for i := range out.Results {
		out.Results[i].Detail = plain(out.Results[i].Detail)
	}
	return out, nil
}

// check returns an error if the report does not match plan p. The error never
// quotes what the guest wrote.
func (r Report) check(p Plan) error {
	targets := slices.Concat(p.Reach, p.Avoid)
	switch {
	case r.Version != version:
		return fmt.Errorf("version %d: want %d", r.Version, version)
	case r.Nonce != p.Nonce:
		return errors.New("for another plan")
	case r.RoundTrip < 0 || r.RoundTrip > maxTrip:
		return fmt.Errorf("impossible round trip %s", r.RoundTrip)
	case len(r.Results) != len(targets):
		return fmt.Errorf("%d results: want %d", len(r.Results), len(targets))
	}
	for i, result := range r.Results {
		if result.Target != targets[i] {
			return fmt.Errorf("result %d is not for %s", i+1, targets[i])
		}
		if !slices.Contains(outcomes, result.Outcome) {
			return fmt.Errorf("unknown outcome for %s", targets[i])
		}
	}
	return nil
}

func encode(what string, v any, most int) ([]byte, error) {
	out, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if len(out) >= most {
		return nil, fmt.Errorf("%s: %d bytes, more than the limit of %d", what, len(out), most)
	}
	return append(out, '\n'), nil
}

// decode reads one JSON value. It returns an error if anything follows.
func decode(r io.Reader, most int, into any) error {
	limited := &io.LimitedReader{R: r, N: int64(most) + 1}
	data, err := io.ReadAll(limited)
	switch {
	case err != nil:
		return err
	case len(data) > most:
		return fmt.Errorf("more than %d bytes", most)
	case len(data) == 0:
		return errors.New("empty")
	}
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return errNotJSON
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errNotJSON
	}
	return nil
}

// errNotJSON replaces the decoder's own errors, which quote what they read.
var errNotJSON = errors.New("not in the expected format")

// plain returns text in printable ASCII, cut to at most maxDetail characters.
func plain(text string) string {
	text = text[:min(len(text), maxDetail)]
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
}
