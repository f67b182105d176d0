// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
)

// pollInterval is how often a log that is followed is looked at.
const pollInterval = 200 * time.Millisecond

// logRequest is what a client wants to read.
type logRequest struct {
	source           subresources.LogSource
	format           subresources.LogFormat
	follow, previous bool
	timestamps       bool
	since            time.Time
	tail             int64 // lines; negative is all
	limit            int64 // bytes; negative is no limit
}

// parseLogRequest reads the parameters of a request, as BottleLogOptions.
func parseLogRequest(query url.Values, now time.Time) (logRequest, error) {
	r := logRequest{
		source: subresources.LogSource(query.Get("source")), format: subresources.LogFormat(query.Get("format")),
		follow: flag(query, "follow"), previous: flag(query, "previous"), timestamps: flag(query, "timestamps"),
		tail: -1, limit: -1,
	}
	switch r.source {
	case "":
		r.source = subresources.LogWorkload
	case subresources.LogWorkload, subresources.LogConsole, subresources.LogBundle, subresources.LogEgress:
	default:
		return r, errors.New("source: want Workload, Console, Bundle or Egress")
	}
	switch r.format {
	case "":
		r.format = subresources.LogText
	case subresources.LogText, subresources.LogCRI:
	default:
		return r, errors.New("format: want Text or CRI")
	}
	if r.previous && (r.source == subresources.LogConsole || r.source == subresources.LogEgress) {
		return r, errors.New("previous: only the workload and the bundle have runs")
	}
	if r.previous && r.follow {
		return r, errors.New("previous, follow: an earlier run gets no new lines")
	}
	seconds := int64(-1)
	for name, n := range map[string]*int64{"tailLines": &r.tail, "limitBytes": &r.limit, "sinceSeconds": &seconds} {
		if text := query.Get(name); text != "" {
			v, err := strconv.ParseInt(text, 10, 64)
			if err != nil || v < 0 || v == 0 && name != "tailLines" {
				return r, errors.New(name + ": want a positive number")
			}
			*n = v
		}
	}
	return r, r.parseSince(query.Get("sinceTime"), seconds, now)
}

func (r *logRequest) parseSince(at string, seconds int64, now time.Time) error {
	switch {
	case at != "" && seconds >= 0:
		return errors.New("sinceTime, sinceSeconds: want at most one of them")
	case at != "":
		t, err := time.Parse(time.RFC3339, at)
		if err != nil {
			return errors.New("sinceTime: want a time such as 2026-01-02T03:04:05Z")
		}
		r.since = t
	case seconds >= 0:
		r.since = now.Add(-time.Duration(min(seconds, math.MaxInt64/int64(time.Second))) * time.Second)
	}
	return nil
}

// log sends a log.
func (s *Server) log(c *session) error {
	req, err := parseLogRequest(c.query, time.Now())
	if err != nil {
		return c.fail(apierrors.NewBadRequest(err.Error()))
	}
	end, err := s.Sessions.begin(c.bottle.Owner.UID, reading, maxReaders)
	if errors.Is(err, errMachineFull) {
		err = tooMany("%d logs of the Bottle are being read, the most that are possible at a time", maxReaders)
	}
	if err != nil {
		return c.fail(err)
	}
	defer end()
	body := &logBody{session: c}
	w := &lineWriter{w: body, format: req.format, timestamps: req.timestamps, left: req.limit, since: req.since}
	switch req.source {
	case subresources.LogBundle, subresources.LogEgress:
		err = s.bundleLog(c, req, w)
	default:
		err = s.machineLog(c, req, w)
	}
	ctx := c.r.Context()
	switch {
	case errors.Is(err, errLimit), ctx.Err() != nil && body.begun:
		return nil
	case err != nil && !body.begun:
		return c.fail(err)
	case err != nil:
		c.abort = true // the client must not take the log for complete
		return asStatus(err, c.bottle.Owner.Name)
	}
	body.begin() // a log without lines is a log too
	return nil
}

// logBody is the body of an answer, which begins with its first byte.
type logBody struct {
	session *session
	begun   bool
}

func (b *logBody) begin() {
	if !b.begun {
		b.begun = true
		b.session.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		b.session.w.WriteHeader(http.StatusOK)
	}
}

func (b *logBody) Write(p []byte) (int, error) {
	b.begin()
	n, err := b.session.w.Write(p)
	b.session.out.Add(int64(n))
	return n, err
}

// flush sends what has been written, or at least the header, so that the client knows
// that it follows the log.
func (b *logBody) flush() error {
	b.begin()
	return http.NewResponseController(b.session.w).Flush()
}

