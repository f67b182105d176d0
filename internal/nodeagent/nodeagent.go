// SPDX-License-Identifier: Apache-2.0

// Package nodeagent starts the node's agent from the container of a DaemonSet's Pod. It
// enters the namespaces of the node's init process and then replaces its own process with
// the agent that an init container has installed on the node. So the agent works as it
// does in the systemd unit: it sees the node's files and mounts, and the whole cgroup
// hierarchy.
//
// The process stays in the Pod's cgroup, so that the kubelet accounts for it and ends it
// with the Pod. Machines have cgroups of their own.
//
// It contains nothing of the agent itself.
package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/samefile"
)

const (
	// tokenVolume is the name of the Pod's volume with the token.
	tokenVolume = "token"
	// path is the PATH of the agent, as in a systemd unit.
	path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// oomScoreAdjust is the value of the systemd unit: the kernel should kill a machine
	// rather than the agent, which guards all machines. The agent resets the value for
	// the processes that it starts. The Pod's own value depends on its QoS class, and may
	// be the highest.
	oomScoreAdjust = "-900"
	// openFiles is the systemd unit's LimitNOFILE.
	openFiles = 1 << 20
)

// Options say where the node is.
type Options struct {
	// HostRoot is where the node's root folder is mounted, with /proc in it.
	HostRoot string
	// KubeletDir is the kubelet's --root-dir on the node.
	KubeletDir string
	// Programs is the folder on the node with the agent's program.
	Programs string
	// PodUID is the UID of this Pod.
	PodUID string
	// TokenDir is where the volume with the token is mounted in the container.
	TokenDir string
}

// Bind adds the flags. The Pod's UID is in the environment variable POD_UID.
func (o *Options) Bind(fs *pflag.FlagSet) {
	fs.StringVar(&o.HostRoot, "host-root", "/host", "directory at which the node's root directory is mounted, with everything below it")
	fs.StringVar(&o.KubeletDir, "kubelet-dir", "/var/lib/kubelet", "the kubelet's --root-dir on the node, below which is the Pod's token; if it is not there, the node's mounts say where")
	fs.StringVar(&o.Programs, "programs-dir", "/opt/bottle-operator/current", "directory on the node with bottle-operator, bottle-bundle and bottle-guest")
	fs.StringVar(&o.TokenDir, "token-dir", "/var/run/secrets/kubernetes.io/serviceaccount", "directory of this container with the Pod's token")
	o.PodUID = os.Getenv("POD_UID")
}

var validUID = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)

func (o *Options) validate() error {
	var errs []error
	for flag, value := range map[string]string{"host-root": o.HostRoot, "kubelet-dir": o.KubeletDir, "programs-dir": o.Programs, "token-dir": o.TokenDir} {
		if !filepath.IsAbs(value) {
			errs = append(errs, fmt.Errorf("--%s %q: want an absolute path", flag, value))
		}
	}
	if !validUID.MatchString(o.PodUID) {
		errs = append(errs, fmt.Errorf("POD_UID %q: want the UID of this Pod, by the downward API", o.PodUID))
	}
	return errors.Join(errs...)
}

// Run replaces this process with the node's agent, which gets these flags. It returns
// only if that fails.
func (o *Options) Run(flags []string) error {
	if err := o.validate(); err != nil {
		return err
	}
	own, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("open this program: %w", err)
	}
	defer own.Close()
	token, err := idOf(o.TokenDir)
	if err != nil {
		return fmt.Errorf("the Pod's token: %w", err)
	}
	// The namespaces are those of this thread, and exec keeps them.
	runtime.LockOSThread()
	if err := enter(filepath.Join(o.HostRoot, "proc/1")); err != nil {
		return err
	}
	account, err := o.account(token)
	if err != nil {
		return err
	}
	program, err := o.program(own)
	if err != nil {
		return err
	}
	// These two may fail: the agent works without them, and machines need an agent.
	if err := errors.Join(protect(), raiseOpenFiles()); err != nil {
		fmt.Fprintln(os.Stderr, "bottle-operator: the agent starts with a container's limits:", err)
	}
	argv := slices.Concat([]string{"bottle-operator", "agent"}, flags, []string{"--service-account-dir", account})
	return fmt.Errorf("start %s: %w", program, syscall.Exec(program, argv, environment(os.Environ())))
}

