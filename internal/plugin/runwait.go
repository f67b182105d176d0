// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/api/v1alpha1"
)

const (
	// drain is how long the output may still come after the Bottle has finished.
	drain = 30 * time.Second
	// lastWords is how long a request may take after a signal.
	lastWords = 30 * time.Second
	// overtime is how much longer than --timeout the client waits: the operator gives
	// the command a grace period, and stops its machine.
	overtime = 3 * time.Minute
)

// errStopped means that the Bottle was stopped before its command ended.
var errStopped = errors.New("the Bottle was stopped before its command ended: kubectl bottle start runs it again")

// ended returns an error if the Bottle cannot finish any more.
func (r *runner) ended(b *v1alpha1.Bottle) error {
	if c := stalled(b); c != nil {
		message := fmt.Sprintf("the Bottle is stalled (%s): %s", clean(c.Reason), clean(c.Message))
		if do := adviceFor(c.Reason).do; do != "" {
			message += "\nWhat to do: " + do
		}
		return errors.New(message)
	}
	ready := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionReady)
	if ready != nil && ready.Status == metav1.ConditionTrue && ready.Reason == v1alpha1.ReasonStopped && b.Spec.DesiredState == v1alpha1.DesiredStateStopped {
		return errStopped
	}
	return nil
}

// untilStarted waits until the machine runs, or the Bottle has finished already.
func (r *runner) untilStarted(parent context.Context) error {
	ctx, cancel := context.WithTimeout(parent, r.flags.startTimeout)
	defer cancel()
	err := r.client.follow(ctx, r.bottle, func(b *v1alpha1.Bottle) (bool, error) {
		r.bottle = b
		r.progress.show(b)
		if isTrue(b, v1alpha1.ConditionFinished) {
			return true, nil
		}
		if err := r.ended(b); err != nil {
			return false, err
		}
		if len(r.ins) > 0 {
			return isTrue(b, v1alpha1.ConditionMachineReady) && isTrue(b, v1alpha1.ConditionEgressEnforced), nil
		}
		return isTrue(b, v1alpha1.ConditionMachineReady) || b.Status.Workload != nil, nil
	})
	if errors.Is(err, context.DeadlineExceeded) && parent.Err() == nil {
		return r.notStarted()
	}
	return err
}

// notStarted describes why the machine does not run yet.
func (r *runner) notStarted() error {
	message := fmt.Sprintf("the machine is not running after %s", r.flags.startTimeout)
	if c := decisive(r.bottle); c != nil {
		message += fmt.Sprintf(": %s: %s", clean(c.Reason), clean(c.Message))
		if do := adviceFor(c.Reason).do; do != "" {
			message += "\nWhat to do: " + do
		}
	}
	return errors.New(message)
}

// show shows the output of the command until the Bottle has finished.
func (r *runner) show(parent context.Context) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	if life := r.bottle.Spec.Lifetime; life != nil && life.ActiveDeadlineSeconds != nil {
		timeout := time.Duration(*life.ActiveDeadlineSeconds)*time.Second + overtime
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, errors.New("the Bottle has not finished long after its spec.lifetime.activeDeadlineSeconds"))
		defer cancel()
	}
	shown := make(chan error, 1)
	finished := make(chan struct{})
	go func() { shown <- r.output(ctx, finished) }()
	err := r.client.follow(ctx, r.bottle, func(b *v1alpha1.Bottle) (bool, error) {
		r.bottle = b
		r.progress.show(b)
		if isTrue(b, v1alpha1.ConditionFinished) {
			return true, nil
		}
		return false, r.ended(b)
	})
	close(finished)
	if err != nil {
		cancel()
		<-shown //nolint:errcheck // it was broken off
		return err
	}
	late := time.AfterFunc(drain, cancel)
	defer late.Stop()
	if err := <-shown; err != nil && parent.Err() == nil {
		fmt.Fprintf(r.ErrOut, "The output is incomplete: %s\n", clean(err.Error()))
	}
	return context.Cause(parent)
}

