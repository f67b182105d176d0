// SPDX-License-Identifier: Apache-2.0

package nodefacts

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/host"
)

// node returns the options for a node without problems, and the folder that holds
// its files.
func node(t *testing.T) (Options, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "nodefacts-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, d := range []string{"", "smolvm", "smolvm/lib", "smolvm/agent-rootfs", "smolvm/agent-rootfs/bin", "state"} {
		path := filepath.Join(dir, d)
		if err := errors.Join(os.MkdirAll(path, 0o755), os.Chmod(path, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"smolvm/smolvm", "smolvm/lib/libkrun.so.1", "smolvm/lib/libkrunfw.so.5", "smolvm/storage-template.ext4", "smolvm/overlay-template.ext4", "bottle-guest"} {
		path := filepath.Join(dir, f)
		if err := errors.Join(os.WriteFile(path, []byte("x"), 0o755), os.Chmod(path, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return Options{
		SmolvmDir:    filepath.Join(dir, "smolvm"),
		StateDir:     filepath.Join(dir, "state"),
		GuestProgram: filepath.Join(dir, "bottle-guest"),
		Version:      func(context.Context) (host.SmolvmVersion, error) { return host.SmolvmVersion{Version: "1.32.2"}, nil },
		PingDocker:   func(context.Context) error { return nil },
		Cgroups:      func() (cgroup.Support, error) { return cgroup.Support{Kernel: "6.18.0", Kill: true}, nil },
	}, dir
}

func TestNodeFacts(t *testing.T) {
	tests := map[string]struct {
		change  func(t *testing.T, o *Options)
		fact    string // the one that fails; "" is none
		message string // part of its message, or of the note of a good fact
	}{
		"all in order": {func(*testing.T, *Options) {}, "", ""},
		"smolvm missing": {func(t *testing.T, o *Options) { remove(t, o.SmolvmDir+"/smolvm") },
			"smolvm", "set --smolvm-dir"},
		"guest-program missing": {func(t *testing.T, o *Options) { remove(t, o.GuestProgram) },
			"guest-program", "set --guest-program"},
		"guest-program is a folder": {func(t *testing.T, o *Options) {
			remove(t, o.GuestProgram)
			must(t, os.Mkdir(o.GuestProgram, 0o755))
		}, "guest-program", "is not a file"},
		"smolvm is a folder": {func(t *testing.T, o *Options) {
			remove(t, o.SmolvmDir+"/smolvm")
			must(t, os.Mkdir(o.SmolvmDir+"/smolvm", 0o755))
		}, "smolvm", "is not a file"},
		"smolvm closed": {func(t *testing.T, o *Options) { must(t, os.Chmod(o.SmolvmDir+"/smolvm", 0o700)) },
			"smolvm", "mode 0700): chmod 0755"},
		"version unknown": {func(_ *testing.T, o *Options) {
			o.Version = func(context.Context) (host.SmolvmVersion, error) { return host.SmolvmVersion{}, host.ErrUnavailable }
		}, "smolvm-version", "does not report its version: unavailable"},
		"too old": {func(_ *testing.T, o *Options) {
			o.Version = versionOf(host.SmolvmVersion{Version: "0.7.9", Older: true})
		},
			"smolvm-version", "smolvm 0.7.9 is older than 0.8.0"},
		"newer": {func(_ *testing.T, o *Options) {
			o.Version = versionOf(host.SmolvmVersion{Version: "2.0.0", Newer: true})
		},
			"", "smolvm 2.0.0 is newer than 1.32.2"},
		"no libkrun": {func(t *testing.T, o *Options) { remove(t, o.SmolvmDir+"/lib/libkrun.so.1") },
			"smolvm-files", "libkrun.so* is missing in"},
		"no libkrunfw": {func(t *testing.T, o *Options) { remove(t, o.SmolvmDir+"/lib/libkrunfw.so.5") },
			"smolvm-files", "libkrunfw.so* is missing in"},
		"library closed": {func(t *testing.T, o *Options) { must(t, os.Chmod(o.SmolvmDir+"/lib/libkrun.so.1", 0o750)) },
			"smolvm-files", "chmod o+r"},
		"library empty": {func(t *testing.T, o *Options) { must(t, os.Truncate(o.SmolvmDir+"/lib/libkrun.so.1", 0)) },
			"smolvm-files", "install smolvm again"},
		"library folder closed": {func(t *testing.T, o *Options) { must(t, os.Chmod(o.SmolvmDir+"/lib", 0o700)) },
			"smolvm-files", "chmod o+x"},
		"no agent-rootfs": {func(t *testing.T, o *Options) { must(t, os.RemoveAll(o.SmolvmDir+"/agent-rootfs")) },
			"smolvm-files", "agent-rootfs is missing or empty"},
		"agent-rootfs empty": {func(t *testing.T, o *Options) { remove(t, o.SmolvmDir+"/agent-rootfs/bin") },
			"smolvm-files", "agent-rootfs is missing or empty"},
		"agent-rootfs not listable": {func(t *testing.T, o *Options) { must(t, os.Chmod(o.SmolvmDir+"/agent-rootfs", 0o711)) },
			"smolvm-files", "chmod -R a+rX"},
		"template packed": {func(t *testing.T, o *Options) {
			must(t, os.Rename(o.SmolvmDir+"/storage-template.ext4", o.SmolvmDir+"/lib/storage-template.ext4.zst"))
		}, "", "zstd -d --sparse"},
		"template closed": {func(t *testing.T, o *Options) { must(t, os.Chmod(o.SmolvmDir+"/overlay-template.ext4", 0o600)) },
			"smolvm-files", "overlay-template.ext4 cannot be read"},
		"docker down": {func(_ *testing.T, o *Options) {
			o.PingDocker = func(context.Context) error { return errors.New("connection refused") }
		}, "docker", "docker does not answer (connection refused): start it"},
		"docker hangs": {func(_ *testing.T, o *Options) {
			o.PingDocker = func(ctx context.Context) error {
				if _, bounded := ctx.Deadline(); !bounded {
					return nil
				}
				return context.DeadlineExceeded
			}
		}, "docker", "deadline"},
		"kvm missing": {func(_ *testing.T, o *Options) { o.KVMDevice = "/nonexistent/kvm" },
			"kvm", "/nonexistent/kvm is missing: load the module"},
		"kvm is another device": {func(_ *testing.T, o *Options) { o.KVMDevice = "/dev/null" },
			"kvm", "/dev/null does not respond as KVM does"},
		"kvm is a file": {func(_ *testing.T, o *Options) { o.KVMDevice = o.SmolvmDir + "/smolvm" },
			"kvm", "is not a device"},
		"no cgroup2": {func(_ *testing.T, o *Options) {
			o.Cgroups = func() (cgroup.Support, error) { return cgroup.Support{Kernel: "6.18.0"}, cgroup.ErrNoHierarchy }
		}, "cgroups", "mount -t cgroup2"},
		"no controllers": {func(_ *testing.T, o *Options) {
			o.Cgroups = func() (cgroup.Support, error) {
				return cgroup.Support{Kernel: "6.18.0", Missing: []string{"cpu", "memory"}}, nil
			}
		}, "", "without limits of cpu, memory"},
		"state dir closed": {func(t *testing.T, o *Options) { must(t, os.Chmod(o.StateDir, 0o700)) },
			"state-dir", "(mode 0700): chmod o+x"},
		"parent of state dir closed": {func(t *testing.T, o *Options) {
			must(t, os.Mkdir(o.StateDir+"/deeper", 0o755))
			must(t, os.Chmod(o.StateDir, 0o750))
			o.StateDir += "/deeper"
		}, "state-dir", "/state is closed"},
		"state dir behind a link": {func(t *testing.T, o *Options) {
			must(t, os.Chmod(o.StateDir, 0o700))
			must(t, os.Symlink(o.StateDir, o.SmolvmDir+"/link"))
			o.StateDir = o.SmolvmDir + "/link"
		}, "state-dir", "/state is closed"},
		"state dir does not exist yet": {func(_ *testing.T, o *Options) { o.StateDir += "/not/yet" }, "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o, _ := node(t)
			tt.change(t, &o)
			var got string
			facts := New(o).NodeFacts(t.Context())
			for _, f := range facts {
				wantOK := f.Name != tt.fact && (tt.fact != "smolvm" || f.Name != "smolvm-version")
				if f.OK != wantOK {
					t.Errorf("%s: got OK %v (%s), want %v", f.Name, f.OK, f.Message, wantOK)
				}
				if f.Name == tt.fact || tt.fact == "" && f.Name != "kvm" {
					got += f.Message
				}
				if !f.OK && f.Message == "" {
					t.Errorf("%s: got no message, want what to do", f.Name)
				}
			}
			if !strings.Contains(got, tt.message) || tt.message == "" && got != "" {
				t.Errorf("message: got %q, want %q in it", got, tt.message)
			}
			if diff := cmp.Diff(facts, New(o).NodeFacts(t.Context())); diff != "" {
				t.Errorf("again (-first +second):\n%s", diff)
			}
		})
	}
}

func TestFactNames(t *testing.T) {
	o, _ := node(t)
	var names []string
	for _, f := range New(o).NodeFacts(t.Context()) {
		names = append(names, f.Name)
	}
	want := []string{"smolvm", "smolvm-version", "smolvm-files", "docker", "kvm", "cgroups", "state-dir", "guest-program"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	o.Boot = func() host.Fact { return host.Fact{Name: BootName, Message: "it does not boot"} }
	facts := New(o).NodeFacts(t.Context())
	if last := facts[len(facts)-1]; len(facts) != len(want)+1 || last != o.Boot() {
		t.Errorf("with Boot: got %+v at the end, want its fact", last)
	}
}

func TestKVMFact(t *testing.T) {
	const device = fs.ModeDevice | fs.ModeCharDevice
	sound := kvm{path: "/dev/kvm", mode: device | 0o666, api: 12}
	tests := map[string]struct {
		change  func(*kvm)
		ok      bool
		message string
	}{
		"open":          {func(*kvm) {}, true, ""},
		"not checked":   {func(k *kvm) { *k = kvm{} }, true, "not checked"},
		"missing":       {func(k *kvm) { k.statErr = fs.ErrNotExist }, false, "modprobe"},
		"stat fails":    {func(k *kvm) { k.statErr = unix.EIO }, false, "cannot be inspected"},
		"not ours":      {func(k *kvm) { k.openErr = unix.EACCES }, false, "cannot be opened by the agent"},
		"in use":        {func(k *kvm) { k.openErr = unix.EBUSY }, false, "cannot be opened by the agent"},
		"root only":     {func(k *kvm) { k.mode = device | 0o600 }, false, "(mode 0600): chmod 666 /dev/kvm, and to keep it, add a udev rule"},
		"group kvm":     {func(k *kvm) { k.mode = device | 0o660 }, false, "(mode 0660): chmod 666"},
		"read only":     {func(k *kvm) { k.mode = device | 0o664 }, false, "chmod 666"},
		"ACL":           {func(k *kvm) { k.mode = device | 0o660; k.acl = acl(aclUser, 6, 2000000, aclMask, 6, 0) }, true, ""},
		"ACL of others": {func(k *kvm) { k.mode = device | 0o660; k.acl = acl(aclUser, 6, 1000, aclMask, 6, 0) }, false, "chmod 666"},
		"ACL masked":    {func(k *kvm) { k.mode = device | 0o640; k.acl = acl(aclUser, 6, 2000000, aclMask, 4, 0) }, false, "chmod 666"},
		"ACL read only": {func(k *kvm) { k.mode = device | 0o660; k.acl = acl(aclGroup, 4, 2000000, aclMask, 6, 0) }, false, "chmod 666"},
		"ACL cut short": {func(k *kvm) { k.mode = device | 0o660; k.acl = []byte{2, 0} }, false, "chmod 666"},
		"no KVM":        {func(k *kvm) { k.apiErr = unix.ENOTTY }, false, "does not respond as KVM"},
		"other KVM":     {func(k *kvm) { k.api = 11 }, false, "has KVM interface 11, not 12"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			k := sound
			tt.change(&k)
			got := kvmFact(k)
			if got.OK != tt.ok || !strings.Contains(got.Message, tt.message) || tt.message == "" && got.Message != "" {
				t.Errorf("got %+v, want OK %v, message with %q", got, tt.ok, tt.message)
			}
		})
	}
}

func TestCgroupFact(t *testing.T) {
	tests := map[string]struct {
		s       cgroup.Support
		err     error
		ok      bool
		message string
	}{
		"all there":               {cgroup.Support{Kernel: "6.1.0-18-amd64", Kill: true}, nil, true, ""},
		"no cgroup that shows it": {cgroup.Support{Kernel: "5.14.0-427.el9.x86_64"}, nil, true, ""},
		"old kernel":              {cgroup.Support{Kernel: "5.13.19"}, nil, false, "kernel 5.13.19 cannot kill a cgroup: use Linux 5.14 or newer"},
		"very old":                {cgroup.Support{Kernel: "4.18.0-553.el8"}, nil, false, "use Linux 5.14"},
		"old, with the file":      {cgroup.Support{Kernel: "5.10.0", Kill: true}, nil, true, ""},
		"old, nothing mounted":    {cgroup.Support{Kernel: "5.10.0"}, cgroup.ErrNoHierarchy, false, "use Linux 5.14"},
		"nothing mounted":         {cgroup.Support{Kernel: "6.1.0"}, cgroup.ErrNoHierarchy, false, "mount -t cgroup2"},
		"cannot be inspected":     {cgroup.Support{Kernel: "6.1.0"}, unix.EMFILE, false, "cannot be inspected: too many open files"},
		"hybrid":                  {cgroup.Support{Kernel: "6.1.0", Kill: true, Missing: []string{"cpu", "memory", "pids"}}, nil, true, "limits of cpu, memory, pids"},
		"an unparsable release":   {cgroup.Support{Kernel: "custom"}, nil, true, ""},
	}
	for name, tt := range tests {
		got := cgroupFact(tt.s, tt.err)
		if got.OK != tt.ok || !strings.Contains(got.Message, tt.message) || tt.message == "" && got.Message != "" {
			t.Errorf("%s: got %+v, want OK %v, message with %q", name, got, tt.ok, tt.message)
		}
	}
}

// acl returns an access ACL. Each entry is three numbers: tag, permission and id.
func acl(entries ...int) []byte {
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for i := 0; i < len(entries); i += 3 {
		b = binary.LittleEndian.AppendUint16(b, uint16(entries[i]))
		b = binary.LittleEndian.AppendUint16(b, uint16(entries[i+1]))
		b = binary.LittleEndian.AppendUint32(b, uint32(entries[i+2]))
	}
	return b
}

func versionOf(v host.SmolvmVersion) func(context.Context) (host.SmolvmVersion, error) {
	return func(context.Context) (host.SmolvmVersion, error) { return v, nil }
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) { t.Helper(); must(t, os.Remove(path)) }

// TestTheRuntimeFactNamesThePresentSocket checks that the fact follows the choice of the
// socket, whatever the answer is.
func TestTheRuntimeFactNamesThePresentSocket(t *testing.T) {
	o, _ := node(t)
	socket, answer := "unix:///run/first.sock", host.ErrUnavailable
	o.NeedsRuntime = func(context.Context) bool { return true }
	o.PingRuntime = func(context.Context) error { return answer }
	o.RuntimeSocket = func() string { return socket }
	for _, tt := range []struct {
		socket string
		answer error
	}{{socket, answer}, {"unix:///run/second.sock", host.ErrUnsupported}, {"unix:///run/third.sock", nil}} {
		socket, answer = tt.socket, tt.answer
		facts := New(o).NodeFacts(t.Context())
		i := slices.IndexFunc(facts, func(f host.Fact) bool { return f.Name == runtimeName })
		if i < 0 || facts[i].OK != (tt.answer == nil) || !strings.Contains(facts[i].Message, tt.socket) {
			t.Errorf("%v: got %+v, want the socket %s in the message", tt.answer, facts, tt.socket)
		}
	}
}
