// SPDX-License-Identifier: Apache-2.0

package escape

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/test/story"
)

//go:embed testdata/send.py
var sendPy string

//go:embed testdata/capture.py
var capturePy string

// rawNS is the control: the test's own namespace on the Bottle's bridge, with a link
// that has no filter. rawLink is the bundle's end of that link.
const rawNS, rawLink = "escape-control", "escape0"

// allowed is the name of the frame that passes the wall.
const allowed = "allowed"

// captureScript captures frames at the bundle and on the bridge, which are the same link in
// a Pod, while send.py sends all frames twice: from the control and then from the machine's
// namespace. A last frame from the control ends the captures, and shows that both still
// listened.
const captureScript = `
set -e
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
capture=$1 send=$2 run=$3 at_bundle=$4 at_bridge=$5 machine=$6 own=$7 control=$8
shift 8
# These two are a namespace and a link there.
nsenter "--net=${at_bundle% *}" timeout 100 python3 -c "$capture" "${at_bundle#* }" "$run" "$run"control-last 90 >"$dir/bundle" &
nsenter "--net=${at_bridge% *}" timeout 100 python3 -c "$capture" "${at_bridge#* }" "$run" "$run"control-last 90 >"$dir/bridge" &
for at in bundle bridge; do
  n=0
  until grep -q ready "$dir/$at"; do n=$((n + 1)); [ $n -lt 300 ]; sleep 0.1; done
done
ip netns exec ` + rawNS + ` python3 -c "$send" "$run"control- all "$control" "$@" >"$dir/sent-control"
nsenter --net="$machine" python3 -c "$send" "$run"machine- all "$own" "$@" >"$dir/sent-machine"
sleep 0.5
ip netns exec ` + rawNS + ` python3 -c "$send" "$run"control- last "$control" "$@" >/dev/null
wait
for file in sent-control sent-machine bundle bridge; do sed "s/^/$file /" "$dir/$file"; done
`

func testRaw(t *testing.T, s *site) {
	b := s.walled
	net := strings.TrimSuffix(b.Status.Network.Gateway, "1")
	s.joinBridge(t, net+"77/24")
	bundleNS := "/proc/" + s.BundlePID(t, b) + "/ns/net"
	bridgeNS, bundleLink, gatewayLink := "/proc/self/ns/net", "eth0", bridge(b)
	if s.OnPods(t) {
		// The bridge is the bundle's own link, and the machine has no gateway. The Pod's link to
		// others stands for one.
		bridgeNS, bundleLink, gatewayLink = bundleNS, bridge(b), "eth0"
	}
	run := "esc" + nonce()
	out := s.Exec(t, node, "sh", "-c", captureScript, "sh", capturePy, sendPy, run, bundleNS+" "+bundleLink, bridgeNS+" "+bridge(b), wallNS(b),
		net+"3", net+"77", // the machine's address and the control's
		bundleIP(b), s.macOf(t, bundleNS, bundleLink),
		b.Status.Network.Gateway, s.macOf(t, bridgeNS, gatewayLink))

	lines := strings.Split(strings.TrimSpace(out), "\n")
	sent := names(lines, "sent-control ")
	if got := names(lines, "sent-machine "); len(sent) < 30 || !slices.Equal(got, sent) {
		t.Fatalf("frames sent: got %q from the machine's namespace and %q from the control, want the same ones from both", got, sent)
	}
	seen := func(from, name string) (at []string) {
		for _, where := range []string{"bundle", "bridge"} {
			if slices.Contains(lines, where+" "+run+from+"-"+name) {
				at = append(at, where)
			}
		}
		return at
	}
	if at := seen("control", "last"); len(at) != 2 {
		t.Fatalf("the last frame was captured at %v, want it at the bundle and the bridge: otherwise missing frames mean nothing\n%s", at, out)
	}
	if at := seen("machine", allowed); len(at) == 0 {
		t.Fatalf("a connection to the declared port, from the machine's namespace: captured nowhere, so the other frames from there mean nothing\n%s", out)
	}
	for _, name := range sent {
		if name == allowed {
			continue
		}
		if at := seen("control", name); len(at) == 0 {
			t.Errorf("control: %s, from a namespace without a filter: captured nowhere, so it does not test the wall", name)
		}
		if at := seen("machine", name); len(at) > 0 {
			t.Errorf("ESCAPE: %s, from root in the network namespace of the machine of Bottle %s: captured at %v; want it stopped by %s", name, story.ID(b), at, hostWall)
		}
	}
	t.Logf("%d kinds of frames", len(sent))
	// Remove the control's forged ARP entries; then the bundle is reachable as before.
	s.Exec(t, node, "sh", "-c", fmt.Sprintf("nsenter --net=%s ip neigh flush dev %s; nsenter --net=%s ip neigh flush all; nsenter --net=%s ip neigh flush all", bridgeNS, bridge(b), wallNS(b), bundleNS))
	batch := attempts([]attack{s.allowedPath()})
	outputs := parse(t, s.Guest(t, b, "sh", "-c", script(batch, s.attackTimeout, bundleIP(b))), 1)
	if !judge(batch, outputs, nil)[0].reached {
		t.Errorf("the bundle's declared port after the test: got %q, want an answer", outputs)
	}
}

// joinBridge creates the control's namespace and its link.
func (s *site) joinBridge(t *testing.T, address string) {
	t.Helper()
	if s.OnPods(t) {
		// The agent takes other links out of the bridge of a Pod.
		signal := func(name string) { s.Exec(t, node, "pkill", "-"+name, "-f", "[b]ottle-operator agent ") }
		signal("STOP")
		t.Cleanup(func() { signal("CONT") })
	}
	t.Cleanup(func() {
		s.TryExec(t, node, append(s.BesideWall(t, s.walled), "sh", "-c", "ip link del "+rawLink+"; ip netns del "+rawNS)...)
	})
	s.Exec(t, node, append(s.BesideWall(t, s.walled), "sh", "-ec", fmt.Sprintf(`
		ip netns add %[1]s
		ip link add %[2]s type veth peer name eth0 netns %[1]s
		ip -n %[1]s addr add %[3]s dev eth0
		ip -n %[1]s link set eth0 up
		ip link set %[2]s master %[4]s up
	`, rawNS, rawLink, address, bridge(s.walled)))...)
}

func (s *site) macOf(t *testing.T, netns, link string) string {
	t.Helper()
	out := s.Exec(t, node, "nsenter", "--net="+netns, "ip", "-o", "link", "show", "dev", link)
	_, after, _ := strings.Cut(out, "link/ether ")
	mac, _, found := strings.Cut(after, " ")
	if !found {
		t.Fatalf("MAC of %s: got %q, want one", link, out)
	}
	return mac
}

// names returns the lines that have a prefix, without it.
func names(lines []string, prefix string) []string {
	var out []string
	for _, line := range lines {
		if name, ok := strings.CutPrefix(line, prefix); ok {
			out = append(out, name)
		}
	}
	return out
}