// output shows the output of the command to its end. A session that ends early, for
// example with the node's agent, is followed by the log from where it ended.
func (r *runner) output(ctx context.Context, finished <-chan struct{}) error {
	o := &output{out: r.Out, errOut: r.ErrOut, notes: r.notes}
	if r.terminal != nil {
		err := r.attach(ctx, finished)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		fmt.Fprintf(r.notes, "The session has ended, and the log follows: %s\n", clean(err.Error()))
	}
	for {
		over := closed(finished)
		err := r.copyOutput(ctx, o, over)
		if ctx.Err() != nil || err == nil && (over || closed(finished)) {
			return nil
		}
		if over && err != nil && !starting(err) && !transient(err) {
			return err
		}
		end := finished
		if over {
			end = nil // the pause counts
		}
		select {
		case <-ctx.Done():
			return err
		case <-end:
		case <-r.client.pause():
		}
	}
}

// closed reports whether a channel is closed.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// copyOutput copies the log to its end, from where it was left.
func (r *runner) copyOutput(ctx context.Context, o *output, finished bool) error {
	options := &subresources.BottleLogOptions{Source: subresources.LogWorkload, Format: subresources.LogCRI, Follow: !finished}
	if !o.last.IsZero() {
		options.SinceTime = &metav1.Time{Time: o.last.Truncate(time.Second)}
	}
	o.again()
	body, err := r.client.log(r.name, options).Stream(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	return o.copy(body)
}

// attach connects the terminal or the input with the command. While the machine starts,
// it tries again.
func (r *runner) attach(ctx context.Context, finished <-chan struct{}) error {
	for {
		err := r.client.stream(ctx, r.terminal)
		if exitCode(err) || err == nil {
			return nil // Finished has the code
		}
		if !starting(err) || closed(finished) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-r.client.pause():
		}
	}
}

// stopper is told about signals.
type stopper struct {
	mu     sync.Mutex
	first  os.Signal
	cancel context.CancelCauseFunc
}

func (s *stopper) end() { s.cancel(nil) }

// interrupted returns the error of the first signal; nil if there was none.
func (s *stopper) interrupted() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == nil {
		return nil
	}
	return &signalError{s.first}
}

// watchSignals returns a context that ends with the first signal if the Bottle is to be
// deleted afterwards, and otherwise with the second one: the first one stops the Bottle.
func (r *runner) watchSignals(parent context.Context) (context.Context, *stopper) {
	ctx, cancel := context.WithCancelCause(parent)
	s := &stopper{cancel: cancel}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case signal := <-r.signals:
				s.mu.Lock()
				again := s.first != nil
				s.first = signal
				s.mu.Unlock()
				if again || r.flags.remove {
					cancel(&signalError{signal})
					return
				}
				fmt.Fprintf(r.ErrOut, "Stopping %s. Press Ctrl-C again to exit immediately.\n", r.name)
				go r.stopBottle(parent)
			}
		}
	}()
	return ctx, s
}

// stopBottle stops the machine. The command gets SIGTERM and a grace period.
func (r *runner) stopBottle(parent context.Context) {
	ctx, cancel := context.WithTimeout(parent, lastWords)
	defer cancel()
	if err := r.client.setDesiredState(ctx, r.name, v1alpha1.DesiredStateStopped); err != nil {
		fmt.Fprintf(r.ErrOut, "The Bottle could not be stopped: %s\n", clean(err.Error()))
	}
}

// delete deletes the Bottle and waits for a while until it is gone. A signal ends the
// wait.
func (r *runner) delete(parent context.Context) error {
	ctx, cancel := context.WithTimeout(parent, lastWords)
	defer cancel()
	if err := r.client.remove(ctx, r.name, r.bottle.UID); err != nil {
		return err
	}
	fmt.Fprintln(r.notes, sentence(r.name, "deleted"))
	wait, cancel := r.interruptible(ctx)
	defer cancel()
	err := r.client.follow(wait, r.bottle, func(*v1alpha1.Bottle) (bool, error) { return false, nil })
	if err != nil && !errors.Is(err, errDeleted) && wait.Err() != nil {
		fmt.Fprintf(r.notes, "The Bottle is being deleted, and its node has not finished that yet\n")
	}
	return nil
}
