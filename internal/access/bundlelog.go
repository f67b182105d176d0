// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// maxTail bounds the lines that are kept in memory to find the last ones.
	maxTail = 10000
	// endInterval is how often the log of a bundle that is followed is checked for its end.
	endInterval = time.Second
)

// decision is the JSON form of a decision in the log Egress.
type decision struct {
	Time     time.Time `json:"time"`
	Decision string    `json:"decision"`
	Host     string    `json:"host,omitempty"`
	Port     uint16    `json:"port,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Closed   string    `json:"closed,omitempty"`
	Cause    string    `json:"cause,omitempty"`
	Address  string    `json:"address,omitempty"`
	LeftOut  uint32    `json:"leftOut,omitempty"`
}

// bundleLog sends what the bundle's container printed, or its decisions.
func (s *Server) bundleLog(c *session, req logRequest, w *lineWriter) error {
	b := &bundleReader{bundles: s.Bundles, owner: c.bottle.Owner, decisions: req.source == subresources.LogEgress, finished: c.bottle.Finished, w: w}
	ctx := c.r.Context()
	first, err := b.first(ctx, req)
	if err != nil {
		return err
	}
	b.next = first.Since
	if req.tail == 0 {
		b.next = time.Now()
	}
	if err := b.readTail(ctx, req, first); err != nil || !req.follow {
		return err
	}
	return s.followBundle(ctx, c, b)
}

// bundleReader reads the log of a bundle's container.
type bundleReader struct {
	bundles   host.Bundles
	owner     host.Owner
	decisions bool // only these
	finished  bool // the Bottle has
	w         *lineWriter
	next      time.Time // of the first line that has not been read
}

// first returns the request for what the log has now.
func (b *bundleReader) first(ctx context.Context, req logRequest) (host.BundleLogRequest, error) {
	out := host.BundleLogRequest{Since: req.since, Tail: req.tail}
	if b.decisions {
		out.Tail = -1 // docker does not know which lines are decisions
		return out, nil
	}
	container, err := b.bundles.InspectBundle(ctx, b.owner)
	switch {
	case errors.Is(err, host.ErrNotFound) && !req.previous:
		return out, nil
	case err != nil && !errors.Is(err, host.ErrNotFound):
		return out, err
	case req.previous && container.StartedAt.IsZero():
		return out, apierrors.NewBadRequest("the bundle's container has no earlier run")
	case req.previous:
		out.Until = container.StartedAt.Add(-1)
	case container.StartedAt.After(out.Since):
		out.Since = container.StartedAt
	}
	return out, nil
}

// readTail sends what the log has now.
func (b *bundleReader) readTail(ctx context.Context, req logRequest, first host.BundleLogRequest) error {
	var kept []line
	keep := b.decisions && req.tail >= 0
	err := b.read(ctx, first, func(l line) error {
		if !keep {
			return b.w.write(l)
		}
		if kept = append(kept, l); int64(len(kept)) > min(req.tail, maxTail) {
			kept = kept[1:]
		}
		return nil
	})
	switch {
	case errors.Is(err, host.ErrNotFound) && b.finished:
		return apierrors.NewResourceExpired("the Bottle has finished, and the log of its bundle has gone with its Pod; the last refusals are in status.egress.recentDenials")
	case errors.Is(err, host.ErrNotFound):
		return nil // there is no container yet
	}
	for _, l := range kept {
		if err := b.w.write(l); err != nil {
			return err
		}
	}
	return err
}

func (b *bundleReader) read(ctx context.Context, req host.BundleLogRequest, emit func(line) error) error {
	return b.bundles.ReadLog(ctx, b.owner, req, func(l host.BundleLogLine) error {
		if !l.Time.IsZero() {
			b.next = l.Time.Add(1)
		}
		out := line{time: l.Time, stream: stdout, partial: l.Partial, text: l.Text}
		if l.Stderr {
			out.stream = stderr
		}
		if b.decisions {
			if l.Decision == nil {
				return nil
			}
			d := l.Decision
			text, err := json.Marshal(decision{d.Time, d.Verdict, d.Host, d.Port, d.Reason, d.Closed, d.Cause, d.Address, d.LeftOut})
			if err != nil {
				return err
			}
			out.text = text
		}
		return emit(out)
	})
}

// followBundle sends new lines until the Bottle has finished or is gone.
func (s *Server) followBundle(ctx context.Context, c *session, b *bundleReader) error {
	body := b.w.w.(*logBody)
	for {
		if err := body.flush(); err != nil {
			return err
		}
		ended, err := s.logEnded(ctx, c.bottle.Owner)
		if err != nil {
			return err
		}
		// The end of the container's run ends the call, and so does the end of the Bottle.
		run, cancel := context.WithCancel(ctx)
		if !ended {
			go s.cancelAtEnd(run, cancel, c.bottle.Owner)
		}
		err = b.read(run, host.BundleLogRequest{Since: b.next, Tail: -1, Follow: !ended}, func(l line) error {
			if err := b.w.write(l); err != nil {
				return err
			}
			return body.flush()
		})
		cancel()
		if err != nil && !errors.Is(err, host.ErrNotFound) || ended {
			return ignoreNotFound(err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(endInterval):
		}
	}
}

func ignoreNotFound(err error) error {
	if errors.Is(err, host.ErrNotFound) {
		return nil
	}
	return err
}

// cancelAtEnd calls cancel once the Bottle has finished or is gone.
func (s *Server) cancelAtEnd(ctx context.Context, cancel func(), owner host.Owner) {
	check := time.NewTicker(endInterval)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-check.C:
			if ended, err := s.logEnded(ctx, owner); ended || err != nil {
				cancel()
				return
			}
		}
	}
}
