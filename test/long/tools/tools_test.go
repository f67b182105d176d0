// SPDX-License-Identifier: Apache-2.0

package tools

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/test/require"
)

// The environments of a guest.
const (
	withoutOpened = "no host is opened"
	withOpened    = "a host is opened"
)

// tool is a row of the table.
type tool struct {
	name    string
	version string // the command that prints it
	// fetch fetches from $URL, the beginning of a URL of the host. $HOST is the host. It runs
	// in an empty folder.
	fetch string
}

const pipFetch = ` download --quiet --no-deps --no-cache-dir --disable-pip-version-check --retries 0 --index-url "$URL/simple" $([ "${URL%:*}" = https ] || echo --trusted-host "$HOST") demo`

const mavenFetch = `
cat >settings.xml <<END
<settings><mirrors><mirror><id>maven-default-http-blocker</id><mirrorOf>none</mirrorOf><url>http://none.invalid</url></mirror></mirrors></settings>
END
cat >pom.xml <<END
<project><modelVersion>4.0.0</modelVersion><parent><groupId>com.example</groupId><artifactId>demo</artifactId><version>1</version><relativePath/></parent>
<artifactId>child</artifactId><packaging>pom</packaging><repositories><repository><id>demo</id><url>$URL/maven</url></repository></repositories></project>
END
%s --batch-mode --quiet --settings settings.xml -Dmaven.repo.local=$PWD/m2 validate && ls m2/com/example/demo/1/demo-1.pom`

const javaFetch = `
cat >Fetch.java <<END
public class Fetch {
  public static void main(String[] args) throws Exception {
    var uri = java.net.URI.create(args[0]);
    if (args[1].equals("url")) {
      uri.toURL().openStream().transferTo(System.out);
      return;
    }
    var answer = java.net.http.HttpClient.newHttpClient().send(java.net.http.HttpRequest.newBuilder(uri).build(), java.net.http.HttpResponse.BodyHandlers.ofString());
    System.out.print(answer.body());
    System.exit(answer.statusCode() == 200 ? 0 : 1);
  }
}
END
java Fetch.java $URL/hello %s`

// python returns a command that runs a script with the libraries of guest-tools.
func python(script string) string {
	return "PYTHONPATH=/opt/clients python3 - \"$URL\" \"$HOST\" <<END\nimport sys\nurl, host = (sys.argv + [\"\", \"\"])[1:3]\n" + script + "\nEND\n"
}

// tools are in the order of the table.
func tools() []tool {
	all := []tool{
		{"curl", "curl --version", `curl -fsS "$URL/hello"`},
		{"wget", "wget --version", `wget -nv -O- --tries=1 "$URL/hello"`},
		{"git", "git --version", `git clone --quiet "$URL/repo.git" clone`},
		{"apt", "apt-get --version", `echo "deb [trusted=yes] $URL/apt ./" >list; mkdir -p state/lists/partial cache/archives/partial
			apt-get -q -o APT::Sandbox::User=root -o APT::Update::Error-Mode=any -o Acquire::Retries=0 -o Dir::Etc::sourcelist=$PWD/list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$PWD/state/lists -o Dir::Cache=$PWD/cache update`},
		{"Python urllib", "python3 --version", `python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read())' "$URL/hello"`},
		{"pip", "pip3 --version", "pip3" + pipFetch},
		{"pip", "PYTHONPATH=/opt/python python3 -m pip --version", "PYTHONPATH=/opt/python python3 -m pip" + pipFetch},
		{"Python requests", python(`import requests; print(requests.__version__)`), python(`import requests; requests.get(url + "/hello").raise_for_status()`)},
		{"Python httpx", python(`import httpx; print(httpx.__version__)`), python(`import httpx; httpx.get(url + "/hello").raise_for_status()`)},
		{"Python httpx, HTTP/2", python(`import httpx; print(httpx.__version__)`), python(`import httpx; httpx.Client(http2=True).get(url + "/hello").raise_for_status()`)},
		{"Python websockets", python(`import websockets.version; print(websockets.version.version)`), python(`
from websockets.sync.client import connect
with connect("ws" + url[4:] + "/ws") as c:
    c.send("hello")
    print(c.recv())`)},
		{"gRPC, Python", python(`import grpc; print(grpc.__version__)`), python(`
import grpc
secure = url.startswith("https")
channel = grpc.secure_channel(host + ":443", grpc.ssl_channel_credentials()) if secure else grpc.insecure_channel(host + ":80")
print(channel.unary_unary("/demo.Demo/Say")(b"hello", timeout=60))`)},
		{"uv", "/opt/python/bin/uv --version", `/opt/python/bin/uv pip install --quiet --no-cache --python /usr/bin/python3 --index-url "$URL/simple" --target lib demo`},
		{"npm", "/opt/node/22.21.0/bin/node /opt/npm/bin/npm-cli.js --version", `/opt/node/22.21.0/bin/node /opt/npm/bin/npm-cli.js pack --silent --fetch-retries 0 --cache $PWD/cache --registry "$URL/npm/" demo`},
	}
	for _, v := range []string{"18.20.8", "20.20.2", "22.20.0", "22.21.0", "24.4.1", "24.22.3"} {
		node := "/opt/node/" + v + "/bin/node"
		all = append(all,
			tool{"Node `fetch`", node + " --version", node + ` -e 'fetch(process.argv[1]).then(async r => { console.log(await r.text()); process.exit(r.ok ? 0 : 1) })' "$URL/hello"`},
			tool{"Node `http`, `https`", node + " --version", node + ` -e 'const u = process.argv[1]; require(u.split(":")[0]).get(u, r => { r.pipe(process.stdout); r.on("end", () => process.exit(r.statusCode == 200 ? 0 : 1)) })' "$URL/hello"`},
		)
	}
	return append(all,
		tool{"Node `WebSocket`", "/opt/node/24.22.3/bin/node --version", `/opt/node/24.22.3/bin/node -e 'const c = new WebSocket("ws" + process.argv[1].slice(4) + "/ws");
			c.onopen = () => c.send("hello"); c.onmessage = m => { console.log(m.data); process.exit(0) }; c.onerror = e => { console.error(e.message); process.exit(1) }' "$URL"`},
		tool{"Go", "/opt/go/bin/go version", `GOPROXY="$URL/go" GOSUMDB=off GOTOOLCHAIN=local GOFLAGS=-modcacherw GOPATH=$PWD/go GOCACHE=$PWD/cache /opt/go/bin/go mod download example.com/demo@v1.0.0`},
		tool{"cargo", "cargo --version", `mkdir src; touch src/lib.rs; printf '[package]\nname = "child"\nversion = "1.0.0"\nedition = "2021"\n[dependencies]\ndemo = { version = "1", registry = "demo" }\n' >Cargo.toml
			CARGO_HOME=$PWD/home CARGO_NET_RETRY=0 CARGO_REGISTRIES_DEMO_INDEX="sparse+$URL/cargo/" cargo fetch --quiet && ls home/registry/cache/*/demo-1.0.0.crate`},
		tool{"Java `URL`", "java -version", fmt.Sprintf(javaFetch, "url")},
		tool{"Java `HttpClient`", "java -version", fmt.Sprintf(javaFetch, "client")},
		tool{"Maven", "mvn --version", fmt.Sprintf(mavenFetch, "mvn")},
		tool{"Maven", "/opt/maven/bin/mvn --version", fmt.Sprintf(mavenFetch, "/opt/maven/bin/mvn")},
	)
}

