//go:build linux

package testnet_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/chunk"
	"github.com/p2pfs/p2pfs/internal/oracle"
	"github.com/p2pfs/p2pfs/internal/testnet"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/volume"
)

// What commands on volumes say with --json, as far as tests look at it.
type (
	head struct {
		Number   uint64
		Hash     string
		Peer     string
		Snapshot bool
		Current  bool
	}
	added struct {
		Number uint64
		Packs  int
		Lost   int
	}
	pruned struct {
		Kept, Removed, Dying, Dropped, Untold int
	}
	intoVolume struct { // a put
		Link  string
		Place string
		Head  uint64
	}
)

// log gives the heads of a volume, the newest first.
func log(t *testing.T, h *testnet.Home, name string) (heads []head) {
	t.Helper()
	h.Run(t, "volume", "log", "--json", name).JSON(&heads)
	return heads
}

// write makes a file with all directories above it.
func write(t *testing.T, path string, content io.Reader) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, content); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// papers makes a small tree, named papers, with something of all kinds in it.
func papers(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "papers")
	for i := range 24 {
		write(t, filepath.Join(dir, fmt.Sprintf("2025/%02d/page %d.txt", i%5, i)), random(uint64(100+i), int64(1)<<(i%18)))
	}
	write(t, filepath.Join(dir, "scan.tif"), random(99, size(3<<20, 256<<20)))
	write(t, filepath.Join(dir, "read me"), strings.NewReader("as it was\n"))
	write(t, filepath.Join(dir, "plans", "old"), strings.NewReader("goes\n"))
	for name, target := range map[string]string{"newest": "2025/04", "nowhere": "/not/there"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// copyOf gives a copy of a tree, times and modes included.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(dir))
	if b, err := exec.Command("cp", "-a", dir, out).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return out
}

// fetch gets a source into a fresh directory and gives its path there.
func fetch(t *testing.T, h *testnet.Home, source string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	h.Run(t, "get", source, "-o", out)
	return out
}

// packsOf gives the IDs of the packs of a source.
func packsOf(t *testing.T, h *testnet.Home, source string) (ids []string) {
	t.Helper()
	v := health(t, h, source)
	if len(v.Worst) != v.Packs {
		t.Fatalf("health of %.30s: %d packs, %d listed", source, v.Packs, len(v.Worst))
	}
	for _, p := range v.Worst {
		ids = append(ids, p.ID)
	}
	return ids
}

// without gives those of all that are not in others.
func without(all, others []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(x string) bool { return slices.Contains(others, x) })
}

