// SPDX-License-Identifier: Apache-2.0

package imagetree

import (
	"archive/tar"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// Case is an image whose tree must be the one that docker shows.
type Case struct {
	Layers [][]Entry
	// Implied are the folders that a layer uses without an entry for them.
	// Docker's storage drivers make them anew, with the time of unpacking, as
	// mode 0755 of root, even where a lower layer has them. Flatten keeps what
	// the lower layer says, as containerd does.
	Implied []string
	// Alone is set if the image cannot be a part of another one's tree.
	Alone bool
}

// Cases returns images with every kind of entry, by what they show.
func Cases() map[string]Case {
	long := strings.Repeat("long-name-", 20)
	many := make([][]Entry, 10)
	for i := range many {
		many[i] = []Entry{File("f", fmt.Sprint(i)), File(fmt.Sprintf("only-%d", i), "x")}
	}
	return map[string]Case{
		"files and folders": {Layers: [][]Entry{{Dir("a"), Dir("a/b"), File("a/b/c", "text"), File("a/empty", "")}}},
		"modes": {Layers: [][]Entry{{Dir("a").Chmod(0o1777), Dir("b").Chmod(0o2755), Dir("c").Chmod(0), File("suid", "x").Chmod(0o4755),
			File("sgid", "x").Chmod(0o2711), File("none", "x").Chmod(0), File("a/all", "x").Chmod(0o7777)}}},
		"owners": {Layers: [][]Entry{{Dir("home").Owner(1000, 100), File("home/f", "x").Owner(65534, 65534), File("large", "x").Owner(3000000, 3000001),
			Symlink("l", "home").Owner(7, 8), Special(tar.TypeFifo, "p", 0, 0).Owner(9, 10), File("suid", "x").Owner(5, 6).Chmod(0o6755)}}},
		"symlinks":               {Layers: [][]Entry{{Dir("a"), Symlink("a/up", "../b"), Symlink("abs", "/etc/passwd"), Symlink("dangling", "no/such"), Symlink("loop", "loop")}}},
		"hard links":             {Layers: [][]Entry{{Dir("a"), Dir("b"), File("a/x", "1"), HardLink("a/y", "a/x"), HardLink("b/z", "a/x"), File("b/other", "1")}}},
		"hard link to a symlink": {Layers: [][]Entry{{Symlink("l", "to"), HardLink("m", "l")}}},
		"rewritten hard link":    {Layers: [][]Entry{{Dir("bin"), File("bin/x", "old"), HardLink("bin/y", "bin/x")}, {Dir("bin"), File("bin/x", "new")}}},
		"rewritten hard link, both names": {Layers: [][]Entry{{Dir("bin"), File("bin/x", "old"), HardLink("bin/y", "bin/x")},
			{Dir("bin"), File("bin/x", "new"), HardLink("bin/y", "bin/x")}}},
		"removed name of a hard link": {Layers: [][]Entry{{File("a", "1"), HardLink("b", "a"), HardLink("c", "a")}, {File(".wh.a", "")}}},
		"all but one name removed":    {Layers: [][]Entry{{File("a", "1"), HardLink("b", "a")}, {File(".wh.a", "")}, {File("a", "2")}}},
		"opaque folder":               {Layers: [][]Entry{{Dir("etc"), Dir("etc/app"), File("etc/app/a", "1")}, {Dir("etc"), Dir("etc/app"), File("etc/app/.wh..wh..opq", ""), File("etc/app/b", "2")}}},
		"opaque marker after its siblings": {Layers: [][]Entry{{Dir("d"), Dir("d/sub"), File("d/sub/old", "1"), File("d/a", "1")},
			{Dir("d"), File("d/b", "2"), Dir("d/sub"), File("d/sub/new", "2"), File("d/.wh..wh..opq", "")}}},
		"opaque folders in three layers": {Layers: [][]Entry{{Dir("d"), File("d/1", "1")}, {Dir("d"), File("d/.wh..wh..opq", ""), File("d/2", "2")},
			{Dir("d"), Dir("d/e"), File("d/3", "3")}, {Dir("d"), Dir("d/e"), File("d/e/.wh..wh..opq", ""), File("d/e/4", "4")}}},
		"opaque folder in an opaque folder": {Layers: [][]Entry{{Dir("d"), Dir("d/e"), File("d/e/1", "1")},
			{Dir("d"), File("d/.wh..wh..opq", ""), Dir("d/e"), File("d/e/.wh..wh..opq", ""), File("d/e/2", "2")}}},
		"opaque root":                        {Layers: [][]Entry{{File("a", "1"), Dir("d")}, {File(".wh..wh..opq", ""), File("b", "2")}}, Alone: true},
		"opaque folder that is new":          {Layers: [][]Entry{{File("a", "1")}, {Dir("d"), File("d/.wh..wh..opq", ""), File("d/b", "2")}}},
		"whiteout of a file":                 {Layers: [][]Entry{{Dir("d"), File("d/a", "1"), File("d/b", "1")}, {Dir("d"), File("d/.wh.a", "")}}},
		"whiteout of a folder":               {Layers: [][]Entry{{Dir("d"), Dir("d/e"), File("d/e/a", "1")}, {Dir("d"), File("d/.wh.e", "")}}},
		"whiteout of a symlink":              {Layers: [][]Entry{{Dir("d"), File("d/a", "1"), Symlink("l", "d"), Symlink("m", "d/a")}, {File(".wh.l", ""), File(".wh.m", "")}}},
		"whiteout of nothing":                {Layers: [][]Entry{{Dir("d")}, {Dir("d"), File("d/.wh.no", ""), File(".wh.such", "")}}},
		"whiteout in a lower layer":          {Layers: [][]Entry{{Dir("d"), File("d/.wh.a", ""), File("d/b", "1")}, {File("c", "1")}}},
		"removed and made again":             {Layers: [][]Entry{{Dir("d"), File("d/a", "1"), File("f", "1").Owner(1, 1)}, {File(".wh.d", ""), File(".wh.f", "")}, {Dir("d"), File("d/b", "2"), File("f", "2")}}},
		"whiteout before a new file":         {Layers: [][]Entry{{File("f", "1"), File("g", "1")}, {File(".wh.f", ""), File("f", "2")}}},
		"whiteout before a new folder":       {Layers: [][]Entry{{Dir("d"), File("d/a", "1")}, {File(".wh.d", ""), Dir("d"), File("d/b", "2")}}},
		"file becomes a folder":              {Layers: [][]Entry{{File("f", "1")}, {Dir("f"), File("f/a", "2")}}},
		"folder becomes a file":              {Layers: [][]Entry{{Dir("d"), Dir("d/e"), File("d/e/a", "1")}, {File("d", "2")}}},
		"folder becomes a file and a folder": {Layers: [][]Entry{{Dir("d"), File("d/a", "1")}, {File("d", "2")}, {Dir("d"), File("d/b", "3")}}},
		"folder becomes a symlink":           {Layers: [][]Entry{{Dir("d"), File("d/a", "1"), Dir("e"), File("e/b", "1")}, {Symlink("d", "e")}}},
		"symlink becomes a folder":           {Layers: [][]Entry{{Dir("e"), File("e/b", "1"), Symlink("d", "e")}, {Dir("d"), File("d/a", "2")}}},
		"symlink becomes a file":             {Layers: [][]Entry{{File("to", "1"), Symlink("l", "to")}, {File("l", "2")}}},
		"file becomes a symlink":             {Layers: [][]Entry{{File("l", "1"), File("to", "1")}, {Symlink("l", "to")}}},
		"file becomes a fifo":                {Layers: [][]Entry{{File("p", "1")}, {Special(tar.TypeFifo, "p", 0, 0)}}},
		"below a symlink of a lower layer": {Layers: [][]Entry{{Dir("usr"), Dir("usr/bin"), File("usr/bin/a", "1"), Symlink("bin", "usr/bin")}, {File("bin/b", "2")}},
			Implied: []string{"bin/"}},
		"below a symlink of its own layer":    {Layers: [][]Entry{{Dir("usr"), Dir("usr/bin"), Symlink("bin", "usr/bin"), File("bin/b", "2"), Symlink("abs", "/usr"), File("abs/c", "3")}}, Alone: true},
		"changed folder":                      {Layers: [][]Entry{{Dir("d").Chmod(0o700).Owner(1, 2), File("d/a", "1")}, {Dir("d").Chmod(0o1777).Owner(3, 4).At(Then.Add(time.Hour))}}},
		"changed times only":                  {Layers: [][]Entry{{Dir("d"), File("d/a", "1")}, {File("d/a", "1").At(Then.Add(time.Hour))}}, Implied: []string{"d/"}},
		"implied folder that exists":          {Layers: [][]Entry{{Dir("d"), Dir("d/e"), File("d/e/a", "1")}, {File("d/e/b", "2")}, {File("d/c", "3")}}, Implied: []string{"d/", "d/e/"}},
		"implied folder that is new":          {Layers: [][]Entry{{File("d/e/b", "2")}}, Implied: []string{"d/", "d/e/"}},
		"implied folder that whiteouts use":   {Layers: [][]Entry{{Dir("d"), File("d/a", "1")}, {File("d/.wh.a", "")}}, Implied: []string{"d/"}},
		"capabilities":                        {Layers: [][]Entry{{File("ping", "x").Chmod(0o755).Xattr("security.capability", NetBindService)}}},
		"capabilities of a rewritten file":    {Layers: [][]Entry{{File("a", "x").Xattr("security.capability", NetBindService), File("b", "x").Xattr("security.capability", NetBindService)}, {File("a", "x")}}},
		"capabilities of an owned file":       {Layers: [][]Entry{{File("a", "x").Owner(5, 5).Chmod(0o4755).Xattr("security.capability", NetBindService)}}},
		"user attributes":                     {Layers: [][]Entry{{File("f", "x").Xattr("user.a", "1").Xattr("user.b", "\x00\xff="), Dir("d").Xattr("user.c", "1"), HardLink("g", "f")}}},
		"user attributes of a changed folder": {Layers: [][]Entry{{Dir("d").Xattr("user.a", "1"), File("d/f", "x")}, {Dir("d").Xattr("user.b", "2")}}},
		"attributes that only root sees":      {Layers: [][]Entry{{File("f", "x").Xattr("security.other", "1")}}},
		"access lists":                        {Layers: [][]Entry{{File("f", "x").Xattr("system.posix_acl_access", acl), Dir("d").Xattr("system.posix_acl_default", acl)}}},
		"devices":                             {Layers: [][]Entry{{Dir("d"), Special(tar.TypeChar, "d/null", 1, 3), Special(tar.TypeBlock, "d/loop", 7, 200), Special(tar.TypeChar, "d/large", 300, 70000)}}},
		"fifo":                                {Layers: [][]Entry{{Special(tar.TypeFifo, "p", 0, 0)}}},
		"device as a whiteout":                {Layers: [][]Entry{{Dir("d"), File("d/a", "1")}, {Dir("d"), Special(tar.TypeChar, "d/a", 0, 0)}}},
		"long names":                          {Layers: [][]Entry{{Dir(long), File(long+"/"+long, "x"), Symlink("l", long+"/"+long+"/"+long), HardLink(long+"h", long+"/"+long)}}},
		"long names in GNU form":              {Layers: [][]Entry{{Dir(long).In(tar.FormatGNU), File(long+"/"+long, "x").In(tar.FormatGNU)}}},
		"deep folders":                        {Layers: [][]Entry{{File(Deep(400)+"/f", "x")}}, Implied: deepNames(400)},
		"odd names":                           {Layers: [][]Entry{{File("with space", "x"), File("new\nline", "x"), File("ünïcode", "x"), File("\xff\xfe", "x"), File("-x", "x"), File("*", "x"), File("back\\slash", "x")}}},
		"names in several forms":              {Layers: [][]Entry{{Dir("./d"), File("./d/a", "1"), File("/abs", "1"), File("d/../b", "1"), File("d//c", "1"), File("../../up", "1")}}, Alone: true},
		"entry for the root":                  {Layers: [][]Entry{{Dir(".").Chmod(0o700).Owner(5, 5), File("./a", "1")}}, Alone: true},
		"content":                             {Layers: [][]Entry{{File("large", strings.Repeat("0123456789abcdef", 1<<17)), File("zeros", strings.Repeat("\x00", 1<<20))}}},
		"times":                               {Layers: [][]Entry{{File("ns", "x").At(time.Unix(1577934245, 123456789)).In(tar.FormatPAX), File("old", "x").At(time.Unix(-86400, 0)), File("epoch", "x").At(time.Unix(0, 0)), File("far", "x").At(time.Unix(5e9, 0)), Dir("d").At(time.Unix(1, 0)), File("d/a", "x"), Symlink("l", "x").At(time.Unix(2, 0))}}},
		"implied folder with a mode":          {Layers: [][]Entry{{Dir("tmp").Chmod(0o1777).Owner(3, 4).Xattr("user.a", "1"), File("tmp/a", "1")}, {File("tmp/b", "2")}}, Implied: []string{"tmp/"}},
		"empty layer, one layer twice, global header": {Layers: [][]Entry{{File("a", "1")}, {}, {Dir("d"), File("d/b", "2")}, {Dir("d"), File("d/b", "2")},
			{{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "x"}}}, File("c", "3")}}, Alone: true},
		"many layers": {Layers: many, Alone: true},
	}
}

