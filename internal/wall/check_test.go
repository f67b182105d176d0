// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/await"
	"botbottle.dev/bottle-operator/test/require"
)

// manyWalls are so many that a check reads only what changed.
type manyWalls struct {
	inspected host.Walls
	specs     []host.WallSpec
	// ahead is how far the walls' clock is ahead of the time.
	ahead time.Duration
	// settled reports that a check would read nothing in full.
	settled func() bool
}

func (m *manyWalls) now() time.Time { return time.Now().Add(m.ahead) }

// check inspects all walls once and returns their faults.
func (m *manyWalls) check(t testing.TB) []string {
	t.Helper()
	walls, err := m.inspected.InspectWalls(t.Context(), m.specs)
	must(t, err)
	faults := make([]string, len(walls))
	for i, wall := range walls {
		must(t, wall.Err)
		faults[i] = describe(wall.Faults)
	}
	return faults
}

// settle checks all walls until a check would read nothing in full.
func (m *manyWalls) settle(t testing.TB) {
	t.Helper()
	for range 100 {
		m.ahead += settling
		for i, fault := range m.check(t) {
			if fault != "" {
				t.Fatalf("wall %d: got faults %s, want none", i, fault)
			}
		}
		if m.settled() {
			return
		}
	}
	t.Fatal("the walls do not settle")
}

// many is a node with so many walls.
type many struct {
	*world
	manyWalls
}

// broken is the wall of many that the tests break.
const broken = 3

func newMany(t testing.TB) *many {
	t.Helper()
	m := &many{world: newWorld(t)}
	m.inspected, m.manyWalls.settled = m.walls, m.settled
	m.walls.memory.now = m.now
	for i := range few + 2 {
		spec := newSpec(t, 10+i)
		m.specs = append(m.specs, spec)
		if i == broken {
			m.addBundle(t, spec)
		} else {
			m.addBridge(t, spec)
		}
		m.stand(t, spec)
	}
	m.settle(t)
	return m
}

func (m *many) settled() bool {
	mem := &m.walls.memory
	known := mem.events != nil && len(mem.walls) == len(m.specs) && settled(mem.tablesAt, mem.rulesChanged) && settled(mem.tablesAt, mem.linksChanged)
	for _, k := range mem.walls {
		known = known && settled(k.insideAt, k.insideChanged) && settled(k.rulesAt, mem.rulesChanged) && !due(k.spec.Owner.ID(), k.insideAt, mem.now())
	}
	return known
}

// moreDamages are further cases of TestCheckSeesDamage.
var moreDamages = []damage{
	{name: "dummy link", how: []string{"inside ip link add bundle1 type bridge"}, found: []string{`open: link "bundle1" is in the namespace`}},
	{name: "another link from the node", how: []string{"ip link add other type veth peer name extra", "ip link set extra netns ID"}, found: []string{`open: link "extra" is in the namespace`}},
	{name: "blackhole route", how: []string{"inside ip route add blackhole 10.0.0.0/8"}, found: []string{"closed: the namespace has routes other than the one to SUBNET"}},
	{name: "rule deleted", how: []string{"nft flush chain netdev TABLE ingress", "nft add rule netdev TABLE ingress drop"}, found: []string{"open: filter TABLE has other rules than the wall's"}},
	{name: "bridge of another MTU", how: []string{"ip link set BRIDGE mtu 1300"}, found: []string{"closed: bundle0 in the namespace has a different MTU from the bridge"}},
	{name: "bridge of the bundle's MAC", how: []string{"ip link set BRIDGE address BUNDLEMAC"}, found: []string{"open: bridge BRIDGE has the bundle's MAC address"}},
}

// TestCheckSeesDamage breaks walls of which everything is known. The next check
// must find it.
func TestCheckSeesDamage(t *testing.T) {
	for _, d := range slices.Concat(damages, moreDamages) {
		t.Run(d.name, func(t *testing.T) {
			m := newMany(t)
			t.Cleanup(func() { _ = deleteLink("other") })
			spec := m.specs[broken]
			path := m.walls.path(spec.Owner)
			wallNS(t, host.Wall{Path: path}) // holds the namespace, and therefore its link
			d.do(t, spec, path)
			m.ahead += time.Second
			want := damageWords(spec, path).Replace(strings.Join(d.found, "\n"))
			for i, got := range m.check(t) {
				switch {
				case i == broken && d.name == "bridge of another MTU":
					// The bridge changes the MTU of its ports on some kernels.
					if got == "" {
						t.Error("got no faults, want some")
					}
				case i == broken && got != want:
					t.Errorf("got\n%s\nwant\n%s", got, want)
				case i != broken && got != "" && !d.ofNode():
					t.Errorf("wall %d, which is as specified: got %s", i, got)
				}
			}
		})
	}
}