var versionIn = regexp.MustCompile(`\d+\.\d+`)

// TestLongTools runs each tool and compares the outcome with docs/tools.md. To write the
// table there, run it with UPDATE_TOOLS=1.
func TestLongTools(t *testing.T) {
	require.Long(t)
	w := newWorld(t)
	w.addRepository()
	var table strings.Builder
	table.WriteString("| tool | version | `http://` | `https://`, tunnelled | `https://`, opened | beside it, tunnelled |\n|---|---|---|---|---|---|\n")
	for i, tool := range tools() {
		version, err := w.run(imageEnvironment, "{ "+tool.version+"\n} 2>&1")
		if err != nil {
			t.Fatalf("%s: it cannot be run: %v: %s", tool.name, err, version)
		}
		row := []string{tool.name, versionIn.FindString(version)}
		for j, c := range []struct{ url, opened string }{
			{"http://" + plainHost, withoutOpened}, {"https://" + publicHost, withoutOpened}, {"https://" + openedHost, withOpened}, {"https://" + publicHost, withOpened},
		} {
			row = append(row, w.try(tool, fmt.Sprintf("/tmp/run-%d-%d", i, j), c.url, c.opened))
		}
		line := "| " + strings.Join(row, " | ") + " |\n"
		t.Log(strings.TrimSpace(line))
		table.WriteString(line)
	}
	compare(t, table.String())
}

// try runs a tool in a new folder, and returns what the table says about the outcome.
func (w *world) try(tool tool, folder, url, opened string) string {
	w.t.Helper()
	host := url[strings.LastIndex(url, "/")+1:]
	w.mu.Lock()
	clear(w.seen)
	w.mu.Unlock()
	env := append(w.environment(opened), "URL="+url, "HOST="+host)
	out, err := w.run(env, "mkdir "+folder+" && cd "+folder+"\n"+tool.fetch)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		return "yes"
	case w.seen[host] && opened == withoutOpened:
		// It came through the proxy, and does not know the authority of the image.
		return "yes, its own authorities"
	}
	w.t.Logf("%s, %s: %v: %s", tool.name, url, err, out[max(0, len(out)-600):])
	if w.seen[host] || opened == withOpened && strings.Contains(strings.ToLower(out), "certificate") {
		return "no: trust"
	}
	return "no"
}

// addRepository makes a git repository and adds its files to the site.
func (w *world) addRepository() {
	w.t.Helper()
	if out, err := w.run(nil, `git init -q -b main /tmp/repo && cd /tmp/repo && git -c user.name=t -c user.email=t@example.com commit -q --allow-empty -m one &&
		git clone -q --bare /tmp/repo /tmp/repo.git && git -C /tmp/repo.git update-server-info`); err != nil {
		w.t.Fatalf("git repository: %v: %s", err, out)
	}
	base := filepath.Join(w.root, "tmp")
	err := filepath.WalkDir(filepath.Join(base, "repo.git"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(base, path)
		w.site.files["/"+name] = fixed(string(content))
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// compare compares the table with the one in docs/tools.md, or writes it there.
func compare(t *testing.T, table string) {
	t.Helper()
	const begin, end = "<!-- table: go test ./test/long/tools -->\n", "<!-- end of the table -->\n"
	path := filepath.Join("..", "..", "..", "docs", "tools.md")
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(page), begin)
	old, tail, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("docs/tools.md: got no table between %q and %q", begin, end)
	}
	if os.Getenv("UPDATE_TOOLS") == "1" {
		if err := os.WriteFile(path, []byte(head+begin+table+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if old != table {
		t.Errorf("docs/tools.md: got a table that differs from the run; write it with UPDATE_TOOLS=1:\n%s", table)
	}
}
