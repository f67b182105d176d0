// SPDX-License-Identifier: Apache-2.0

package boottrial

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

// keeper is a Keeper and what it depends on.
type keeper struct {
	*Keeper
	node    *node
	running bool
	tried   atomic.Int32 // how often Tried was called

	mu       sync.Mutex
	notReady error
}

// ready sets why the node is not ready; nil means that it is.
func (k *keeper) ready(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.notReady = err
}

// startKeeper starts a Keeper in a bubble of synctest. It ends with the test.
func startKeeper(t *testing.T, n *node) *keeper {
	t.Helper()
	k := newKeeper(n)
	startIt(t, k)
	return k
}

func newKeeper(n *node) *keeper {
	k := &keeper{node: n}
	k.Keeper = NewKeeper(KeeperOptions{
		Trial: n.Trial, Clock: clock.RealClock{}, Log: logr.Discard(),
		Ready: func(context.Context) error {
			k.mu.Lock()
			defer k.mu.Unlock()
			return k.notReady
		},
		Running: func() (bool, error) { return k.running, nil },
		Tried:   func() { k.tried.Add(1) },
	})
	return k
}

func startIt(t *testing.T, k *keeper) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- k.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
}

func (k *keeper) want(t *testing.T, ok bool, message string) {
	t.Helper()
	f := k.Fact()
	if f.Name != "kvm-boot" || f.OK != ok || !strings.Contains(f.Message, message) || message == "" && f.Message != "" {
		t.Errorf("fact: got %+v, want OK %v with %q", f, ok, message)
	}
}

func (k *keeper) wantStarts(t *testing.T, want int) {
	t.Helper()
	got := 0
	for _, call := range k.node.machines.Faults.Calls() {
		if strings.HasPrefix(call, "StartMachine") {
			got++
		}
	}
	if got != want {
		t.Errorf("starts: got %d, want %d", got, want)
	}
}

// wantTried checks after how many trials the Keeper said that there is a verdict.
func (k *keeper) wantTried(t *testing.T, want int32) {
	t.Helper()
	if got := k.tried.Load(); got != want {
		t.Errorf("calls of Tried: got %d, want %d", got, want)
	}
}

func TestKeeperTriesOncePerBoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		k := newKeeper(n)
		k.want(t, false, "no microVM has booted on this node since the node itself booted: the agent boots one as soon as it can")
		startIt(t, k)
		k.want(t, true, "")
		k.wantTried(t, 1)
		time.Sleep(time.Hour)
		k.wantTried(t, 1)
		startKeeper(t, n).want(t, true, "") // another agent on the same node
		k.wantStarts(t, 1)
		n.boot = "second"
		startKeeper(t, n).want(t, true, "")
		k.wantStarts(t, 2)
	})
}

func TestKeeperWaitsUntilTheNodeIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(newNode(t))
		k.ready(errors.New("docker: it does not answer"))
		startIt(t, k)
		k.want(t, false, "as soon as it can (docker: it does not answer)")
		k.wantStarts(t, 0)
		k.wantTried(t, 0)
		k.ready(nil)
		time.Sleep(checkInterval)
		synctest.Wait()
		k.want(t, true, "")
	})
}

// An agent that is upgraded while machines run does not take the node's offer back.
func TestKeeperTrustsRunningMachinesUntilTheTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(newNode(t))
		k.running = true
		k.ready(errors.New("not yet"))
		startIt(t, k)
		k.want(t, true, "no microVM has booted")
		k.node.machines.Faults.Fail("StartMachine", hosttest.Before, hosttest.Always, host.ErrBootFailed)
		k.ready(nil)
		time.Sleep(checkInterval)
		synctest.Wait()
		k.want(t, false, "does not boot on this node")
	})
}

func TestKeeperRepeatsAFailedTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.machines.Faults.Fail("StartMachine", hosttest.Before, hosttest.Always, host.ErrBootFailed)
		k := startKeeper(t, n)
		k.want(t, false, "does not boot on this node")
		k.wantStarts(t, starts)
		startKeeper(t, n) // another agent knows from the verdict
		time.Sleep(failedInterval - time.Minute)
		synctest.Wait()
		k.wantStarts(t, starts)
		n.machines.Faults.Heal()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		k.want(t, true, "")
	})
}

// `bottle-operator preflight --boot` is another process.
func TestKeeperSeesTheVerdictOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.machines.Faults.Fail("StartMachine", hosttest.Before, starts, host.ErrBootFailed)
		k := startKeeper(t, n)
		k.want(t, false, "does not boot on this node")
		if err := n.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		k.want(t, true, "")
	})
}