// Nothing is left of the home that wrote a volume, nor of any node that was
// there then, and with two links a new home has it all again: trees, what they
// were before, plain puts, and the rights to go on.
func TestEverythingComesBackFromAWriteLink(t *testing.T) {
	// A third: 4 of 12, of the 10 shards of a pack 6 are left. In the short test
	// 2 of 6, of 5 shards 3 are left.
	nodes, wave := 12, 4
	if testing.Short() {
		nodes, wave = 6, 2
	}
	net := testnet.New(t, nodes, testnet.Options{Flags: healing})
	began := time.Now()
	lap := func(format string, args ...any) {
		t.Helper()
		t.Logf("%6.1fs %s", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	home := net.Client()
	home.Run(t, "volume", "create", "docs")
	dir := papers(t)
	was := copyOf(t, dir)
	var first, second intoVolume
	home.Run(t, "put", "--json", dir, "docs:in").JSON(&first)
	write(t, filepath.Join(dir, "read me"), strings.NewReader("as it is\n"))
	write(t, filepath.Join(dir, "new", "page.txt"), random(98, 40_000))
	if err := os.RemoveAll(filepath.Join(dir, "plans")); err != nil {
		t.Fatal(err)
	}
	home.Run(t, "put", "--json", dir, "docs:in").JSON(&second)
	if second.Head != first.Head+1 || second.Place != "docs:in/papers" {
		t.Errorf("got %+v after %+v", second, first)
	}
	plain := []string{file(t, "letter", 90, 300_000), file(t, "film", 91, 1<<20)}
	var letter, film intoVolume
	home.Run(t, "put", "--json", plain[0]).JSON(&letter)
	home.Run(t, "put", "--json", plain[1]).JSON(&film)
	names := []string{"mine", "docs"}
	rights, verify := map[string]string{}, map[string]string{}
	for _, name := range names {
		rights[name] = home.Run(t, "volume", "link", name, "--write").MustLine()
		verify[name] = home.Run(t, "volume", "link", name, "--verify").MustLine()
	}
	logged := log(t, home, "docs")
	lap("written by a home that goes now")
	if err := os.RemoveAll(home.Dir); err != nil {
		t.Fatal(err)
	}

	originals := slices.Clone(net.Nodes)
	left := func() int {
		return len(slices.DeleteFunc(slices.Clone(originals), func(n *testnet.Node) bool { return !n.Up() }))
	}
	for left() > 0 {
		oldest := net.Up()[:wave]
		net.Kill(oldest...)
		for _, n := range oldest {
			n.Wipe()
		}
		net.Add(wave)
		for _, name := range names {
			healed(t, net, verify[name])
		}
		lap("%d of the first %d nodes left", left(), nodes)
		if testing.Short() {
			break
		}
	}

	home = net.Client()
	for _, name := range names {
		var a added
		home.Run(t, "volume", "add", "--json", rights[name], name).JSON(&a)
		if a.Packs < 3 || a.Lost != 0 {
			t.Errorf("add %s: got %+v, want all packs taken over", name, a)
		}
	}
	sameTree(t, fetch(t, home, "docs:in/papers"), dir)
	sameTree(t, fetch(t, home, fmt.Sprintf("docs@%d:in/papers", first.Head)), was)
	if got := log(t, home, "docs"); !slices.Equal(got, logged) {
		t.Errorf("log: got %+v, want %+v", got, logged)
	}
	same(t, fetch(t, home, letter.Place), plain[0])
	same(t, fetch(t, home, film.Place), plain[1])
	get(t, home, film.Link, plain[1])
	lap("a new home has all of it")

	// The rights. To write:
	more := file(t, "more", 92, 200_000)
	var third intoVolume
	home.Run(t, "put", "--json", more, "docs:in").JSON(&third)
	if third.Head != second.Head+1 {
		t.Errorf("got %+v, want it to follow %+v", third, second)
	}
	same(t, fetch(t, &net.Up()[0].Home, third.Link), more)

	// To delete: rm LINK what the lost home put, prune what nothing refers to.
	up := &net.Up()[0].Home
	letters := packsOf(t, up, letter.Link)
	home.Run(t, "rm", letter.Link)
	home.Want(t, 11, "cat", letter.Place)
	refused(t, up, 11, letter.Link)
	same(t, fetch(t, home, film.Place), plain[1])
	home.Run(t, "rm", "docs:in/papers")
	before := packsOf(t, up, verify["docs"])
	var p pruned
	home.Run(t, "volume", "prune", "docs", "--keep-last", "1", "--now", "--json").JSON(&p)
	after := packsOf(t, up, verify["docs"])
	dropped := without(before, after)
	if p.Kept != 1 || p.Untold != 0 || p.Dropped == 0 || p.Dropped != len(dropped) {
		t.Errorf("prune: got %+v, and %d packs fewer", p, len(dropped))
	}
	home.Want(t, 11, "cat", fmt.Sprintf("docs@%d:in/papers/read me", first.Head))
	same(t, fetch(t, home, "docs:in/more"), more)
	lap("written, removed, pruned: %+v", p)

	gone := slices.Concat(letters, dropped)
	dirs := []string{}
	for _, n := range net.Up() {
		testnet.Wait(t, n.Name+" to count what is deleted no more", func() bool {
			return !slices.ContainsFunc(health(t, &n.Home, "").Worst, func(p testnet.PackHealth) bool { return slices.Contains(gone, p.ID) })
		})
		dirs = append(dirs, n.Dir)
	}
	judged(t, net, verify["mine"])
	r, err := oracle.Judge(t.Context(), dirs...)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range gone {
		if p, ok := r.Pack(id); ok {
			t.Errorf("pack %.8s is there, though deleted: %+v", id, p)
		}
	}
	for _, id := range after {
		if p, ok := r.Pack(id); !ok || p.Survives < 1 {
			t.Errorf("pack %.8s of the volume: got %+v", id, p)
		}
	}
	lap("judged: nothing is left of %d packs", len(gone))
}

// A write link takes growth along: the node of the home that has it moves what
// another home has put to more redundancy as the network grows.
func TestPacksGrowForWhoHasTheWriteLink(t *testing.T) {
	net := testnet.New(t, 4, testnet.Options{Node: func(i int) []string {
		if i < 4 {
			return nil
		}
		return []string{"--settle", "6s"}
	}})
	home := net.Client()
	home.Run(t, "volume", "create", "docs")
	path := file(t, "file", 93, 400_000)
	home.Run(t, "put", path, "docs:")
	link := home.Run(t, "volume", "link", "docs", "--write").MustLine()
	if err := os.RemoveAll(home.Dir); err != nil {
		t.Fatal(err)
	}
	reader := &net.Nodes[0].Home
	if h := health(t, reader, link); h.Packs < 3 || h.Survives != 2 {
		t.Fatalf("got %+v, want all packs to survive 2 losses", h)
	}

	node := net.Add(1)[0] // the fifth, which 2 of 5 takes
	var a added
	node.Run(t, "volume", "add", "--json", link, "theirs").JSON(&a)
	if a.Packs < 3 || a.Lost != 0 {
		t.Fatalf("add: got %+v, want all packs taken over", a)
	}
	began := time.Now()
	testnet.WaitEvery(t, time.Second, "all packs to survive 3 losses", func() bool { return health(t, reader, link).Survives >= 3 })
	t.Logf("all packs grown after %.1f s", time.Since(began).Seconds())
	net.Kill(net.Nodes[1:4]...)
	same(t, fetch(t, reader, link+"/file"), path)
}

// markedTree makes a tree with the marker in all that a tree has: names,
// contents, extended attributes, targets of links.
func markedTree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), marker)
	for _, name := range []string{"tiny", "large"} {
		path := filepath.Join(dir, "dir "+marker, marker+" "+name)
		write(t, path, strings.NewReader(marker)) // in its entry
		if name == "large" {
			if err := os.Rename(marked(t, 1<<20), path); err != nil {
				t.Fatal(err)
			}
		}
		for attr, value := range map[string]string{"user." + marker: "x", "user.y": marker} {
			if err := syscall.Setxattr(path, attr, []byte(value), 0); err != nil {
				t.Logf("no extended attributes here: %v", err)
			}
		}
	}
	if err := os.Symlink("/"+marker, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Who keeps a volume learns nothing of it: no name in it, no content, no
// attribute, no target, nor what anybody calls the volume. Nor does the disk of
// who works with it, but for the file that is called as the volume is there.
func TestHoldersLearnNothingOfVolumes(t *testing.T) {
	net := testnet.New(t, 4, testnet.Options{})
	client := net.Client()
	name, dir := lowerMarker, markedTree(t)
	client.Run(t, "volume", "create", name)
	client.Run(t, "put", dir, name+":"+marker)

	reader, writer, holder := net.Nodes[1], net.Nodes[2], net.Nodes[3]
	reader.Run(t, "volume", "add", client.Run(t, "volume", "link", name).MustLine(), name)
	writer.Run(t, "volume", "add", client.Run(t, "volume", "link", name, "--write").MustLine(), name)
	in := name + ":" + marker + "/" + marker
	writer.Run(t, "put", filepath.Join(dir, "dir "+marker, marker+" large"), in)
	writer.Run(t, "mv", in+"/link", in+"/"+marker)
	writer.Run(t, "mkdir", name+":"+marker+"/"+marker+" 2")
	writer.Run(t, "link", in+"/dir "+marker)
	writer.Run(t, "rm", in+"/dir "+marker)
	writer.Run(t, "volume", "prune", name, "--keep-last", "2", "--now")
	writer.Run(t, "put", dir) // into mine
	for _, h := range []*testnet.Home{client, &reader.Home, &writer.Home} {
		if out := h.Run(t, "ls", "-R", name+":").Out; strings.Count(out, marker) < 4 {
			t.Errorf("%s: ls -R: got %q, want the marker in it", h.Name, out)
		}
		h.Run(t, "volume", "log", name)
		fetch(t, h, in+"/"+marker+" large")
	}

	net.Stop(net.Nodes...)
	rights := map[*testnet.Home]bool{client: true, &reader.Home: true, &writer.Home: true}
	for _, h := range []*testnet.Home{client, &net.Nodes[0].Home, &reader.Home, &writer.Home, &holder.Home} {
		paths, searched := found(t, h.Dir)
		if rights[h] {
			i := slices.IndexFunc(paths, func(p string) bool { return strings.HasSuffix(p, "/volumes/"+name) })
			if i < 0 {
				t.Fatalf("%s: its volume is not among %v", h.Name, paths)
			}
			if b, err := os.ReadFile(paths[i]); err != nil || plain(b) {
				t.Errorf("%s: %s: %v, or the marker is in it", h.Name, paths[i], err)
			}
			paths = slices.Delete(paths, i, i+1)
		}
		if len(paths) > 0 {
			t.Errorf("%s: the marker is in %v", h.Name, paths)
		}
		if h != client && searched < 1<<20 {
			t.Errorf("%s: only %d bytes were searched", h.Name, searched)
		}
	}
	for _, n := range net.Nodes {
		if plain([]byte(n.Log())) {
			t.Errorf("%s logged the marker", n.Name)
		}
	}
}

// What stands in the packs of a volume, not sealed: the search finds names,
// attributes and targets in it, so it would have in the stores.
func TestTheMarkerShowsWhereTreesAreNotSealed(t *testing.T) {
	t.Parallel()
	keys := new(volume.Seed).Keys()
	packs := plainSink{}
	info := volume.Info{Name: marker + " file"}
	ref, _, _, err := volume.WriteFile(t.Context(), packs, &keys, info, strings.NewReader(""), volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	sealed := packs[ref.Pack][ref.Off:][:ref.Len]
	open, err := chunk.Open(nil, &ref.Key, sealed, int(ref.Size))
	if err != nil {
		t.Fatal(err)
	}
	if plain(sealed) || !plain(open) {
		t.Errorf("sealed %q, open %q: want the marker in the latter only", sealed, open)
	}
}

// plainSink keeps packs.
type plainSink map[pack.ID][]byte

func (s plainSink) PutPack(_ context.Context, data []byte, _ bool, release func()) (pack.ID, error) {
	id := pack.IDOf(pack.Owner{}, pack.NewContent(data).Hash())
	s[id] = bytes.Clone(data)
	release()
	return id, nil
}

func (plainSink) Wait(context.Context) error { return nil }

// Nothing plain of a volume leaves the process that writes it.
func TestNothingPlainOfVolumesIsWritten(t *testing.T) {
	t.Parallel()
	net := testnet.New(t, 2, testnet.Options{})
	client := net.Client()
	dir := markedTree(t)
	writesNothingPlain(t, client, 300<<10, func() {
		client.Run(t, "volume", "create", lowerMarker)
		client.Run(t, "put", dir, lowerMarker+":")
		client.Run(t, "mv", lowerMarker+":"+marker, lowerMarker+":2 "+marker)
		client.Run(t, "rm", lowerMarker+":2 "+marker)
	})
}

// A bundle is a directory of a few files, all of one version: whether a change
// of it was made whole shows. Bundles of a test are numbered.
const bundleFiles = 3

// bundles makes the bundles of a test, and knows them again.
type bundles struct {
	dir  string
	made map[[sha256.Size]byte]string // content: "bundle/version/file"
}

func newBundles(t *testing.T) *bundles {
	return &bundles{dir: t.TempDir(), made: make(map[[sha256.Size]byte]string)}
}

// bundleName names a bundle in a volume.
func bundleName(i int) string { return fmt.Sprintf("%03d", i) }

// make gives the path of a bundle in a version.
func (b *bundles) make(t *testing.T, i, version int) string {
	t.Helper()
	dir := filepath.Join(b.dir, strconv.Itoa(version), bundleName(i))
	for f := range bundleFiles {
		content, err := io.ReadAll(random(uint64(i*1000+version*10+f), []int64{100, 6_000, 90_000}[f]))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, strconv.Itoa(f)), bytes.NewReader(content))
		b.made[sha256.Sum256(content)] = fmt.Sprintf("%d/%d/%d", i, version, f)
	}
	return dir
}

