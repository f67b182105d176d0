// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
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

// wgetApplet is the name of busybox's own wget in the images. The shell prefers
// an applet to a program on PATH, so wgetScript is always used only if no applet
// has the name wget.
const wgetApplet = "wge0"

// wgetScript replaces the applet. Debian's busybox is built without the applet's
// timeout, and -T crashes it: a test that something is unreachable would always
// pass. The timeout here applies to the whole request. The script does not exec
// wget, because the first process of a pid namespace ignores timeout's signal.
const wgetScript = `#!/bin/sh
limit=
left=$#
while [ "$left" -gt 0 ]; do
  arg=$1
  shift
  left=$((left - 1))
  case $arg in
  -T | -qT)
    [ "$arg" = -T ] || set -- "$@" -q
    limit=$1
    shift
    left=$((left - 1))
    ;;
  -T*) limit=${arg#-T} ;;
  *) set -- "$@" "$arg" ;;
  esac
done
${limit:+timeout "$limit"} /bin/busybox ` + wgetApplet + ` "$@"
exit $?
`

// busybox is the only executable in the images, with the names of its applets.
type busybox struct {
	content []byte
	applets []string
}

// readBusybox reads the executable with this path or name on PATH. It rejects a
// dynamically linked one, which would need a C library in the image.
func readBusybox(name string) (busybox, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return busybox{}, fmt.Errorf("busybox is missing (Debian: apt-get install busybox-static): %w", err)
	}
	f, err := elf.Open(path)
	if err != nil {
		return busybox{}, fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return busybox{}, fmt.Errorf("%s is dynamically linked (Debian: apt-get install busybox-static)", path)
		}
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return busybox{}, fmt.Errorf("read busybox: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	listed, err := exec.CommandContext(ctx, path, "--list").Output()
	if err != nil {
		return busybox{}, fmt.Errorf("list the applets of %s: %w", path, err)
	}
	applets := strings.Fields(string(listed))
	slices.Sort(applets)
	for _, want := range []string{"sh", "nc", "wget", "ip", "nslookup", "ping", "env", "sleep", "uname", "httpd"} {
		if !slices.Contains(applets, want) {
			return busybox{}, fmt.Errorf("%s has no applet %s", path, want)
		}
	}
	// The names are a sorted list of C strings; the new name keeps the order.
	old, renamed := []byte("\x00wget\x00which\x00"), []byte("\x00"+wgetApplet+"\x00which\x00")
	if n := bytes.Count(content, old); n != 1 {
		return busybox{}, fmt.Errorf("%s lists its applet wget %d times, want once", path, n)
	}
	return busybox{content: bytes.Replace(content, old, renamed, 1), applets: applets}, nil
}

// rootfs returns the files that both images share.
func (b busybox) rootfs() []file {
	var files []file
	for _, dir := range []string{
		"bin/", "dev/", "etc/", "home/", "mnt/", "proc/", "run/", "sbin/", "srv/", "sys/",
		"usr/", "usr/bin/", "usr/local/", "usr/local/bin/", "usr/sbin/", "var/", "var/lib/", "var/log/",
	} {
		files = append(files, file{path: dir, mode: 0o755})
	}
	files = append(files,
		file{path: "root/", mode: 0o700},
		file{path: "tmp/", mode: 0o1777},
		file{path: "var/tmp/", mode: 0o1777},
		file{path: "etc/passwd", mode: 0o644, content: []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")},
		file{path: "etc/group", mode: 0o644, content: []byte("root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n")},
		file{path: "etc/hosts", mode: 0o644, content: []byte("127.0.0.1 localhost\n::1 localhost\n")},
		// Mount points: runtimes mount their own files over these.
		file{path: "etc/hostname", mode: 0o644},
		file{path: "etc/resolv.conf", mode: 0o644},
		file{path: "bin/busybox", mode: 0o755, content: b.content},
		file{path: "usr/bin/env", mode: 0o777, link: "../../bin/busybox"},
	)
	files = append(files, file{path: "bin/wget", mode: 0o755, content: []byte(wgetScript)})
	for _, applet := range b.applets {
		if applet != "busybox" && applet != "wget" {
			files = append(files, file{path: "bin/" + applet, mode: 0o777, link: "busybox"})
		}
	}
	return files
}

func guestImage(b busybox) image {
	return image{
		tag:   "example.test/bottle-guest:1",
		env:   []string{searchPath},
		cmd:   []string{"/bin/sh", "-c", guestCommand},
		files: b.rootfs(),
	}
}

func foreignBundleImage(b busybox) image {
	return image{
		tag:        "example.test/foreign-bundle:1",
		env:        []string{searchPath},
		entrypoint: []string{"/bin/foreign-bundle"},
		files:      append(b.rootfs(), file{path: "bin/foreign-bundle", mode: 0o755, content: []byte(foreignStart)}),
	}
}