// account returns the folder with the token on the node. It must be the very folder that
// the Pod has, because the agent must not sign in as anything else. token identifies it.
func (o *Options) account(token id) (string, error) {
	dir := filepath.Join(o.KubeletDir, "pods", o.PodUID, "volumes/kubernetes.io~projected", tokenVolume)
	found, err := idOf(dir)
	if err == nil && found == token {
		return dir, nil
	}
	if err == nil {
		err = errors.New("it is not the folder that is mounted in the Pod")
	}
	// Some distributions keep the kubelet's files elsewhere. The volume is a file system
	// of its own, so the node's mounts say where.
	mounts, readErr := os.ReadFile("/proc/thread-self/mountinfo")
	if readErr != nil {
		return "", fmt.Errorf("the node's mounts: %w", readErr)
	}
	for _, dir := range mountPoints(string(mounts), token.device) {
		if found, err := idOf(dir); err == nil && found == token {
			return dir, nil
		}
	}
	return "", fmt.Errorf("the Pod's token on the node: %s: %w; --kubelet-dir must be the kubelet's --root-dir, and the volume's name %s", dir, err, tokenVolume)
}

// mountPoints returns where a file system is mounted, by /proc/PID/mountinfo.
func mountPoints(mountinfo string, device uint64) (dirs []string) {
	wanted := fmt.Sprintf("%d:%d", unix.Major(device), unix.Minor(device))
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 5 && f[2] == wanted && f[3] == "/" {
			dirs = append(dirs, unescape.Replace(f[4]))
		}
	}
	return dirs
}

// unescape decodes the octal escapes in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// program returns the agent's program on the node. It must be the same as this one: an
// init container of this Pod has installed it. It resolves the link, so that the agent
// keeps its version's bottle-bundle and bottle-guest when another version becomes
// current.
func (o *Options) program(own *os.File) (string, error) {
	path, err := filepath.EvalSymlinks(filepath.Join(o.Programs, "bottle-operator"))
	if err != nil {
		return "", fmt.Errorf("the agent's program on the node: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("the agent's program on the node: %w", err)
	}
	defer f.Close()
	same, err := samefile.Content(context.Background(), own, f)
	if err == nil && !same {
		err = errors.New("it differs from the one in this container: all containers of the Pod must have the same image")
	}
	if err != nil {
		return "", fmt.Errorf("the agent's program on the node: %s: %w", path, err)
	}
	return path, nil
}

// protect protects the agent from the OOM killer. If that is not permitted, it at least
// takes back a value that would make the agent and its machines the first to be killed.
func protect() error {
	const file = "/proc/self/oom_score_adj"
	err := os.WriteFile(file, []byte(oomScoreAdjust), 0)
	if err == nil {
		return nil
	}
	if now, readErr := os.ReadFile(file); readErr == nil && !strings.HasPrefix(string(now), "-") {
		err = errors.Join(err, os.WriteFile(file, []byte("0"), 0))
	}
	return fmt.Errorf("protect the agent from the OOM killer: %w", err)
}

// raiseOpenFiles lets the agent open as many files as the kernel permits, openFiles at
// most. A container's limit can be far lower.
func raiseOpenFiles() error {
	limit := uint64(openFiles)
	var most uint64
	if text, err := os.ReadFile("/proc/sys/fs/nr_open"); err == nil {
		if _, err := fmt.Sscan(string(text), &most); err == nil {
			limit = min(limit, most)
		}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		return fmt.Errorf("raise the limit of open files to %d: %w", limit, err)
	}
	return nil
}

// environment returns the agent's environment: the container's, without what applies to
// its files only.
func environment(container []string) []string {
	env := slices.DeleteFunc(slices.Clone(container), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return name == "PATH" || name == "SSL_CERT_FILE" || name == "SSL_CERT_DIR"
	})
	return append(env, path)
}

// id identifies a file.
type id struct{ device, inode uint64 }

func idOf(path string) (id, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return id{}, err
	}
	return id{st.Dev, st.Ino}, nil
}