// TestCheckSeesOtherNamespace: another namespace takes the place of a wall's.
func TestCheckSeesOtherNamespace(t *testing.T) {
	m := newMany(t)
	spec := m.specs[broken]
	path := m.walls.path(spec.Owner)
	held := wallNS(t, host.Wall{Path: path}) // so that the link stays
	run(t, "umount", "-l", path)
	other := anonymousNetNS(t)
	must(t, unix.Mount(fmt.Sprintf("/proc/self/fd/%d", other.Fd()), path, "none", unix.MS_BIND, ""))
	if got := m.check(t)[broken]; !strings.Contains(got, "does not lead into the namespace") {
		t.Errorf("another namespace: got %q, want that the link does not lead into it", got)
	}
	run(t, "umount", "-l", path)
	must(t, unix.Mount(fmt.Sprintf("/proc/self/fd/%d", held.Fd()), path, "none", unix.MS_BIND, ""))
	if got := m.check(t)[broken]; got != "" {
		t.Errorf("the wall's namespace again: got %q, want no faults", got)
	}
	run(t, "umount", "-l", path)
	must(t, unix.Mount("/proc/self/ns/net", path, "none", unix.MS_BIND, ""))
	if got, want := m.check(t)[broken], "open: "+path+" is the node's own network namespace"; got != want {
		t.Errorf("the node's namespace: got %q, want %q", got, want)
	}
	run(t, "umount", "-l", path)
	must(t, unix.Mount(fmt.Sprintf("/proc/self/fd/%d", held.Fd()), path, "none", unix.MS_BIND, ""))
}

// TestCheckSeesIPv6: an address and a route, once somebody turned IPv6 on.
func TestCheckSeesIPv6(t *testing.T) {
	m := newMany(t)
	spec := m.specs[broken]
	path := m.walls.path(spec.Owner)
	must(t, in(t, wallNS(t, host.Wall{Path: path}), func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("0"), 0), os.WriteFile("/proc/sys/net/ipv6/conf/bundle0/disable_ipv6", []byte("0"), 0))
	}))
	m.settle(t)
	routes := "closed: the namespace has routes other than the one to " + spec.Subnet.String()
	damage{how: []string{"inside ip -6 route add blackhole fd01::/64"}}.do(t, spec, path)
	if got := m.check(t)[broken]; got != routes {
		t.Errorf("with a route: got %q, want %q", got, routes)
	}
	damage{how: []string{"inside ip -6 route del blackhole fd01::/64"}}.do(t, spec, path)
	m.settle(t)
	damage{how: []string{"inside ip addr add fd00::5/64 dev bundle0 nodad"}}.do(t, spec, path)
	if got, want := m.check(t)[broken], "closed: the namespace does not have exactly the address "+machinePrefix(spec).String()+"\n"+routes; got != want {
		t.Errorf("with an address: got %q, want %q", got, want)
	}
}

