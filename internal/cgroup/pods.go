// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// validPod is a Pod's cgroup, in the spelling of kubelet's cgroupfs driver. kubelet may
// have a --cgroup-root of one name. Nothing may follow: what is further below belongs to
// a container, which can create cgroups there under any name.
var validPod = regexp.MustCompile(`^(?:[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}/)?kubepods(?:/burstable|/besteffort)?` +
	`/pod[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

const sliceSuffix = ".slice"

// ValidPod reports whether path, which is relative to the hierarchy's mount, is the
// cgroup of a Pod as kubelet names it, with either of its drivers:
//
//	kubepods/burstable/pod1a2b3c4d-0000-4000-8000-000000000000
//	kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1a2b3c4d_0000_4000_8000_000000000000.slice
func ValidPod(path string) bool {
	slice, ok := strings.CutSuffix(path[strings.LastIndexByte(path, '/')+1:], sliceSuffix)
	if !ok {
		return validPod.MatchString(path)
	}
	// systemd derives a slice's path from its name.
	names := strings.Split(slice, "-")
	var expanded []string
	for i := range names {
		expanded = append(expanded, strings.Join(names[:i+1], "-")+sliceSuffix)
	}
	last := len(names) - 1
	names[last] = strings.ReplaceAll(names[last], "_", "-")
	return path == strings.Join(expanded, "/") && validPod.MatchString(strings.Join(names, "/"))
}

// podAbove splits the path of a cgroup at the Pod's cgroup that contains it. pod is "" if
// there is none.
func podAbove(path string) (pod, below string) {
	for i := range path {
		if path[i] == '/' && ValidPod(path[:i]) {
			return path[:i], path[i+1:]
		}
	}
	return "", path
}

// remember adds a Pod's cgroup to the places of a machine. g.mu is locked.
func (g *Groups) remember(id, pod string) {
	for _, known := range g.pods[id] {
		if known == pod {
			return
		}
	}
	g.pods[id] = append(g.pods[id], pod)
}

// findInPods finds the machines' cgroups directly below the cgroups of Pods. It looks only
// where kubelet puts Pods, so its work is bounded by their number. It asks only the
// kernel.
func (g *Groups) findInPods() error {
	roots, err := g.podRoots()
	if err != nil {
		return fmt.Errorf("find the machines' cgroups in Pods: %w", err)
	}
	for _, root := range roots {
		if err := g.findBelow(root); err != nil {
			return fmt.Errorf("find the machines' cgroups in Pods: %w", err)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.searched = true
	return nil
}

// podRoots returns the folders in which kubelet's Pods can be. They are called kubepods, and are
// at the top of the hierarchy or one level below.
func (g *Groups) podRoots() ([]string, error) {
	tops, err := folders(g.mount)
	if err != nil {
		return nil, err
	}
	var roots []string
	for _, top := range tops {
		roots = append(roots, filepath.Join(top, "kubepods"))
		if top == "kubepods" || top == "kubepods"+sliceSuffix {
			roots = append(roots, top)
		} else if name, ok := strings.CutSuffix(top, sliceSuffix); ok {
			roots = append(roots, filepath.Join(top, name+"-kubepods"+sliceSuffix))
		}
	}
	return roots, nil
}

// findBelow finds the machines' cgroups in the Pods of one root. Pods of the QoS classes
// Burstable and BestEffort are one level deeper than those of Guaranteed.
func (g *Groups) findBelow(root string) error {
	children, err := folders(filepath.Join(g.mount, root))
	if err != nil {
		return err
	}
	for _, child := range children {
		path := filepath.Join(root, child)
		if ValidPod(path) {
			err = g.findInPod(path)
		} else if class := strings.TrimSuffix(child, sliceSuffix); strings.HasSuffix(class, "burstable") || strings.HasSuffix(class, "besteffort") {
			err = g.findInClass(path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (g *Groups) findInClass(class string) error {
	pods, err := folders(filepath.Join(g.mount, class))
	for _, pod := range pods {
		if path := filepath.Join(class, pod); err == nil && ValidPod(path) {
			err = g.findInPod(path)
		}
	}
	return err
}

func (g *Groups) findInPod(pod string) error {
	names, err := folders(filepath.Join(g.mount, pod))
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, name := range names {
		if ValidID(name) && g.hasMark(filepath.Join(g.mount, pod, name), g.parent) {
			g.remember(name, pod)
		}
	}
	return nil
}

// folders lists the folders in a folder; none if it does not exist.
func folders(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}
