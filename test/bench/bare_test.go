// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/test/story"
)

// bare is a Python program for the node. For one bottle after another it runs the
// commands that a person would type: create the network, the container and the
// machine, and start the machine. It prints the duration of each command in
// milliseconds as JSON, and removes everything again.
const bare = `
import os, subprocess, sys, time
image, guest, sizes, count = sys.argv[1], sys.argv[2], sys.argv[3].split(), int(sys.argv[4])
def run(*argv):
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
rules = "/var/lib/bottle-bench-rules"
os.makedirs(rules, exist_ok=True)
with open(rules + "/egress.json", "w") as f: f.write('{"version":1,"allow":[]}')
env = ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"]
times = []
try:
    for i in range(count):
        name, net = f"bare-{i}", f"10.98.{i}"
        smolfile = rules + f"/{name}"
        with open(smolfile, "w") as f:
            f.write("env = " + "[" + ", ".join(f'"{k}=http://{net}.2:8888"' for k in env) + "]" + f'\n[network]\nallow_cidrs = ["{net}.2/32"]\n')
        t = [time.monotonic()]
        def lap(): t.append(time.monotonic())
        run("docker", "network", "create", "--subnet", f"{net}.0/24", "--gateway", f"{net}.1", name); lap()
        run("docker", "run", "-d", "--name", name, "--network", name, "--ip", f"{net}.2", "--read-only", "--cap-drop", "ALL",
            "--user", "65532:65532", "--security-opt", "no-new-privileges", "-v", rules + ":/etc/bottle:ro", image); lap()
        run("smolvm", "machine", "create", "--name", name, *sizes, "--image", guest, "--smolfile", smolfile); lap()
        for attempt in range(4):
            try:
                run("smolvm", "machine", "start", "--name", name); break
            except subprocess.CalledProcessError:
                if attempt == 3: raise
                # A failed boot counts as part of the time, as it does for the operator.
        lap()
        times.append([round((b - a) * 1000, 3) for a, b in zip(t, t[1:])])
finally:
    # Try each command, even if others failed.
    for i in range(count):
        name = f"bare-{i}"
        for argv in (["smolvm", "machine", "stop", "--name", name], ["smolvm", "machine", "delete", "--name", name, "-f"],
                     ["docker", "rm", "-f", name], ["docker", "network", "rm", name]):
            subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(times)  # the text of a list of numbers is valid JSON
`

var bareParts = []string{"docker network create", "docker run", "smolvm machine create", "smolvm machine start"}

// guestArchive is the archive of the node's default image.
const guestArchive = "/var/lib/bottle-images/guest.tar"

// measureBare makes count bottles with bare from an archive on the node. It returns
// the total time of each bottle, and for each of the four commands its times.
func measureBare(b *testing.B, c *story.Cluster, archive string, count int) (whole []time.Duration, parts [][]time.Duration) {
	b.Helper()
	sizes := "--cpus 4 --mem 8192"
	if real() { // an emulated node has no room for more
		sizes = "--cpus 1 --mem 256"
	}
	image := strings.Fields(c.Exec(b, node, "docker", "images", "--format", "{{.Repository}}:{{.Tag}}", "botbottle.dev/bundle"))
	if len(image) == 0 {
		b.Fatal("the node has no built-in bundle image")
	}
	out := c.Exec(b, node, "python3", "-c", bare, image[0], archive, sizes, fmt.Sprint(count))
	var times [][]float64
	if err := json.Unmarshal([]byte(out), &times); err != nil {
		b.Fatalf("bare run printed %q: %v", out, err)
	}
	parts = make([][]time.Duration, len(bareParts))
	for _, one := range times {
		var sum time.Duration
		for i, t := range one {
			d := time.Duration(t * float64(time.Millisecond))
			parts[i] = append(parts[i], d)
			sum += d
		}
		whole = append(whole, sum)
	}
	return whole, parts
}
