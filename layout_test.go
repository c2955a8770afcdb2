// Package p2pfs_test holds the tests of the module as a whole: that packages
// import downwards only, that each heavy dependency has one door, and that
// every package says what it is.
package p2pfs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/p2pfs/p2pfs"

// levels is the diagram: a package may import those of lower lines, never its
// own line's or a higher one's. What is among the tools serves tests and
// developers; nothing imports it but tests.
var levels = [][]string{
	{"cmd/p2pfs"},
	{"control"},
	{"node"},
	{"repair"},
	{"dht"},
	{"swarm"},
	{"volume", "wire", "store"},
	{"pack"},
	{"chunk", "erasure", "member"},
	{"internal/digest"},
}

// tools are the packages that look at the others from outside.
var tools = []string{"internal/bench", "internal/cmd/oracle", "internal/gotest", "internal/oracle", "internal/sim", "internal/simnet", "internal/testnet"}

// doors says which packages import a module; tests may, where they make what
// the package under test is given.
var doors = map[string][]string{
	"github.com/libp2p/go-libp2p":            {"dht", "internal/bench", "internal/simnet", "node", "swarm"},
	"github.com/libp2p/go-libp2p-kad-dht":    {"dht"},
	"github.com/libp2p/go-yamux":             {"swarm"},
	"github.com/libp2p/zeroconf":             {"swarm"},
	"github.com/multiformats/go-multiaddr":   {"dht", "node", "swarm"},
	"github.com/multiformats/go-multihash":   {"dht"},
	"github.com/ipfs/go-cid":                 {"dht"},
	"github.com/ipfs/go-datastore":           {"dht", "store"},
	"github.com/dgraph-io/badger":            {"store"},
	"github.com/klauspost/reedsolomon":       {"erasure"},
	"github.com/PlakarKorp/go-cdc-chunkers":  {"chunk"},
	"github.com/hashicorp/golang-lru/v2":     {"volume"},
	"github.com/klauspost/compress":          {"chunk"},
	"github.com/zeebo/blake3":                {"internal/digest"},
	"lukechampine.com/blake3":                {"internal/digest"},
	"github.com/fxamacker/cbor":              {"volume"},
	"github.com/spf13/cobra":                 {"cmd/p2pfs"},
	"github.com/spf13/pflag":                 {"cmd/p2pfs"},
	"github.com/BurntSushi/toml":             {"cmd/p2pfs"},
	"github.com/cheggaaa/pb":                 {"cmd/p2pfs"},
	"github.com/dustin/go-humanize":          {"cmd/p2pfs"},
	"golang.org/x/term":                      {"cmd/p2pfs"},
	"github.com/prometheus/client_golang":    {"node"},
	"github.com/marcopolo/simnet":            {"internal/simnet"},
	"github.com/rogpeppe/go-internal":        {}, // tests only, and so below
	"github.com/google/go-cmp":               {},
	"pgregory.net/rapid":                     {},
	"github.com/anishathalye/porcupine":      {},
	"go.uber.org/goleak":                     {},
	"github.com/libp2p/go-libp2p-kbucket":    {"dht"},
	"github.com/ipfs/boxo":                   {"dht"},
	"github.com/libp2p/go-libp2p-record":     {"dht"},
	"github.com/libp2p/go-libp2p-xor":        {"dht"},
	"github.com/ipfs/go-libdht":              {"dht"},
	"github.com/probe-lab/go-libdht":         {"dht"},
	"github.com/libp2p/go-msgio":             {"swarm"},
	"github.com/multiformats/go-multistream": {"swarm"},
}

// reasons says why each direct module of go.mod is there.
var reasons = map[string]string{
	"github.com/BurntSushi/toml":            "config.toml: comments, no dependencies",
	"github.com/PlakarKorp/go-cdc-chunkers": "content-defined chunking, kept and fast",
	"github.com/anishathalye/porcupine":     "histories of concurrent operations, in tests: is there an order of them",
	"github.com/cheggaaa/pb/v3":             "the progress bar",
	"github.com/dgraph-io/badger/v4":        "blocks, manifests and what is known of holders on disk",
	"github.com/dustin/go-humanize":         "sizes for people",
	"github.com/fxamacker/cbor/v2":          "deterministic CBOR for entries, with limits",
	"github.com/google/go-cmp":              "differences in tests",
	"github.com/ipfs/go-cid":                "the DHT's provider keys",
	"github.com/ipfs/go-datastore":          "what the DHT keeps its records in; store is one",
	"github.com/hashicorp/golang-lru/v2":    "what was used lately, kept within a bound",
	"github.com/klauspost/compress":         "zstd",
	"github.com/klauspost/reedsolomon":      "Reed-Solomon at memory speed",
	"github.com/libp2p/go-libp2p":           "transport, identity, NAT traversal, resource limits",
	"github.com/libp2p/go-libp2p-kad-dht":   "Kademlia, with its sweeping provider",
	"github.com/libp2p/go-libp2p-kbucket":   "Kademlia's distance, the DHT's own",
	"github.com/libp2p/go-yamux/v5":         "settings of the stream multiplexer",
	"github.com/libp2p/zeroconf/v2":         "mDNS, also for those who only look",
	"github.com/marcopolo/simnet":           "simulated links under QUIC, in tests",
	"github.com/multiformats/go-multiaddr":  "libp2p's addresses",
	"github.com/multiformats/go-multihash":  "the DHT's keys",
	"github.com/prometheus/client_golang":   "metrics, in the graph with libp2p anyway",
	"github.com/rogpeppe/go-internal":       "command-line tests as scripts",
	"github.com/spf13/cobra":                "commands, flags, completion",
	"github.com/zeebo/blake3":               "BLAKE3 at 3.6 GB/s a core",
	"go.uber.org/goleak":                    "tests that no goroutine outlives its starter",
	"golang.org/x/sync":                     "errgroup: whoever starts a goroutine waits for it",
	"golang.org/x/sys":                      "locks and disk space, per system",
	"golang.org/x/term":                     "is this a terminal",
	"lukechampine.com/blake3":               "Bao: proofs of single chunks of what has a BLAKE3 digest",
	"pgregory.net/rapid":                    "property tests that shrink",
}

