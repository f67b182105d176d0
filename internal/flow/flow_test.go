// SPDX-License-Identifier: Apache-2.0

package flow_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/flow"
)

type scope struct{ entered []string }

type recorded struct {
	Step, Condition, Result string
	Kind                    flow.Kind
}

func step(name string, err error) flow.Step[*scope] {
	return flow.Step[*scope]{Name: name, Condition: name + "Ready", Do: func(_ context.Context, s *scope) error {
		s.entered = append(s.entered, name)
		return err
	}}
}

func TestRun(t *testing.T) {
	waiting := &flow.Waiting{Reason: "Pulling", Message: "the image is being pulled", After: time.Second}
	terminal := &flow.Terminal{Reason: "BadSpec", Err: errors.New("the spec makes no sense")}
	unknown := errors.New("the daemon did not answer")
	blocked := func(name string) recorded {
		return recorded{name, name + "Ready", "waits for step b", flow.KindBlocked}
	}
	done := func(name string) recorded { return recorded{name, name + "Ready", "", flow.KindDone} }
	tests := map[string]struct {
		b       error
		entered []string
		want    []recorded
	}{
		"all done": {nil, []string{"a", "b", "c", "d"},
			[]recorded{done("a"), done("b"), done("c"), done("d")}},
		"waiting ends the pass": {waiting, []string{"a", "b"},
			[]recorded{done("a"), {"b", "bReady", "the image is being pulled", flow.KindWait}, blocked("c"), blocked("d")}},
		"terminal ends the pass": {terminal, []string{"a", "b"},
			[]recorded{done("a"), {"b", "bReady", "the spec makes no sense", flow.KindTerminal}, blocked("c"), blocked("d")}},
		"any other error ends the pass": {unknown, []string{"a", "b"},
			[]recorded{done("a"), {"b", "bReady", "the daemon did not answer", flow.KindRetry}, blocked("c"), blocked("d")}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := &scope{}
			var got []recorded
			err := flow.Run(t.Context(), s, []flow.Step[*scope]{step("a", nil), step("b", tt.b), step("c", nil), step("d", nil)},
				func(st flow.Step[*scope], err error) {
					r := recorded{Step: st.Name, Condition: st.Condition, Kind: flow.Classify(err)}
					if err != nil {
						r.Result = err.Error()
					}
					got = append(got, r)
				})
			if err != tt.b {
				t.Errorf("result: got %v, want %v", err, tt.b)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("records (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tt.entered, s.entered); d != "" {
				t.Errorf("entered steps (-want +got):\n%s", d)
			}
		})
	}
}