// machineLog sends a log that is in files of the machine.
func (s *Server) machineLog(c *session, req logRequest, w *lineWriter) error {
	ctx, owner := c.r.Context(), c.bottle.Owner
	log := host.WorkloadLog
	if req.source == subresources.LogConsole {
		log = host.ConsoleLog
	}
	files, err := openLog(ctx, s.Machines, owner.ID(), log)
	if err != nil {
		return err
	}
	defer files.close()
	from, to, err := files.pick(req)
	if err != nil {
		return err
	}
	reader := &lineReader{files: files, at: from}
	emit := emitter(w, log)
	if !req.follow {
		return reader.readTo(to, emit)
	}
	for ended := false; !ended; {
		if err := reader.read(emit); err != nil {
			return err
		}
		if err := w.w.(*logBody).flush(); err != nil {
			return err
		}
		if ended, err = s.awaitLog(ctx, owner, reader); err != nil {
			return err
		}
	}
	if _, err := files.refresh(); err != nil { // a file may have begun just before the end
		return err
	}
	if err := reader.read(emit); err != nil {
		return err
	}
	return reader.rest(emit)
}

// emitter returns what writes the lines of a file to the client. Lines of the workload
// that the supervisor did not write are output of unknown time.
func emitter(w *lineWriter, log host.MachineLog) func(text []byte, ended bool) error {
	return func(text []byte, ended bool) error {
		if l, ok := parseLine(text); ok && ended && (log == host.WorkloadLog || l.stream == system && l.time.IsZero()) {
			return w.write(l)
		}
		for {
			l := line{stream: stdout, text: text[:min(len(text), maxPart)]}
			if log == host.WorkloadLog {
				l.time = time.Now()
			}
			text = text[len(l.text):]
			l.partial = !ended || len(text) > 0
			if err := w.write(l); err != nil || len(text) == 0 {
				return err
			}
		}
	}
}

// awaitLog waits until the log may have more. ended means that there is no more to come
// than what it has now.
func (s *Server) awaitLog(ctx context.Context, owner host.Owner, r *lineReader) (ended bool, err error) {
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		if ended, err := s.logEnded(ctx, owner); ended || err != nil {
			return ended, err
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-poll.C:
		}
		if _, err := r.files.refresh(); err != nil {
			return false, err
		}
		r.files.forget(&r.at)
		end, err := r.files.end()
		if err != nil || end != r.at {
			return false, err
		}
	}
}

// logEnded reports whether the Bottle has finished or is gone.
func (s *Server) logEnded(ctx context.Context, owner host.Owner) (bool, error) {
	b, err := s.Bottles.Find(ctx, owner.Namespace, owner.Name, owner.UID)
	if errors.Is(err, host.ErrNotFound) {
		return true, nil
	}
	return b.Finished, err
}

// pick returns the positions between which the lines are that the client wants to read.
// to matters only for an earlier run.
func (f *logFiles) pick(req logRequest) (from, to position, err error) {
	end, err := f.end()
	if err != nil {
		return from, to, err
	}
	p := picker{req: req, from: end, to: end, inRun: !req.previous}
	if err := f.backwards(end, p.visit); err != nil {
		return from, to, err
	}
	if p.inRun && !p.stopped {
		p.from = position{} // with what the agent has freed, so that the client learns of it
	}
	if req.previous && p.marks < 2 && p.lines == 0 {
		return from, to, apierrors.NewBadRequest("the workload has no earlier run in the log")
	}
	return p.from, p.to, nil
}

// picker finds the beginning of what a client wants to read, on the way back.
type picker struct {
	req      logRequest
	from, to position
	inRun    bool  // the lines belong to the run that the client wants to read
	lines    int64 // whole lines so far
	marks    int   // beginnings of runs so far
	stopped  bool  // the beginning is found
}

func (p *picker) visit(at position, head []byte) (more bool) {
	more = p.take(at, head)
	p.stopped = !more
	return more
}

func (p *picker) take(at position, head []byte) (more bool) {
	l, ok := parseLine(head)
	ok = ok && p.req.source == subresources.LogWorkload
	if ok && l.beginsRun() {
		p.marks++
		if p.inRun {
			return false
		}
		p.inRun, p.from, p.to = true, at, at
		return true
	}
	if !p.inRun {
		return true
	}
	if ok && l.stream == system {
		return true
	}
	// A part that other parts follow is part of the same line.
	if !ok || !l.partial || p.lines == 0 {
		if p.lines == p.req.tail {
			return false
		}
		p.lines++
	}
	p.from = at
	return true
}

// readTo is like read, but stops at a position: a file may grow as fast as it is read.
func (r *lineReader) readTo(end position, emit func([]byte, bool) error) error {
	r.end = &end
	if err := r.read(emit); err != nil {
		return err
	}
	return r.rest(emit)
}