// A source is a file of the module as far as its layout goes.
type source struct {
	path    string // slash-separated, from the module's root
	pkg     string // its folder, "." for the root
	test    bool
	imports []string
	doc     string // the package comment
}

// sources parses every Go file of the module.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != "." && (name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")) {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		p = filepath.ToSlash(p)
		s := source{path: p, pkg: path.Dir(p), test: strings.HasSuffix(p, "_test.go"), doc: comment(f)}
		for _, i := range f.Imports {
			v, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			s.imports = append(s.imports, v)
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("found only %d Go files: the test does not see the module", len(all))
	}
	return all
}

func comment(f *ast.File) string {
	if f.Doc == nil {
		return ""
	}
	return f.Doc.Text()
}

// level gives the line of the diagram a package stands on, 0 at the bottom.
func level(pkg string) (int, bool) {
	for i, line := range levels {
		if slices.Contains(line, pkg) {
			return len(levels) - 1 - i, true
		}
	}
	return 0, false
}

func TestImportsGoDownwards(t *testing.T) {
	for _, s := range sources(t) {
		if s.pkg == "." {
			continue
		}
		tool := slices.Contains(tools, s.pkg)
		from, ok := level(s.pkg)
		if !ok && !tool {
			t.Errorf("%s: package %s has no place in the diagram of layout_test.go", s.path, s.pkg)
			continue
		}
		for _, i := range s.imports {
			pkg, ours := strings.CutPrefix(i, module+"/")
			if !ours {
				continue
			}
			if slices.Contains(tools, pkg) {
				if !tool && !s.test {
					t.Errorf("%s imports %s, which is for tests", s.path, pkg)
				}
				continue
			}
			to, ok := level(pkg)
			switch {
			case tool, s.test && pkg == s.pkg: // a test from outside its package
			case !ok:
				t.Errorf("%s imports %s, which has no place in the diagram", s.path, pkg)
			case to >= from:
				t.Errorf("%s imports %s: imports go downwards only", s.path, pkg)
			}
		}
	}
}

func TestHeavyDependenciesHaveOneDoor(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		for _, i := range s.imports {
			first, _, _ := strings.Cut(i, "/")
			if !strings.Contains(first, ".") || i == module || strings.HasPrefix(i, module+"/") ||
				strings.HasPrefix(i, "golang.org/x/sync/") || strings.HasPrefix(i, "golang.org/x/sys/") {
				continue
			}
			through, ok := door(i)
			if !ok {
				t.Errorf("%s imports %s, which has no door in layout_test.go", s.path, i)
			} else if !slices.Contains(through, s.pkg) {
				t.Errorf("%s imports %s, whose door is %v", s.path, i, through)
			}
		}
	}
}

// door gives the packages that may import i.
func door(i string) ([]string, bool) {
	for prefix, through := range doors {
		if i == prefix || strings.HasPrefix(i, prefix+"/") {
			return through, true
		}
	}
	return nil, false
}

func TestEveryPackageHasAComment(t *testing.T) {
	docs := map[string][]string{}
	for _, s := range sources(t) {
		if s.test && s.pkg != "." {
			continue
		}
		docs[s.pkg] = append(docs[s.pkg], "")
		if s.doc != "" {
			docs[s.pkg] = append(docs[s.pkg], s.doc)
		}
	}
	for pkg, ds := range docs {
		slices.Sort(ds)
		d := ds[len(ds)-1]
		want := "Package " + path.Base(pkg) + " "
		switch {
		case pkg == ".":
			want = "Package p2pfs_test "
		case slices.Contains([]string{"cmd/p2pfs", "internal/bench", "internal/cmd/oracle", "internal/gotest", "internal/sim"}, pkg):
			want = "Command " + path.Base(pkg) + " "
		}
		if len(ds) > 1 && ds[len(ds)-2] != "" {
			t.Errorf("package %s has two package comments", pkg)
		}
		if !strings.HasPrefix(d, want) || len(d) < 80 {
			t.Errorf("package %s: got comment %q, want one that begins with %q and tells what it is", pkg, d, want)
		}
	}
}

func TestEveryModuleHasAReason(t *testing.T) {
	b, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	direct := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) == 2 && strings.HasPrefix(fields[1], "v") {
			direct[fields[0]] = true
			if reasons[fields[0]] == "" {
				t.Errorf("go.mod requires %s, and layout_test.go has no reason for it", fields[0])
			}
		}
	}
	if len(direct) < 10 {
		t.Fatalf("found only %d modules in go.mod", len(direct))
	}
}