func TestRunWithoutSteps(t *testing.T) {
	if err := flow.Run(t.Context(), &scope{}, nil, nil); err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

func TestRunWithoutRecord(t *testing.T) {
	want := errors.New("x")
	if err := flow.Run(t.Context(), &scope{}, []flow.Step[*scope]{step("a", nil), step("b", want)}, nil); err != want {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestRunEntersNoStepOnceTheContextEnded(t *testing.T) {
	cause := errors.New("the agent is stopping")
	ctx, cancel := context.WithCancelCause(t.Context())
	s := &scope{}
	first := flow.Step[*scope]{Name: "first", Do: func(context.Context, *scope) error {
		cancel(cause)
		return nil
	}}
	got := map[string]flow.Kind{}
	err := flow.Run(ctx, s, []flow.Step[*scope]{first, step("second", nil), step("third", nil)},
		func(st flow.Step[*scope], err error) { got[st.Name] = flow.Classify(err) })
	if !errors.Is(err, cause) {
		t.Errorf("result: got %v, want %v", err, cause)
	}
	if len(s.entered) != 0 {
		t.Errorf("entered steps: got %v, want none", s.entered)
	}
	want := map[string]flow.Kind{"first": flow.KindDone, "second": flow.KindRetry, "third": flow.KindBlocked}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("records (-want +got):\n%s", d)
	}
}

func TestOutcomeOf(t *testing.T) {
	plain := errors.New("plain")
	wait := &flow.Waiting{Reason: "Short", Message: "none is free", After: 5 * time.Second}
	soon := &flow.Waiting{Reason: "Soon", Message: "nearly there", After: time.Second}
	onEvent := &flow.Waiting{Reason: "OnEvent", Message: "until something happens"}
	term := &flow.Terminal{Reason: "Bad", Err: plain}
	tests := map[string]struct {
		err  error
		want flow.Outcome
	}{
		"nil":                 {nil, flow.Outcome{Kind: flow.KindDone}},
		"plain":               {plain, flow.Outcome{Kind: flow.KindRetry, Message: "plain"}},
		"context":             {context.DeadlineExceeded, flow.Outcome{Kind: flow.KindRetry, Message: "context deadline exceeded"}},
		"waiting":             {wait, flow.Outcome{Kind: flow.KindWait, Reason: "Short", Message: "none is free", After: 5 * time.Second}},
		"waiting, no message": {&flow.Waiting{Reason: "Short"}, flow.Outcome{Kind: flow.KindWait, Reason: "Short", Message: "Short"}},
		"wrapped waiting": {fmt.Errorf("network x: %w", wait),
			flow.Outcome{Kind: flow.KindWait, Reason: "Short", Message: "network x: none is free", After: 5 * time.Second}},
		"terminal":                {term, flow.Outcome{Kind: flow.KindTerminal, Reason: "Bad", Message: "plain"}},
		"terminal, no cause":      {&flow.Terminal{Reason: "Bad"}, flow.Outcome{Kind: flow.KindTerminal, Reason: "Bad", Message: "Bad"}},
		"wrapped terminal":        {fmt.Errorf("env: %w", term), flow.Outcome{Kind: flow.KindTerminal, Reason: "Bad", Message: "env: plain"}},
		"terminal around waiting": {&flow.Terminal{Reason: "Bad", Err: wait}, flow.Outcome{Kind: flow.KindTerminal, Reason: "Bad", Message: "none is free"}},
		"blocked":                 {&flow.Blocked{By: "network"}, flow.Outcome{Kind: flow.KindBlocked, Message: "waits for step network"}},
		"bare ErrBlocked":         {flow.ErrBlocked, flow.Outcome{Kind: flow.KindBlocked, Message: "an earlier step is not done"}},
		"joined: a wait takes precedence over terminal": {errors.Join(term, wait),
			flow.Outcome{Kind: flow.KindWait, Reason: "Short", Message: "plain\nnone is free", After: 5 * time.Second}},
		"joined: a plain error takes precedence over all": {errors.Join(term, wait, plain), flow.Outcome{Kind: flow.KindRetry, Message: "plain\nnone is free\nplain"}},
		"joined waits: the shortest pause, the first reason": {errors.Join(onEvent, wait, soon),
			flow.Outcome{Kind: flow.KindWait, Reason: "OnEvent", Message: "until something happens\nnone is free\nnearly there", After: time.Second}},
		"joined in a wrapped error": {fmt.Errorf("two of them: %w and %w", term, term),
			flow.Outcome{Kind: flow.KindTerminal, Reason: "Bad", Message: "two of them: plain and plain"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, flow.OutcomeOf(tt.err)); d != "" {
				t.Errorf("outcome (-want +got):\n%s", d)
			}
			if got := flow.Classify(tt.err); got != tt.want.Kind {
				t.Errorf("kind: got %v, want %v", got, tt.want.Kind)
			}
		})
	}
}

func TestErrorsUnwrap(t *testing.T) {
	cause := errors.New("cause")
	if err := fmt.Errorf("x: %w", &flow.Terminal{Reason: "Bad", Err: cause}); !errors.Is(err, cause) {
		t.Errorf("terminal: got %v, want an error that is %v", err, cause)
	}
	if err := fmt.Errorf("x: %w", &flow.Blocked{By: "y"}); !errors.Is(err, flow.ErrBlocked) {
		t.Errorf("blocked: got %v, want an error that is %v", err, flow.ErrBlocked)
	}
}

func TestKindString(t *testing.T) {
	for kind, want := range map[flow.Kind]string{flow.KindDone: "done", flow.KindBlocked: "blocked", flow.KindTerminal: "terminal",
		flow.KindWait: "wait", flow.KindRetry: "retry", flow.Kind(9): "kind(9)"} {
		if got := kind.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
