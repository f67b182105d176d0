// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"debug/elf"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"botbottle.dev/bottle-operator/hack/internal/imagetar"
)

// searchPath is the images' PATH. The applets are in /bin; tests may copy
// programs into the other folders.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// guestCommand idles until it receives SIGTERM or SIGINT. A plain sleep as the
// first process of its pid namespace would ignore SIGTERM, and every stop would
// wait for the SIGKILL that follows.
const guestCommand = `trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done`

// foreignStart is the foreign bundle's entrypoint. It reads no variables and no
// arguments. It needs what an arbitrary image may need: a writable root file
// system and Docker's default capabilities. It uses CHOWN, SETUID and SETGID of
// these, but not NET_RAW. Each port answers HTTP with the image's name; /status
// shows the capabilities that the container has.
const foreignStart = `#!/bin/sh
set -e
mkdir -p /var/lib/foreign /www
echo foreign-bundle >/www/index.html
grep ^Cap /proc/self/status >/www/status
chown -R 1000:1000 /var/lib/foreign
trap 'exit 0' TERM INT
httpd -f -h /www -p 0.0.0.0:8888 &
httpd -f -h /www -p 0.0.0.0:9418 -u 1000:1000 &
httpd -f -h /www -p 0.0.0.0:9100 &
httpd -f -h /www -p 127.0.0.1:9099 &
wait
`

// programs are the executables of the images: a shell, an HTTP client, the pause
// program, and busybox with the names of its applets. The shell is not busybox's: that shell
// prefers an applet to a program on PATH, and so would never run our wget.
type programs struct {
	shell, wget, pause, busybox []byte
	applets                     []string
}

// sources says where the programs are: paths, or names to find on PATH.
type sources struct{ shell, wget, pause, busybox string }

func readPrograms(from sources) (p programs, err error) {
	for _, program := range []struct {
		name, hint string
		content    *[]byte
	}{
		{from.shell, "Debian: apt-get install bash-static", &p.shell},
		{from.busybox, "Debian: apt-get install busybox-static", &p.busybox},
		{from.wget, "build it with CGO_ENABLED=0 go build ./hack/images/wget", &p.wget},
		{from.pause, "build it with CGO_ENABLED=0 go build ./hack/images/pause", &p.pause},
	} {
		if *program.content, err = readStatic(program.name, program.hint); err != nil {
			return p, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	listed, err := exec.CommandContext(ctx, from.busybox, "--list").Output()
	if err != nil {
		return p, fmt.Errorf("list the applets of %s: %w", from.busybox, err)
	}
	p.applets = strings.Fields(string(listed))
	slices.Sort(p.applets)
	for _, want := range []string{"nc", "ip", "nslookup", "ping", "env", "sleep", "uname", "httpd"} {
		if !slices.Contains(p.applets, want) {
			return p, fmt.Errorf("%s has no applet %s", from.busybox, want)
		}
	}
	return p, nil
}

// readStatic reads the executable with this path or name on PATH. It rejects a
// dynamically linked one, which would need a C library in the image.
func readStatic(name, hint string) ([]byte, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("%s is missing (%s): %w", name, hint, err)
	}
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, fmt.Errorf("%s is dynamically linked (%s)", path, hint)
		}
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return content, nil
}

// rootfs returns the files that the guest's image and the foreign bundle's share.
func (p programs) rootfs() []imagetar.File {
	var files []imagetar.File
	for _, dir := range []string{
		"bin", "dev", "etc", "home", "mnt", "proc", "run", "sbin", "srv", "sys",
		"usr", "usr/bin", "usr/local", "usr/local/bin", "usr/sbin", "var", "var/lib", "var/log",
	} {
		files = append(files, imagetar.Folder(dir, 0o755))
	}
	files = append(files,
		imagetar.Folder("root", 0o700),
		imagetar.Folder("tmp", 0o1777),
		imagetar.Folder("var/tmp", 0o1777),
		imagetar.Regular("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")),
		imagetar.Regular("etc/group", 0o644, []byte("root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n")),
		imagetar.Regular("etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n")),
		// Mount points: runtimes mount their own files over these.
		imagetar.Regular("etc/hostname", 0o644, nil),
		imagetar.Regular("etc/resolv.conf", 0o644, nil),
		imagetar.Regular("bin/busybox", 0o755, p.busybox),
		imagetar.Symlink("usr/bin/env", "../../bin/busybox"),
	)
	own := map[string][]byte{"sh": p.shell, "wget": p.wget}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		files = append(files, imagetar.Regular("bin/"+name, 0o755, own[name]))
	}
	for _, applet := range p.applets {
		if applet != "busybox" && own[applet] == nil {
			files = append(files, imagetar.Symlink("bin/"+applet, "busybox"))
		}
	}
	return files
}

func guestImage(p programs) image {
	return image{
		tag:   "example.test/bottle-guest:1",
		env:   []string{searchPath},
		cmd:   []string{"/bin/sh", "-c", guestCommand},
		files: p.rootfs(),
	}
}

func foreignBundleImage(p programs) image {
	return image{
		tag:        "example.test/foreign-bundle:1",
		env:        []string{searchPath},
		entrypoint: []string{"/bin/foreign-bundle"},
		files:      append(p.rootfs(), imagetar.Regular("bin/foreign-bundle", 0o755, []byte(foreignStart))),
	}
}

// pauseImage has the name that containerd is configured to make sandboxes from, in
// hack/dev/kubelet.sh and critest, and the user of the image that usually has this name.
func pauseImage(p programs) image {
	return image{
		tag:        "registry.k8s.io/pause:3.10",
		user:       "65535:65535",
		entrypoint: []string{"/pause"},
		files:      []imagetar.File{imagetar.Regular("pause", 0o755, p.pause)},
	}
}
