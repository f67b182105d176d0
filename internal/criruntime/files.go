// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/netns"
	"botbottle.dev/bottle-operator/internal/placeholder"
)

// ReadFile implements host.Bundles. The kernel resolves the path inside the container's root
// and follows no link out of it. If the container does not run, it returns ErrNotFound.
func (b *Bundles) ReadFile(ctx context.Context, owner host.Owner, name string, limit int64) ([]byte, error) {
	what := fmt.Sprintf("read file %q of Pod %s/%s", printable(name, 300), owner.Namespace, owner.ID())
	if !path.IsAbs(name) || path.Clean(name) != name || strings.ContainsRune(name, 0) {
		return nil, fmt.Errorf("%s: want an absolute path without . and ..: %w", what, host.ErrInvalid)
	}
	c, err := b.r.findContainer(ctx, owner)
	if err != nil {
		return nil, err
	}
	if !c.running() || c.pid <= 0 {
		return nil, fmt.Errorf("%s: the container does not run: %w", what, host.ErrNotFound)
	}
	type result struct {
		data []byte
		err  error
	}
	// The container may have mounted a file system that does not answer.
	done := make(chan result, 1)
	go func() {
		data, err := readInside(c, name, limit)
		done <- result{data, err}
	}()
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("%s: %w", what, r.err)
		}
		return r.data, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: no answer: %w", what, ctx.Err())
	}
}

func readInside(c container, name string, limit int64) ([]byte, error) {
	root, err := openRoot(c)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(root, name, &how)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("%w: %w", host.ErrNotFound, err)
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%w: %w", host.ErrInvalid, err)
	case err != nil:
		return nil, err
	}
	defer unix.Close(fd)
	// Only a regular file is opened: opening anything else may wait or have an effect.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("it is not a regular file: %w", host.ErrInvalid)
	}
	if err := checkSize(st.Size, limit); err != nil {
		return nil, err
	}
	f, err := os.Open("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	return data, checkSize(int64(len(data)), limit) // it may have grown meanwhile
}

func checkSize(size, limit int64) error {
	if size > limit {
		return fmt.Errorf("it has %d bytes, more than the limit of %d: %w", size, limit, host.ErrInvalid)
	}
	return nil
}

// openRoot opens the root folder of the container's process. The process must be in the
// Pod's network namespace: its pid may have been given to another one.
func openRoot(c container) (int, error) {
	proc := "/proc/" + strconv.Itoa(c.pid)
	root, err := unix.Open(proc+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("the container has just ended: %w", host.ErrNotFound)
	}
	if id, err := netns.Identify(proc + "/ns/net"); err != nil || id != c.pod.NetNSID {
		unix.Close(root)
		return -1, fmt.Errorf("the container has just ended: %w", host.ErrNotFound)
	}
	return root, nil
}

// podUID is the form of the names that the kubelet gives to the folders of Pods: a Pod's UID,
// or a hash for a static Pod.
var podUID = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

// Folders implements host.Bundles. It returns the folders of the Pod's two volumes, and
// ErrInvalid unless each of them is the root of a file system in memory and belongs to root.
func (b *Bundles) Folders(ctx context.Context, owner host.Owner) (rules, secrets string, err error) {
	pod, err := b.r.Pod(ctx, owner)
	if err != nil {
		return "", "", err
	}
	return b.r.Volumes(pod)
}

// Volumes returns the folders of the two volumes of this Pod. It asks nobody. It returns
// ErrNotFound if the Pod has none, and ErrInvalid as Folders does.
func (r *Runtime) Volumes(pod Pod) (rules, secrets string, err error) {
	if !podUID.MatchString(pod.UID) {
		return "", "", fmt.Errorf("Pod %s/%s: UID %q is not a name that the kubelet gives to a folder: %w", pod.Namespace, pod.Name, printable(pod.UID, 100), host.ErrInvalid)
	}
	parent := filepath.Join(r.options.KubeletDir, "pods", pod.UID, "volumes", "kubernetes.io~empty-dir")
	for _, v := range []struct {
		name string
		path *string
	}{{placeholder.RulesVolume, &rules}, {placeholder.SecretsVolume, &secrets}} {
		*v.path = filepath.Join(parent, v.name)
		if err := checkVolume(r.options.KubeletDir, *v.path); err != nil {
			return "", "", fmt.Errorf("volume %s of Pod %s/%s: %w", v.name, pod.Namespace, pod.Name, err)
		}
	}
	return rules, secrets, nil
}

// checkVolume checks a volume without following links below the kubelet's folder.
func checkVolume(kubelet, dir string) error {
	below, err := filepath.Rel(kubelet, dir)
	if err != nil {
		return err
	}
	root, err := unix.Open(kubelet, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return volumeError(err)
	}
	defer unix.Close(root)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(root, below, &how)
	if err != nil {
		return volumeError(err)
	}
	defer unix.Close(fd)
	var st, above unix.Stat_t
	var sfs unix.Statfs_t
	if err := errors.Join(unix.Fstat(fd, &st), unix.Fstatat(fd, "..", &above, 0), unix.Fstatfs(fd, &sfs)); err != nil {
		return err
	}
	switch {
	case sfs.Type != unix.TMPFS_MAGIC || st.Dev == above.Dev:
		return fmt.Errorf("%s is not a file system in memory, or its mount is not visible here: %w", dir, host.ErrInvalid)
	case st.Uid != 0:
		return fmt.Errorf("%s belongs to user %d, not to root: %w", dir, st.Uid, host.ErrInvalid)
	}
	return nil
}

func volumeError(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: %w", host.ErrNotFound, err)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w: %w", host.ErrInvalid, err)
	}
	return err
}
