// SPDX-License-Identifier: Apache-2.0

package boottrial

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/nodefacts"
)

const (
	// checkInterval is the time between two looks at the verdict, which
	// `bottle-operator preflight --boot` may have replaced.
	checkInterval = 10 * time.Second
	// failedInterval is the time after which a trial that failed is repeated. Until then, it
	// would only load a node that boots nothing.
	failedInterval = 15 * time.Minute
)

// KeeperOptions are the options of NewKeeper. All are required.
type KeeperOptions struct {
	Trial *Trial
	// Ready returns nil if the node has all that a machine needs.
	Ready func(ctx context.Context) error
	// Running reports whether any other machine runs on the node.
	Running func() (bool, error)
	// Tried is called after each trial that has a verdict.
	Tried func()
	Clock clock.WithTicker
	Log   logr.Logger
}

// Keeper makes sure that there is a verdict for this boot of the node.
type Keeper struct {
	KeeperOptions

	mu      sync.Mutex
	problem string // why there is no verdict yet
}

// NewKeeper returns a Keeper. It has no side effects.
func NewKeeper(o KeeperOptions) *Keeper { return &Keeper{KeeperOptions: o} }

// Fact returns whether the node boots microVMs. While that is not known, the answer is no
// unless other machines run: an agent that is new on a node does not take back what an
// earlier one offered.
func (k *Keeper) Fact() host.Fact {
	state, message := k.Trial.State()
	f := host.Fact{Name: nodefacts.BootName, OK: state == Booted, Message: message}
	if state != Untried {
		return f
	}
	if running, err := k.Running(); err == nil && running {
		f.OK = true
		return f
	}
	f.Message += ": the agent boots one as soon as it can"
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.problem != "" {
		f.Message += " (" + k.problem + ")"
	}
	return f
}

// Start makes a trial if there is no verdict for this boot of the node, until ctx ends.
func (k *Keeper) Start(ctx context.Context) error {
	ticker := k.Clock.NewTicker(checkInterval)
	defer ticker.Stop()
	if err := k.Trial.Clean(ctx); err != nil && !errors.Is(err, ErrInUse) {
		k.Log.Error(err, "Could not remove what an earlier boot trial left behind; the next trial tries again")
	}
	var failed time.Time // when a trial last ended without success
	for {
		if state, _ := k.Trial.State(); state == Untried || state == Failed && k.Clock.Since(failed) >= failedInterval {
			if failed.IsZero() && state == Failed {
				failed = k.Clock.Now() // an earlier agent made that trial
			} else if k.attempt(ctx) != Booted {
				failed = k.Clock.Now()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
	}
}

// attempt makes one trial, if the node is ready for it.
func (k *Keeper) attempt(ctx context.Context) State {
	err := k.Ready(ctx)
	if err == nil {
		started := k.Clock.Now()
		if err = k.Trial.Run(ctx); err == nil {
			state, message := k.Trial.State()
			k.setProblem("")
			k.Log.Info("Booted a microVM to see whether this node can", "booted", state == Booted, "problem", message, "took", k.Clock.Since(started).String())
			k.Tried()
			return state
		}
	}
	if ctx.Err() == nil && k.setProblem(shorten(err.Error())) {
		k.Log.Error(err, "Could not find out whether this node boots microVMs")
	}
	return Untried
}

// setProblem reports whether the problem is another one than before.
func (k *Keeper) setProblem(problem string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	changed := k.problem != problem
	k.problem = problem
	return changed
}