// shared is a directory of files, not of bundles.
const shared = "shared"

// in gives the places and versions, PLACE=VERSION, of all bundles in the
// directories below root, by their numbers. It fails where one is not whole.
func (b *bundles) in(t *testing.T, root string) map[int]string {
	t.Helper()
	all := make(map[int]string)
	places, err := filepath.Glob(filepath.Join(root, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, place := range places {
		rel, _ := filepath.Rel(root, place)
		if filepath.Dir(rel) == shared {
			continue
		}
		i, err := strconv.Atoi(filepath.Base(place))
		files, rerr := os.ReadDir(place)
		if err != nil || rerr != nil || len(files) != bundleFiles {
			t.Errorf("%s: %v, %v, with %d files: not a whole bundle", rel, err, rerr, len(files))
			continue
		}
		version := ""
		for f, e := range files {
			content, err := os.ReadFile(filepath.Join(place, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			was := strings.Split(b.made[sha256.Sum256(content)]+"//", "/")
			if was[0] != strconv.Itoa(i) || was[2] != strconv.Itoa(f) || f > 0 && was[1] != version {
				t.Errorf("%s/%s is file %v, after one of version %q", rel, e.Name(), was, version)
			}
			version = was[1]
		}
		all[i] = strings.TrimSpace(all[i] + " " + rel + "=" + version)
	}
	return all
}

// A writer that is killed at any moment leaves the volume as it was or as it was
// to become. Who reads never goes back, and misses nothing of what was
// acknowledged; who writes goes on.
func TestKilledInMidCommit(t *testing.T) {
	r := seeded(t)
	kills := int(size(15, 100))
	if testing.Short() {
		kills = 5
	}
	net := testnet.New(t, 5, testnet.Options{})
	writer, reader := net.Client(), &net.Nodes[0].Home
	writer.Run(t, "volume", "create", "docs")
	right := writer.Run(t, "volume", "link", "docs", "--write").MustLine()
	reader.Run(t, "volume", "add", writer.Run(t, "volume", "link", "docs").MustLine(), "docs")

	all := newBundles(t)
	may := make(map[int][]string) // what may be there of each
	for i := range kills {
		all.make(t, i, 1)
		may[i] = []string{fmt.Sprintf("in/%s=1", bundleName(i))}
	}
	if err := os.Rename(filepath.Join(all.dir, "1"), filepath.Join(all.dir, "in")); err != nil {
		t.Fatal(err)
	}
	writer.Run(t, "put", filepath.Join(all.dir, "in"), "docs:")
	took := writer.Run(t, "mkdir", "docs:out").Seconds

	var newest uint64
	check := func(h *testnet.Home) {
		t.Helper()
		heads := log(t, h, "docs")
		if heads[0].Number < newest {
			t.Errorf("head %d after %d", heads[0].Number, newest)
		}
		newest = heads[0].Number
		is := all.in(t, fetch(t, h, "docs:"))
		for i, want := range may {
			if !slices.Contains(want, is[i]) {
				t.Errorf("bundle %d: got %q, want one of %q", i, is[i], want)
				continue
			}
			may[i] = []string{is[i]} // from now on
			if k := slices.Index(want, is[i]); k == 0 && len(want) > 1 {
				may[i] = want // it may still come, with the next merge
			}
		}
		for i := range is {
			if may[i] == nil {
				t.Errorf("bundle %d is there: %q", i, is[i])
			}
		}
		past := heads[r.IntN(len(heads))]
		h.Run(t, "ls", "-R", fmt.Sprintf("docs@%d-%s:", past.Number, past.Hash))
	}
	outcomes := make(map[string]int)
	for i := range kills {
		now, name := may[i][0], bundleName(i)
		then, args := now, []string(nil)
		switch i % 5 {
		case 0:
			then, args = "in/"+name+"=2", []string{"put", all.make(t, i, 2), "docs:in"}
		case 1:
			then, args = "out/"+name+"=1", []string{"mv", "docs:in/" + name, "docs:out"}
		case 2:
			then, args = "", []string{"rm", "docs:in/" + name}
		case 3:
			args = []string{"volume", "prune", "docs", "--keep-last", "3", "--now"}
		case 4:
			now, then, args = "", fmt.Sprintf("out/%s=1", bundleName(kills+i)), []string{"put", all.make(t, kills+i, 1), "docs:out"}
		}
		n := i
		if i%5 == 4 {
			n = kills + i
		}
		cmd := writer.Command(t.Context(), args...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		delay := time.Duration((0.2 + 0.9*r.Float64()) * took * float64(time.Second))
		kill := time.AfterFunc(delay, func() { cmd.Process.Kill() })
		began := time.Now()
		cmd.Wait()
		kill.Stop()
		switch code := cmd.ProcessState.ExitCode(); code {
		case 0:
			may[n] = []string{then}
			took = (took + time.Since(began).Seconds()) / 2
			outcomes["ended before"]++
		case -1:
			may[n] = slices.Compact([]string{now, then})
		default:
			t.Errorf("%v: exit code %d: %s", args, code, errs.String())
		}
		check(reader)
		switch killed := cmd.ProcessState.ExitCode() == -1; {
		case killed && now == then:
			outcomes["does not show"]++
		case len(may[n]) > 1:
			outcomes["was not done"]++
		case killed:
			outcomes["was done"]++
		}
		// It goes on.
		k := 2*kills + i
		took = (took + writer.Run(t, "put", all.make(t, k, 1), "docs:out").Seconds) / 2
		may[k] = []string{fmt.Sprintf("out/%s=1", bundleName(k))}
	}
	check(reader)
	t.Logf("of %d commands that were to be killed: %v; head %d", kills, outcomes, newest)

	check(writer)
	heir := net.Client()
	var a added
	heir.Run(t, "volume", "add", "--json", right, "docs").JSON(&a)
	if a.Lost != 0 || a.Number < newest {
		t.Errorf("add: got %+v, want all packs of head %d", a, newest)
	}
	check(heir)
	for _, h := range []*testnet.Home{writer, heir} {
		h.Run(t, "volume", "prune", "docs", "--keep-last", "1", "--now")
		check(reader)
	}
	packs := health(t, reader, "docs:").Worst
	net.Stop(net.Nodes...)
	dirs := []string{}
	for _, n := range net.Nodes {
		dirs = append(dirs, n.Dir)
	}
	report, err := oracle.Judge(t.Context(), dirs...)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packs {
		if is, ok := report.Pack(p.ID); !ok || is.Survives < p.Survives {
			t.Errorf("pack %.8s: got %+v, want %+v", p.ID, is, p)
		}
	}
	t.Logf("%d packs in the volume, %d in the stores", len(packs), len(report.Packs))
}

// A churner is a writer of a volume whose nodes come and go.
type churner struct {
	home   *testnet.Home
	name   string            // of its directory in the volume
	may    map[int][]string  // what may be there of its bundles
	shared map[string]uint64 // what it wrote into the shared directory, and with which head
	failed []string          // commands
}

// try runs a command, and says whether it was acknowledged. What it was to make
// of a bundle is, or else may be, there from then on.
func (c *churner) try(t *testing.T, i int, then string, args ...string) (r testnet.Result, ok bool) {
	r = c.home.Try(t, args...)
	switch r.Code {
	case 0, 3: // 3: on fewer peers than wanted
		ok = true
	case 12, 13: // too few were there
		c.failed = append(c.failed, fmt.Sprintf("%s after %.1fs: exit code %d: %.300s", args[0], r.Seconds, r.Code, r.Err))
	default:
		t.Errorf("%s: %v: exit code %d: %s", c.name, args, r.Code, r.Err)
	}
	switch {
	case i < 0:
	case ok:
		c.may[i] = []string{then}
	default:
		c.may[i] = append(slices.Clone(c.may[i]), then)
	}
	return r, ok
}

// Two write a volume at the same time, one reads it, and nodes come and go. Who
// reads sees all that was acknowledged, and never less than before; in the end it
// is all there, what both wrote at once under two names.
func TestVolumesUnderChurn(t *testing.T) {
	r := seeded(t)
	rounds := int(size(6, 60))
	if testing.Short() {
		rounds = 2
	}
	net := testnet.New(t, 10, testnet.Options{Flags: healing})
	all := newBundles(t)
	writers := []*churner{{home: net.Client(), name: "a"}, {home: net.Client(), name: "b"}}
	reader := net.Client()
	writers[0].home.Run(t, "volume", "create", "docs")
	right := writers[0].home.Run(t, "volume", "link", "docs", "--write").MustLine()
	reader.Run(t, "volume", "add", writers[0].home.Run(t, "volume", "link", "docs").MustLine(), "docs")
	writers[1].home.Run(t, "volume", "add", right, "docs")
	writers[0].home.Run(t, "mkdir", "docs:kept")
	number := func(w, round int) int { return w*rounds + round }
	sharedFile := func(w, round int) string { return filepath.Join(all.dir, shared, strconv.Itoa(w), bundleName(round)) }
	for w, c := range writers {
		c.may, c.shared = make(map[int][]string), make(map[string]uint64)
		for round := range rounds {
			all.make(t, number(w, round), 1)
			all.make(t, number(w, round), 2)
			write(t, sharedFile(w, round), random(uint64(5_000_000+number(w, round)), 3000))
		}
	}

	var acknowledged atomic.Uint64 // the highest head
	var writing, reading sync.WaitGroup
	meet := make(chan struct{})
	for w, c := range writers {
		writing.Go(func() {
			for round := range rounds {
				select { // so that both write at once
				case meet <- struct{}{}:
				case <-meet:
				case <-time.After(testnet.Patience):
				}
				c.round(t, all, round, number(w, round), sharedFile(w, round), &acknowledged)
			}
		})
	}
	done := make(chan struct{})
	reads, refusals := 0, 0
	reading.Go(func() {
		var newest uint64
		var since time.Time // when reads began to fail
		for {
			select {
			case <-done:
				return
			default:
			}
			least := max(newest, acknowledged.Load())
			l := reader.Try(t, "volume", "log", "--json", "docs")
			out := filepath.Join(t.TempDir(), "out")
			g := l
			if l.Code == 0 {
				g = reader.Try(t, "get", "docs:", "-o", out)
			}
			switch {
			case g.Code == 0:
				var heads []head
				l.JSON(&heads)
				if newest = heads[0].Number; newest < least {
					t.Errorf("read head %d after %d", newest, least)
				}
				all.in(t, out)
				os.RemoveAll(out)
				reads++
				since = time.Time{}
			case g.Code != 12 && g.Code != 13:
				t.Errorf("read: exit code %d: %s", g.Code, g.Err)
				return
			case since.IsZero():
				since = time.Now()
				refusals++
			case time.Since(since) > testnet.Patience/2:
				t.Errorf("reads have failed for %v: %s", time.Since(since), g.Err)
				return
			}
		}
	})

	written := make(chan struct{})
	go func() { writing.Wait(); close(written) }()
	pause := func() (over bool) {
		select {
		case <-written:
			return true
		case <-time.After(time.Duration(1000+r.IntN(5000)) * time.Millisecond):
			return false
		}
	}
	kills := 0
	for over := false; !over; over = over || pause() {
		down := []*testnet.Node{}
		for _, i := range r.Perm(len(net.Nodes))[:1+r.IntN(2)] {
			down = append(down, net.Nodes[i])
		}
		if r.IntN(4) > 0 {
			net.Kill(down...)
		} else {
			net.Stop(down...)
		}
		kills += len(down)
		over = pause()
		net.Start(down...)
	}
	close(done)
	reading.Wait()
	t.Logf("%d nodes went and came back; %d reads, %d times none; head %d", kills, reads, refusals, acknowledged.Load())
	for _, c := range writers {
		t.Logf("%s: %d of its commands failed: %q", c.name, len(c.failed), c.failed)
	}

	net.Acquaint()
	heir := net.Client()
	var a added
	heir.Run(t, "volume", "add", "--json", right, "docs").JSON(&a)
	if a.Lost != 0 || a.Number < acknowledged.Load() {
		t.Errorf("add: got %+v, want all packs of head %d", a, acknowledged.Load())
	}
	heir.Run(t, "mkdir", "docs:end") // which merges
	heads := log(t, heir, "docs")
	if !heads[0].Current || len(heads) > 1 && heads[1].Current {
		t.Errorf("got heads %+v, want one that is current", heads[:2])
	}
	out := fetch(t, heir, "docs:")
	is := all.in(t, out)
	for _, c := range writers {
		for i, want := range c.may {
			if !slices.Contains(want, is[i]) {
				t.Errorf("bundle %d: got %q, want one of %q", i, is[i], want)
			}
		}
	}
	want := heir.Run(t, "ls", "-R", "docs:").Out
	for _, h := range []*testnet.Home{reader, writers[0].home, writers[1].home} {
		if got := h.Run(t, "ls", "-R", "docs:").Out; got != want {
			t.Errorf("%s: ls -R: got %q, want %q", h.Name, got, want)
		}
	}
	both := 0
	for round := range rounds {
		both += sharedAtOnce(t, heir, out, heads, bundleName(round), writers, []string{sharedFile(0, round), sharedFile(1, round)})
	}
	t.Logf("of %d names that both wrote, %d are there twice", rounds, both)
}

// round is what a writer does in a round: it writes a name that the other writes
// too, makes a bundle, and changes the one before.
func (c *churner) round(t *testing.T, all *bundles, round, i int, path string, acknowledged *atomic.Uint64) {
	if r, ok := c.try(t, -1, "", "put", "--json", path, "docs:"+shared); ok {
		var res intoVolume
		r.JSON(&res)
		c.shared[bundleName(round)] = res.Head
		for was := acknowledged.Load(); was < res.Head && !acknowledged.CompareAndSwap(was, res.Head); was = acknowledged.Load() {
		}
	}
	name := bundleName(i)
	c.may[i] = []string{""}
	c.try(t, i, c.name+"/"+name+"=1", "put", filepath.Join(all.dir, "1", name), "docs:"+c.name)
	was := i - 1
	if round == 0 || len(c.may[was]) > 1 {
		return
	}
	name = bundleName(was)
	switch round % 3 {
	case 0:
		c.try(t, was, "", "rm", "docs:"+c.name+"/"+name)
	case 1:
		c.try(t, was, "kept/"+name+"=1", "mv", "docs:"+c.name+"/"+name, "docs:kept")
	case 2:
		c.try(t, was, c.name+"/"+name+"=2", "put", filepath.Join(all.dir, "2", name), "docs:"+c.name)
	}
}

// sharedAtOnce looks for what two writers have put under one name in the tree of
// a volume at out: written at once, in heads of one number, both are there, one
// beside the other; written one after the other the later is, and the earlier in
// the past. It gives 1 where both are there.
func sharedAtOnce(t *testing.T, h *testnet.Home, out string, heads []head, name string, writers []*churner, paths []string) (both int) {
	t.Helper()
	there, err := filepath.Glob(filepath.Join(out, shared, name+"*"))
	if err != nil {
		t.Fatal(err)
	}
	var is [2]bool
	for w, path := range paths {
		is[w] = slices.ContainsFunc(there, func(p string) bool { return bytes.Equal(sum(t, p), sum(t, path)) })
	}
	if len(there) > 1 && !slices.ContainsFunc(there, func(p string) bool { return strings.Contains(p, "(conflict ") }) {
		t.Errorf("%s is there as %q, want a conflict named", name, there)
	}
	a, b := writers[0].shared[name], writers[1].shared[name]
	switch {
	case a == b && a != 0 && !(is[0] && is[1]), a > b && !is[0], b > a && !is[1]:
		t.Errorf("%s, written in head %d and %d: got %v in %q", name, a, b, is, there)
	case is[0] && is[1]:
		return 1
	}
	for w, c := range writers {
		n := c.shared[name]
		if n == 0 || is[w] {
			continue
		}
		content, err := os.ReadFile(paths[w])
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(heads, func(x head) bool {
			return x.Number == n && h.Try(t, "cat", fmt.Sprintf("docs@%d-%s:%s/%s", n, x.Hash, shared, name)).Out == string(content)
		}) {
			t.Errorf("%s of %s is not in head %d, where it was acknowledged", name, c.name, n)
		}
	}
	return 0
}