// TestCheckSeesEarlierChain: a foreign chain that sees packets first.
func TestCheckSeesEarlierChain(t *testing.T) {
	m := newMany(t)
	spec := m.specs[broken]
	run(t, "nft", "add table netdev others; add chain netdev others early { type filter hook ingress device "+spec.Owner.Veth()+" priority -2147483648; }")
	t.Cleanup(func() { run(t, "nft", "delete", "table", "netdev", "others") })
	want := `open: chain "others early" sees packets before filter ` + tableName(spec.Owner)
	if got := m.check(t)[broken]; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestCheckSeesXDP: a program that is attached with a BPF link is reported to
// nobody.
func TestCheckSeesXDP(t *testing.T) {
	m := newMany(t)
	spec := m.specs[broken]
	l, err := netlink.LinkByName(spec.Owner.Veth())
	must(t, err)
	detach := attachXDP(t, l.Attrs().Index)
	want := "open: link " + spec.Owner.Veth() + " has an XDP program, which comes before the filter"
	if got := m.check(t)[broken]; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	detach()
	if got := m.check(t)[broken]; got != "" {
		t.Errorf("without the program: got %q, want no faults", got)
	}
}

// attachXDP attaches a program that passes every packet.
func attachXDP(t *testing.T, index int) (detach func()) {
	t.Helper()
	const progLoad, linkCreate, typeXDP, attachXDP = 5, 28, 6, 37
	code := []byte{0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0} // r0 = XDP_PASS; exit
	license := []byte("GPL\x00")
	load := struct {
		kind, count   uint32
		code, license uint64
		rest          [12]uint64
	}{kind: typeXDP, count: 2, code: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	program, _, errno := unix.Syscall(unix.SYS_BPF, progLoad, uintptr(unsafe.Pointer(&load)), unsafe.Sizeof(load))
	if errno != 0 {
		require.Unmet(t, fmt.Sprintf("the kernel does not load an XDP program: %v", errno))
	}
	create := struct{ program, target, kind, flags uint32 }{uint32(program), uint32(index), attachXDP, 0}
	link, _, errno := unix.Syscall(unix.SYS_BPF, linkCreate, uintptr(unsafe.Pointer(&create)), unsafe.Sizeof(create))
	if errno != 0 {
		t.Fatalf("attach an XDP program: %v", errno)
	}
	_ = unix.Close(int(program))
	return func() { must(t, unix.Close(int(link))) }
}

// TestCheckAfterLostEvents: when notifications are lost, everything is read.
func TestCheckAfterLostEvents(t *testing.T) {
	m := newMany(t)
	spec := m.specs[broken]
	path := m.walls.path(spec.Owner)
	must(t, unix.SetsockoptInt(int(m.walls.memory.events.socket.Fd()), unix.SOL_SOCKET, unix.SO_RCVBUF, 1))
	damage{how: []string{"ip link add other type bridge"}}.do(t, spec, path)
	t.Cleanup(func() { _ = deleteLink("other") })
	for range 20 {
		damage{how: []string{"ip link set other up", "ip link set other down"}}.do(t, spec, path)
	}
	damage{how: []string{"inside ip route add default via GATEWAY"}}.do(t, spec, path)
	want := "closed: the namespace has routes other than the one to " + spec.Subnet.String()
	if got := m.check(t)[broken]; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestCheckWithoutEvents: without notifications, every check reads everything.
func TestCheckWithoutEvents(t *testing.T) {
	m := newMany(t)
	m.walls.memory.events.close()
	for range 2 {
		spec := m.specs[broken]
		damage{how: []string{"inside ip route add default via GATEWAY"}}.do(t, spec, m.walls.path(spec.Owner))
		want := "closed: the namespace has routes other than the one to " + spec.Subnet.String()
		if got := m.check(t)[broken]; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if m.walls.memory.events != nil {
			break // closed once more, so that the second round has none either
		}
		damage{how: []string{"inside ip route del default"}}.do(t, spec, m.walls.path(spec.Owner))
	}
}

// TestCheckSeesNewSpec: a wall is judged by the spec of this check.
func TestCheckSeesNewSpec(t *testing.T) {
	m := newMany(t)
	m.specs[broken].Ports = []int32{9999}
	if got, want := m.check(t)[broken], "open: filter "+tableName(m.specs[broken].Owner)+" has other rules than the wall's"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestCheckReadsAgainOnceSettled: the kernel sends some notifications before the
// change itself can be read. So what changed is read immediately, again when the
// change has settled, and then no more.
func TestCheckReadsAgainOnceSettled(t *testing.T) {
	m := newMany(t)
	spec := m.specs[broken]
	read := func() time.Time { return m.walls.memory.walls[spec.Owner.ID()].insideAt }
	for due(spec.Owner.ID(), read(), m.walls.memory.now().Add(10*time.Second)) { // or it may be read in its turn meanwhile
		m.ahead += 10 * time.Second
		m.settle(t)
	}
	before := read()
	damage{how: []string{"inside ip route add blackhole 10.0.0.0/8", "inside ip route del blackhole 10.0.0.0/8"}}.do(t, spec, m.walls.path(spec.Owner))
	for i, want := range []bool{true, true, false} {
		m.check(t)
		if got := read() != before; got != want {
			t.Errorf("check %d after the change: got the inside read %v, want %v", i+1, got, want)
		}
		before = read()
		m.ahead += settling
	}
}

// TestCheckReadsEverythingInTurn: each wall is read in full once in fullReading,
// and not all of them at the same time.
func TestCheckReadsEverythingInTurn(t *testing.T) {
	m := newMany(t)
	last := map[string]time.Time{}
	for id, k := range m.walls.memory.walls {
		last[id] = k.insideAt
	}
	most := 0
	for range int(fullReading/time.Second) + 1 {
		m.ahead += time.Second
		m.check(t)
		read := 0
		for id, k := range m.walls.memory.walls {
			if k.insideAt != last[id] {
				read++
			}
			if age := m.walls.memory.now().Sub(k.insideAt); age > fullReading+time.Second {
				t.Errorf("wall %s: read %v ago, want at most %v", id, age, fullReading)
			}
			last[id] = k.insideAt
		}
		most = max(most, read)
	}
	if most > len(m.specs)/2 {
		t.Errorf("got %d of %d walls read in one check, want them spread", most, len(m.specs))
	}
}

// TestCheckCountsPackets: counts reach the checks, and never go backwards.
func TestCheckCountsPackets(t *testing.T) {
	m := newMany(t)
	spec := m.specs[broken]
	ns := wallNS(t, host.Wall{Path: m.walls.path(spec.Owner)})
	askFor(t, ns, spec.Subnet.Addr().Next())
	alone := m.inspect(t, spec)
	if alone.Dropped == 0 {
		t.Fatal("got no dropped packets, want some")
	}
	walls, err := m.walls.InspectWalls(t.Context(), m.specs)
	must(t, err)
	if walls[broken].Dropped < alone.Dropped {
		t.Errorf("got %d dropped packets after %d", walls[broken].Dropped, alone.Dropped)
	}
	m.settle(t)
	askFor(t, ns, spec.MachineIP.Next())
	m.ahead += fullReading
	walls, err = m.walls.InspectWalls(t.Context(), m.specs)
	must(t, err)
	if walls[broken].Dropped <= alone.Dropped {
		t.Errorf("after %v: got %d dropped packets, want more than %d", fullReading, walls[broken].Dropped, alone.Dropped)
	}
}

// askFor sends an ARP request for an address in the namespace's network.
func askFor(t *testing.T, ns *os.File, address netip.Addr) {
	t.Helper()
	must(t, in(t, ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		return unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Port: 4711, Addr: address.As4()})
	}))
}

// TestLinkTable: it reads the same as the library.
func TestLinkTable(t *testing.T) {
	m := newMany(t)
	s, err := openLinkSocket(make([]byte, linkRoom))
	must(t, err)
	defer s.close()
	table := new(linkTable)
	for range 2 {
		got, err := table.list(s)
		must(t, err)
		links, err := netlink.LinkList()
		must(t, err)
		if len(got) != len(links) {
			t.Errorf("got %d links, want %d", len(got), len(links))
		}
		for _, l := range links {
			if a := got[l.Attrs().Name]; a == nil || *a != attrsOf(l) {
				t.Errorf("got %+v, want %+v", a, attrsOf(l))
			}
		}
		must(t, deleteLink(m.specs[0].Owner.Veth()))
		run(t, "ip", "link", "set", m.specs[1].Owner.Veth(), "down")
	}
}

// TestCheckReadsOwnedTables checks that a table that disappears with a process is
// read each time: its end does not change the generation of the ruleset.
func TestCheckReadsOwnedTables(t *testing.T) {
	m := newMany(t)
	mem := &m.walls.memory
	read := func() bool {
		before := mem.tablesAt
		m.ahead += time.Millisecond
		m.check(t)
		return mem.tablesAt.After(before)
	}
	if read() {
		t.Fatal("settled tables: got read again, want them kept")
	}
	owner := exec.Command("nft", "-i")
	stdin, err := owner.StdinPipe()
	must(t, err)
	must(t, owner.Start())
	_, err = fmt.Fprintln(stdin, "add table netdev foreign { flags owner; }")
	must(t, err)
	seen := func() bool {
		m.check(t)
		return mem.tables["foreign"] != nil
	}
	await.True(t, "the owned table is seen", seen)
	m.settle(t)
	for range 3 {
		if !read() {
			t.Fatal("tables with an owned one: got kept, want them read again")
		}
	}
	must(t, stdin.Close())
	must(t, owner.Wait())
	await.True(t, "the end of the owned table is seen", func() bool { return !seen() })
	m.settle(t)
	if read() {
		t.Error("without the owned table: got read again, want them kept")
	}
	m.ahead += fullReading
	if !read() {
		t.Errorf("after %s: got the tables kept, want them read again", fullReading)
	}
}