// acl lets user 1 read.
const acl = "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x01\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"

func deepNames(n int) []string {
	var names []string
	for i := range n {
		names = append(names, Deep(i+1)+"/")
	}
	return names
}

// Include adds the tree of another image in a folder.
func (c *Case) Include(folder string, other Case) {
	for n, entries := range other.Layers {
		if n == len(c.Layers) {
			c.Layers = append(c.Layers, nil)
		}
		c.Layers[n] = append(c.Layers[n], Dir(folder))
		for _, e := range entries {
			e.Name = folder + "/" + e.Name
			if e.Typeflag == tar.TypeLink {
				e.Linkname = folder + "/" + e.Linkname
			}
			c.Layers[n] = append(c.Layers[n], e)
		}
	}
	for _, name := range other.Implied {
		c.Implied = append(c.Implied, folder+"/"+name)
	}
}

// Archives returns the layers as tar archives.
func (c *Case) Archives(t testing.TB) [][]byte {
	var archives [][]byte
	for _, entries := range c.Layers {
		archives = append(archives, Tar(t, entries...))
	}
	return archives
}

// Shared is the name of the image that has most cases, each in a folder.
const Shared = "all others"

// Images returns all cases in few images, because an image costs time: those that
// must be alone, and Shared.
func Images() map[string]Case {
	images := map[string]Case{}
	var shared Case
	for _, name := range slices.Sorted(maps.Keys(Cases())) {
		if c := Cases()[name]; c.Alone {
			images[name] = c
		} else {
			shared.Include(name, c)
		}
	}
	images[Shared] = shared
	return images
}
