// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"errors"
	"fmt"

	"botbottle.dev/bottle-operator/internal/host"
)

// Set knows which runtimes of a node are in use. All routers share one.
type Set struct {
	Choices *Choices
	Node    *Node
}

// Active reports whether a runtime is in use: new Bottles get it, or a Bottle of the node
// has it. A runtime that is not in use is never asked anything: the node may not have it.
func (s *Set) Active(kind Kind) bool {
	known := s.Node.Known()
	if known == "" && exists(s.Node.KubeletDir) {
		known = Pod // a node with this folder most likely has a kubelet
	}
	if known == "" {
		known = Docker
	}
	return known == kind || s.Choices.Uses(kind)
}

// adapters are the two adapters of one port.
type adapters[T any] struct {
	set         *Set
	docker, pod T
}

func (a *adapters[T]) get(kind Kind) T {
	if kind == Pod {
		return a.pod
	}
	return a.docker
}

// of returns the adapter of the owner's runtime. It returns ErrNotFound if none was chosen,
// because an owner without a runtime has nothing in either.
func (a *adapters[T]) of(owner host.Owner) (T, error) {
	var none T
	kind, err := a.set.Choices.Of(owner.UID)
	switch {
	case err != nil:
		return none, err
	case kind == "":
		return none, fmt.Errorf("bundle of %s: no runtime was chosen: %w", owner.ID(), host.ErrNotFound)
	}
	return a.get(kind), nil
}

// active returns the adapters of all runtimes in use, docker first.
func (a *adapters[T]) active() []T {
	var out []T
	for _, kind := range []Kind{Docker, Pod} {
		if a.set.Active(kind) {
			out = append(out, a.get(kind))
		}
	}
	return out
}

// remove calls do with the adapter of the owner's runtime or, if none was chosen, with each
// adapter in use: if the state directory was lost, what the owner has may be in any runtime.
func (a *adapters[T]) remove(owner host.Owner, do func(T) error) error {
	one, err := a.of(owner)
	switch {
	case err == nil:
		return do(one)
	case !errors.Is(err, host.ErrNotFound):
		return err
	}
	var errs []error
	for _, each := range a.active() {
		errs = append(errs, do(each))
	}
	return errors.Join(errs...)
}

// call calls do with the adapter of the owner's runtime.
func call[T, R any](a *adapters[T], owner host.Owner, do func(T) (R, error)) (R, error) {
	one, err := a.of(owner)
	if err != nil {
		var none R
		return none, err
	}
	return do(one)
}

// inspect is like call but, if no runtime was chosen, looks in each one that is in use.
func inspect[T, R any](a *adapters[T], owner host.Owner, do func(T) (R, error)) (R, error) {
	out, err := call(a, owner, do)
	if !errors.Is(err, host.ErrNotFound) {
		return out, err
	}
	if kind, kindErr := a.set.Choices.Of(owner.UID); kindErr != nil || kind != "" {
		return out, err
	}
	for _, each := range a.active() {
		if out, err = do(each); !errors.Is(err, host.ErrNotFound) {
			return out, err
		}
	}
	return out, err
}

// list joins the lists of all runtimes in use. If one of them fails, list fails: whoever
// gets a list that lacks something believes that it is gone.
func list[T, R any](a *adapters[T], do func(T) ([]R, error)) ([]R, error) {
	var out []R
	for _, each := range a.active() {
		some, err := do(each)
		if err != nil {
			return nil, err
		}
		out = append(out, some...)
	}
	return out, nil
}
