package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/p2pfs/p2pfs/pack"
)

// leaf is an entry of a tree for tests, with its content.
type leaf struct {
	path string
	e    Entry
	data []byte
	fail error // of its reader, in the middle
}

func (l leaf) reader() io.Reader {
	switch {
	case l.e.Kind != FileEntry:
		return nil
	case l.fail != nil:
		return io.MultiReader(bytes.NewReader(l.data[:len(l.data)/2]), errReader{l.fail})
	}
	return bytes.NewReader(l.data)
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// walkOf gives leaves one after the other.
func walkOf(leaves []leaf) Walk {
	return func(context.Context) (string, Entry, io.Reader, error) {
		if len(leaves) == 0 {
			return "", Entry{}, nil, io.EOF
		}
		l := leaves[0]
		leaves = leaves[1:]
		return l.path, l.e, l.reader(), nil
	}
}

func baseOf(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

func aDir(path string) leaf {
	e := Entry{Kind: DirEntry, Name: baseOf(path), Mode: 0o755, UID: 1000, GID: 100, MTime: time.Unix(1_700_000_000, 7)}
	if path == "" {
		e.Name = "root"
	}
	return leaf{path: path, e: e}
}

func aFile(path string, data []byte) leaf {
	return leaf{path: path, data: data, e: Entry{Kind: FileEntry, Name: baseOf(path), Mode: 0o644, UID: 1000, GID: NoOwner,
		MTime: time.Unix(1_700_000_001, 999_999_999), Size: int64(len(data))}}
}

// everything is a tree with an entry of each kind.
func everything() []leaf {
	link := leaf{path: "link", e: Entry{Kind: SymlinkEntry, Name: "link", Mode: 0o777, Target: "../else\xff where"}}
	fifo := leaf{path: "queue", e: Entry{Kind: FifoEntry, Name: "queue", Mode: 0o600}}
	null := leaf{path: "sub/null", e: Entry{Kind: CharEntry, Name: "null", Mode: 0o666, Device: 1<<8 | 3}}
	disk := leaf{path: "sub/disk", e: Entry{Kind: BlockEntry, Name: "disk", Mode: 0o660, Device: 8 << 8}}
	one, two := aFile("a\nname \xff", content(5000, 0, 1)), aFile("second name", content(5000, 0, 1))
	one.e.Group, two.e.Group = 7, 7
	holes := aFile("sub/holes", make([]byte, 300_000))
	holes.e.Sparse = true
	noted := aFile("sub/noted", []byte("x"))
	noted.e.Xattrs = []Xattr{{Name: []byte("user.a"), Value: []byte("1")}}
	noted.e.Mode = 0o4755
	return []leaf{aDir(""), one, aDir("empty"), link, fifo, two, aDir("sub"), aDir("sub/deep"), aFile("sub/deep/text", []byte("text")), disk, holes,
		noted, null}
}

func writeTree(t testing.TB, p *packs, leaves []leaf, opt Options) (Link, Entry, []pack.ID) {
	t.Helper()
	root, entry, ids, _, err := WriteTree(context.Background(), p, &testKeys, -1, walkOf(leaves), opt)
	if err != nil {
		t.Fatal(err)
	}
	return TreeLink(testNetwork, root), entry, ids
}

func openTree(t testing.TB, p *packs, l Link) *File {
	t.Helper()
	f, err := OpenRoot(context.Background(), p, l)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// readTree gives all of f.
func readTree(f *File, ahead int) ([]leaf, error) {
	var got []leaf
	var bufs []*bytes.Buffer
	err := f.WriteTree(context.Background(), ahead, "", 0, func(p Path) (io.Writer, error) {
		got = append(got, leaf{path: p.Path, e: p.Entry()})
		bufs = append(bufs, new(bytes.Buffer))
		return bufs[len(bufs)-1], nil
	})
	for i, b := range bufs {
		got[i].data = b.Bytes()
	}
	return got, err
}

// plain is what is known of an entry beside what is in it.
func plain(e Entry) Entry {
	e.inline, e.parts, e.depth, e.inventory, e.list = nil, nil, 0, pack.Ref{}, nil
	if e.Kind == DirEntry {
		e.Size, e.Files, e.Bytes = 0, 0, 0
	}
	if len(e.Xattrs) == 0 {
		e.Xattrs = nil
	}
	e.MTime = e.MTime.UTC()
	return e
}

// treeDiff tells in what got is not what is wanted, if anything; dirs' counts are
// not compared.
func treeDiff(got, want []leaf) string {
	var paths [2][]string
	for i, leaves := range [][]leaf{got, want} {
		for _, l := range leaves {
			paths[i] = append(paths[i], l.path)
		}
	}
	if d := cmp.Diff(paths[1], paths[0]); d != "" {
		return d
	}
	for i, w := range want {
		g := got[i]
		if a, b := plain(w.e), plain(g.e); !reflect.DeepEqual(a, b) {
			return fmt.Sprintf("%q (-want +got):\n%s", w.path, cmp.Diff(a, b, cmp.AllowUnexported(Entry{}, part{})))
		}
		if !bytes.Equal(g.data, w.data) {
			return fmt.Sprintf("%q: got %d bytes, want %d, or others", w.path, len(g.data), len(w.data))
		}
	}
	return ""
}

// sameTree fails the test unless f is what leaves are.
func sameTree(t testing.TB, f *File, leaves []leaf, ahead int) {
	t.Helper()
	got, err := readTree(f, ahead)
	if err != nil {
		t.Fatal(err)
	}
	if d := treeDiff(got, leaves); d != "" {
		t.Error(d)
	}
}

func TestGoldenTree(t *testing.T) {
	p := newPacks()
	l, _, _ := writeTree(t, p, everything(), Options{})
	golden(t, "tree.hex", l.String()+"\n")
	sameTree(t, openTree(t, p, l), everything(), 2)
	p.allClosed(t)
}

func TestTreesAreReadAsWritten(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	many := []leaf{aDir("")}
	for i := range 3000 {
		if i%50 == 0 {
			many = append(many, aDir(fmt.Sprintf("%02d", i/50)))
		}
		many = append(many, aFile(fmt.Sprintf("%02d/%04d", i/50, i), content(rng.IntN(3000), byte(i%2), byte(i))))
	}
	wide := []leaf{aDir("")}
	for i := range 20_000 {
		wide = append(wide, aFile(fmt.Sprintf("%06d", i), nil))
	}
	deep := []leaf{aDir("")}
	path := "d"
	for range 300 {
		deep = append(deep, aDir(path))
		path += "/d"
	}
	deep = append(deep, aFile(path, content(1000, 0, 3)))
	blocked := []leaf{aDir(""), aFile("a", content(600, 0, 1))} // its pack is not full for long
	for i := range 20_000 {
		blocked = append(blocked, aFile(fmt.Sprintf("b%06d", i), nil))
	}
	large := []leaf{aDir(""), aFile("a", content(5<<20, 0, 1)), aDir("b"), aFile("b/c", content(12<<20, 2, 2)), aFile("c", content(100, 0, 1))}
	for name, leaves := range map[string][]leaf{
		"root alone": {aDir("")}, "many": many, "wide": wide, "deep": deep, "blocked": blocked, "large": large,
	} {
		t.Run(name, func(t *testing.T) {
			p := newPacks()
			l, e, ids := writeTree(t, p, leaves, Options{PackBytes: smallest})
			f := openTree(t, p, l)
			sameTree(t, f, leaves, 2)
			files, total := int64(0), int64(0)
			for _, l := range leaves {
				if l.e.Kind != DirEntry {
					files++
					total += int64(len(l.data))
				}
			}
			if e.Files != files || e.Bytes != total {
				t.Errorf("got %d files with %d bytes, want %d with %d", e.Files, e.Bytes, files, total)
			}
			got, err := f.Packs(t.Context())
			if err != nil || len(got) != len(ids) || len(got) != len(p.data) {
				t.Errorf("got %d packs, %v; want %d", len(got), err, len(p.data))
			}
			p.allClosed(t)
		})
	}
}

// aTree draws a tree.
func aTree(t *rapid.T) []leaf {
	var below func(path string, depth int) []leaf
	below = func(path string, depth int) (out []leaf) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-c.\x80-\xff]{1,3}`), 0, 6, func(s string) string { return s }).Draw(t, "names")
		slices.Sort(names)
		for _, name := range names {
			if CheckName(name) != nil {
				continue
			}
			switch kind := rapid.IntRange(0, 5).Draw(t, "kind"); {
			case kind == 0 && depth < 5:
				out = append(out, aDir(path+name))
				out = append(out, below(path+name+"/", depth+1)...)
			case kind == 1:
				out = append(out, leaf{path: path + name, e: Entry{Kind: SymlinkEntry, Name: name, Mode: 0o777, Target: "x"}})
			default:
				size := rapid.SampledFrom([]int{0, 1, treeInline, treeInline + 1, 4000, 70_000, 300_000}).Draw(t, "size")
				out = append(out, aFile(path+name, content(size, 0, byte(size))))
			}
		}
		return out
	}
	return append([]leaf{aDir("")}, below("", 0)...)
}

func TestAnyTreeIsReadAsWritten(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		leaves := aTree(r)
		p := newPacks()
		l, _, _ := writeTree(t, p, leaves, Options{PackBytes: smallest})
		again, _, _ := writeTree(t, newPacks(), leaves, Options{PackBytes: smallest})
		if l != again {
			r.Errorf("the same tree twice: two roots")
		}
		f := openTree(t, p, l)
		sameTree(t, f, leaves, 1)
		for _, want := range leaves {
			got, err := f.Lookup(t.Context(), want.path)
			if err != nil || got.Entry().Name != want.e.Name || got.Entry().Kind != want.e.Kind {
				r.Errorf("%q: got %v, %v", want.path, got, err)
			}
		}
		if _, err := f.Lookup(t.Context(), "zz/nothing"); !errors.Is(err, ErrNotFound) {
			r.Errorf("what is not there: got %v, want %v", err, ErrNotFound)
		}
	})
}

func TestWhatCannotBeReadIsLeftOut(t *testing.T) {
	bad := aFile("b/bad", content(9<<20, 0, 1))
	bad.fail = fmt.Errorf("no permission: %w", ErrLeftOut)
	small := aFile("b/small", content(3000, 0, 1))
	small.fail = bad.fail
	leaves := []leaf{aDir(""), aFile("a", content(2000, 0, 2)), aDir("b"), bad, small, aFile("c", content(2000, 0, 3))}
	p := newPacks()
	l, e, _ := writeTree(t, p, leaves, Options{PackBytes: smallest})
	sameTree(t, openTree(t, p, l), []leaf{leaves[0], leaves[1], leaves[2], leaves[5]}, 1)
	if e.Files != 2 {
		t.Errorf("got %d files, want 2", e.Files)
	}

	bad.fail = errors.New("disk on fire")
	_, _, _, _, err := WriteTree(t.Context(), newPacks(), &testKeys, -1, walkOf([]leaf{aDir(""), aDir("b"), bad}), Options{})
	if !errors.Is(err, bad.fail) {
		t.Errorf("got %v, want %v", err, bad.fail)
	}
}

func TestTreeOutOfOrderIsRefused(t *testing.T) {
	renamed := aFile("a", nil)
	renamed.e.Name = "b"
	for name, leaves := range map[string][]leaf{
		"no root":               {},
		"root is a file":        {aFile("", nil)},
		"first is not the root": {aDir("a")},
		"names descend":         {aDir(""), aFile("b", nil), aFile("a", nil)},
		"the same twice":        {aDir(""), aFile("a", nil), aFile("a", nil)},
		"parent is not there":   {aDir(""), aFile("a/b", nil)},
		"parent is a file":      {aDir(""), aFile("a", nil), aFile("a/b", nil)},
		"parent is done":        {aDir(""), aDir("a"), aDir("b"), aFile("a/b", nil)},
		"another name":          {aDir(""), renamed},
		"up":                    {aDir(""), aFile("..", nil)},
		"absolute":              {aDir(""), aFile("/a", nil)},
		"slash at the end":      {aDir(""), aDir("a"), aFile("a/", nil)},
	} {
		p := newPacks()
		if _, _, _, _, err := WriteTree(t.Context(), p, &testKeys, -1, walkOf(leaves), Options{}); err == nil {
			t.Errorf("%s: taken", name)
		}
		p.wg.Wait()
	}
	deep, path := []leaf{aDir("")}, "d"
	for range MaxDepth {
		deep = append(deep, aDir(path))
		path += "/d"
	}
	if _, _, _, _, err := WriteTree(t.Context(), newPacks(), &testKeys, -1, walkOf(deep), Options{}); err == nil {
		t.Error("too deep: taken")
	}
}

// A name more in a directory of many leaves nearly all chunks of its list as
// they were.
func TestListsAreCutWhereNamesSaySo(t *testing.T) {
	cuts := func(skip int) map[string]bool {
		w := newWriter(newPacks(), &testKeys, Info{Size: -1}, Options{})
		if err := w.open(t.Context(), aDir("").e, "", nil); err != nil {
			t.Fatal(err)
		}
		d, at := w.dirs[0], map[string]bool{}
		for i := range 20_000 {
			if i == skip {
				continue
			}
			f := aFile(fmt.Sprintf("%06d", i), nil)
			if err := w.listEntry(t.Context(), d, f.e); err != nil {
				t.Fatal(err)
			}
			if d.bytes == 0 {
				at[f.e.Name] = true
			}
		}
		return at
	}
	a, b := cuts(-1), cuts(10_000)
	both := 0
	for name := range a {
		if b[name] {
			both++
		}
	}
	if len(a) < 10 || both < len(a)-2 {
		t.Errorf("%d chunks, of which %d end at the same names without one of them", len(a), both)
	}
}

// hostileDir gives a tree whose root has the list b, by somebody who has the
// keys.
func hostileDir(t *testing.T, e Entry, b []byte) *File {
	t.Helper()
	e.inline, e.Size = b, int64(len(b))
	return &File{src: newPacks(), root: testRef("root", 1000, 100, 100), entry: e}
}

func TestHostileListsAreRefused(t *testing.T) {
	entry := func(name string, change func(*Entry)) []byte {
		e := aFile(name, nil).e
		e.Name = name
		if change != nil {
			change(&e)
		}
		b, err := e.marshal()
		if err != nil {
			t.Fatal(err)
		}
		b = append([]byte{'p', '2', 'p', 'E', e.version(), byte(e.Kind)}, b...)
		return append([]byte{0, 0, byte(len(b) >> 8), byte(len(b))}, b...)
	}
	two := append(entry("a", nil), entry("b", nil)...)
	for name, c := range map[string]struct {
		list  []byte
		files int64
		ok    bool
	}{
		"good":             {two, 2, true},
		"fewer than said":  {two, 3, false},
		"more than said":   {two, 1, false},
		"descending":       {append(entry("b", nil), entry("a", nil)...), 2, false},
		"the same twice":   {append(entry("a", nil), entry("a", nil)...), 2, false},
		"cut off":          {two[:len(two)-1], 2, false},
		"a byte more":      {append(slices.Clone(two), 0), 2, false},
		"up":               {entry("..", nil), 1, false},
		"absolute":         {entry("/etc/passwd", nil), 1, false},
		"slash":            {entry("a/b", nil), 1, false},
		"ref into itself":  {entry("a", func(e *Entry) { e.Size, e.parts = 10, []part{{Ref: pack.Ref{Off: 1000, Len: 50, Size: 10}, under: 10}} }), 1, false},
		"inventory":        {entry("a", func(e *Entry) { e.inventory = testRef("i", 0, 10, 10) }), 1, false},
		"bytes not said":   {entry("a", func(e *Entry) { e.Size, e.inline = 1, []byte{1} }), 1, false},
		"target of a file": {entry("a", func(e *Entry) { e.Target = "x" }), 1, false},
	} {
		root := aDir("").e
		root.Files = c.files
		n := 0
		var err error
		for f, e := range hostileDir(t, root, c.list).List(t.Context()) {
			if err = e; err == nil && CheckName(f.Entry().Name) != nil {
				t.Errorf("%s: gave %q", name, f.Entry().Name)
			}
			n++
		}
		if c.ok != (err == nil) || err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v after %d entries", name, err, n)
		}
	}
}

func FuzzList(f *testing.F) {
	e := aFile("a", []byte("x")).e
	e.inline = []byte("x")
	b, err := e.appendListed(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0, 0, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		root := aDir("").e
		root.Files, root.Bytes = 1<<40, 1<<60
		n := 0
		for c, err := range hostileDir(t, root, b).List(t.Context()) {
			if err != nil {
				if !errors.Is(err, ErrCorrupt) && !errors.Is(err, pack.ErrVersion) {
					t.Errorf("got %v, want %v", err, ErrCorrupt)
				}
				return
			}
			if CheckName(c.entry.Name) != nil || len(c.entry.Target) > MaxTarget {
				t.Errorf("gave %q to %q", c.entry.Name, c.entry.Target)
			}
			n++
		}
		if len(b) > 0 {
			t.Errorf("%d entries, as few as no root says", n)
		}
	})
}

// smallFiles is a tree of n random files of 4 KiB in directories of 100.
func smallFiles(n int) []leaf {
	leaves := []leaf{aDir("")}
	rng := rand.NewChaCha8([32]byte{5})
	for i := range n {
		if i%100 == 0 {
			leaves = append(leaves, aDir(fmt.Sprintf("%06d", i/100)))
		}
		data := make([]byte, 4096)
		_, _ = rng.Read(data)
		leaves = append(leaves, aFile(fmt.Sprintf("%06d/%06d", i/100, i), data))
	}
	return leaves
}

// Content and metadata of small files, in packs of their own.
func TestSmallFilesSharePacks(t *testing.T) {
	p := newPacks()
	leaves := smallFiles(10_000)
	l, e, ids := writeTree(t, p, leaves, Options{})
	data, meta := 0, 0
	for id, b := range p.data {
		if p.meta[id] {
			meta += len(b)
		} else {
			data += len(b)
		}
	}
	t.Logf("%d files, %d bytes: %d packs, %d bytes of content, %d of metadata", e.Files, e.Bytes, len(ids), data, meta)
	if len(ids) > 4 || float64(data+2*meta) > 1.3*float64(e.Bytes) { // metadata is twice as redundant
		t.Errorf("%d packs with %d and %d bytes for %d files", len(ids), data, meta, e.Files)
	}
	sameTree(t, openTree(t, p, l), leaves, 2)
}

func BenchmarkWriteTree(b *testing.B) {
	leaves := smallFiles(10_000)
	b.SetBytes(10_000 * 4096)
	for b.Loop() {
		writeTree(b, newPacks(), leaves, Options{})
	}
	b.ReportMetric(float64(10_000*b.N)/b.Elapsed().Seconds(), "files/s")
}

func BenchmarkReadTree(b *testing.B) {
	p := newPacks()
	l, _, _ := writeTree(b, p, smallFiles(10_000), Options{})
	b.SetBytes(10_000 * 4096)
	for b.Loop() {
		err := openTree(b, p, l).WriteTree(b.Context(), 2, "", 0, func(Path) (io.Writer, error) { return io.Discard, nil })
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(10_000*b.N)/b.Elapsed().Seconds(), "files/s")
}

// as gives leaves without readers for those files that before has as they are.
func as(before, leaves []leaf) Walk {
	was := map[string]leaf{}
	for _, l := range before {
		was[l.path] = l
	}
	next := walkOf(leaves)
	return func(ctx context.Context) (string, Entry, io.Reader, error) {
		path, e, r, err := next(ctx)
		if b, ok := was[path]; ok && err == nil && b.e.Kind == e.Kind && b.e.Size == e.Size && b.e.MTime.Equal(e.MTime) {
			r = nil
		}
		return path, e, r, err
	}
}

func TestASecondPutStoresWhatIsNew(t *testing.T) {
	leaves := append(smallFiles(2000), aFile("zlarge", content(40<<20, 0, 9)))
	touch := func(i int, data []byte) []leaf {
		out := slices.Clone(leaves)
		out[i].data, out[i].e.Size, out[i].e.MTime = data, int64(len(data)), time.Unix(1_800_000_000, 0)
		return out
	}
	i := len(leaves) - 1
	oneByte := slices.Clone(leaves[i].data)
	oneByte[20<<20]++
	for name, c := range map[string]struct {
		now  []leaf
		most int // bytes that may be new
	}{
		"nothing":        {leaves, 0},
		"one small file": {touch(1000, []byte("new")), 64 << 10},
		"one byte":       {touch(i, oneByte), 12 << 20},
		"a name less":    {slices.Delete(slices.Clone(leaves), 1000, 1001), 64 << 10},
		"a name more":    {append(slices.Clone(leaves), aFile("zz", content(5000, 0, 1))), 64 << 10},
		"another kind":   {append(slices.Clone(leaves[:i]), leaf{path: "zlarge", e: Entry{Kind: SymlinkEntry, Name: "zlarge", Target: "x"}}), 64 << 10},
		"all gone":       {[]leaf{aDir("")}, 64 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPacks()
			l, _, ids := writeTree(t, p, leaves, Options{})
			before := len(p.data)
			opt := Options{Parent: openTree(t, p, l)}
			root, e, written, kept, err := WriteTree(t.Context(), p, &testKeys, -1, as(leaves, c.now), opt)
			if err != nil {
				t.Fatal(err)
			}
			size := 0
			for _, id := range written {
				size += len(p.data[id])
				if slices.Contains(ids, id) {
					t.Errorf("pack %s was there before", id.Short())
				}
			}
			for _, id := range kept {
				if !slices.Contains(ids, id) {
					t.Errorf("pack %s was not there before", id.Short())
				}
			}
			t.Logf("%d packs with %d bytes are new, %d of %d are kept", len(written), size, len(kept), before)
			if size > c.most {
				t.Errorf("%d bytes are new, want %d at most", size, c.most)
			}
			f := openTree(t, p, TreeLink(testNetwork, root))
			got, err := f.Packs(t.Context())
			if err != nil || len(got) != len(written)+len(kept) {
				t.Errorf("got %d packs, %v, want %d and %d", len(got), err, len(written), len(kept))
			}
			for id := range p.data { // what the inventory lists is enough
				if !slices.Contains(got, id) {
					delete(p.data, id)
				}
			}
			sameTree(t, f, c.now, 1)

			// A third put of the same stores nothing.
			_, again, written, _, err := WriteTree(t.Context(), p, &testKeys, -1, as(c.now, c.now), Options{Parent: f})
			if err != nil || again.Files != e.Files || again.Bytes != e.Bytes || len(written) != 0 {
				t.Errorf("third put: got %d packs, %d files, %v", len(written), again.Files, err)
			}
			p.allClosed(t)
		})
	}
}

// Of a directory in which nothing changes no list is written again, though the lists
// of those in it are in the pack that its own is in; and where something does, none
// but those above it.
func TestWhatIsAsItWasIsTakenOverWhole(t *testing.T) {
	leaves := []leaf{aDir("")}
	for i := range 300 {
		top := fmt.Sprintf("%03d", i/50)
		if i%50 == 0 {
			leaves = append(leaves, aDir(top))
		}
		dir := fmt.Sprintf("%s/%03d", top, i)
		leaves = append(leaves, aDir(dir))
		for j := range 40 {
			leaves = append(leaves, aFile(fmt.Sprintf("%s/%02d", dir, j), content(100, 0, byte(i+j))))
		}
	}
	p := newPacks()
	l, _, _ := writeTree(t, p, leaves, Options{})
	parent := openTree(t, p, l)
	for what, c := range map[string]struct{ change, most int }{"nothing": {-1, 0}, "one file": {4000, 12 << 10}} {
		now := slices.Clone(leaves)
		if c.change > 0 {
			now[c.change].e.MTime = time.Unix(1, 0)
		}
		root, _, written, _, err := WriteTree(t.Context(), p, &testKeys, -1, as(leaves, now), Options{Parent: parent})
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		for _, id := range written {
			size += len(p.data[id])
		}
		t.Logf("%s changes: %d bytes of %d are new", what, size, len(p.data[l.Root.Pack]))
		if size > c.most {
			t.Errorf("%s changes: %d bytes are new, want %d at most", what, size, c.most)
		}
		sameTree(t, openTree(t, p, TreeLink(testNetwork, root)), now, 1)
	}
}

// Puts on top of one another give what each is, from packs that its inventory
// lists, whatever changes between them; and where nothing does, no list is written.
func TestAnyPutOnTopOfAnotherGivesWhatItIs(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		p := newPacks()
		var parent *File
		var was []leaf
		for leaves := someTree(r); ; leaves = changed(r, leaves) {
			w := smallWriter(p, Options{Parent: parent})
			walk := walkOf(leaves)
			if parent != nil {
				walk = as(was, leaves)
			}
			err := w.tree(t.Context(), walk)
			w.close()
			if err != nil {
				r.Fatal(err)
			}
			if treeDiff(was, leaves) == "" && parent != nil && (len(w.packs) > 0 || w.root != parent.root) {
				r.Errorf("nothing is new, and %d packs are", len(w.packs))
			}
			f := openTree(t, p, TreeLink(testNetwork, w.root))
			needed, err := f.Packs(t.Context())
			if err != nil {
				r.Fatal(err)
			}
			alone := newPacks()
			for _, id := range needed {
				alone.data[id] = p.data[id]
			}
			got, err := readTree(openTree(t, alone, TreeLink(testNetwork, w.root)), 1)
			if err != nil {
				r.Fatal(err)
			}
			if d := treeDiff(got, leaves); d != "" {
				r.Error(d)
			}
			if parent, was = f, leaves; !rapid.Bool().Draw(r, "on") {
				return
			}
		}
	})
}

// changed draws a few changes of a tree.
func changed(r *rapid.T, leaves []leaf) []leaf {
	m := modelOf(leaves)
	for range rapid.IntRange(0, 3).Draw(r, "changes") {
		all := slices.Sorted(maps.Keys(m))
		path := rapid.SampledFrom(all).Draw(r, "path")
		l := m[path]
		switch op := rapid.SampledFrom([]string{"touch", "mode", "data", "remove", "add"}).Draw(r, "op"); {
		case op == "touch":
			l.e.MTime = l.e.MTime.Add(time.Second)
			m[path] = l
		case op == "mode":
			l.e.Mode ^= 0o100
			m[path] = l
		case op == "data" && l.e.Kind == FileEntry:
			l.e.MTime = l.e.MTime.Add(time.Second)
			l.data = append(slices.Clone(l.data), 1)
			l.e.Size = int64(len(l.data))
			m[path] = l
		case op == "remove" && path != "":
			maps.DeleteFunc(m, func(p string, _ leaf) bool { return p == path || strings.HasPrefix(p, path+"/") })
		case op == "add" && m.isDir(path):
			at := join(path, rapid.SampledFrom(drawnNames).Draw(r, "name"))
			if _, there := m[at]; !there {
				m[at] = someLeaf(r, at)
			}
		}
	}
	return m.leaves()
}

func TestWhatIsNotAsItWasIsRefused(t *testing.T) {
	p := newPacks()
	leaves := []leaf{aDir(""), aFile("a", content(3000, 0, 1)), aDir("d")}
	l, _, _ := writeTree(t, p, leaves, Options{})
	older := aFile("a", leaves[1].data)
	older.e.MTime = time.Unix(1, 0)
	for name, f := range map[string]leaf{
		"another time": older,
		"another size": aFile("a", leaves[1].data[:2999]),
		"not there":    aFile("b", leaves[1].data),
		"a directory":  aFile("d", nil),
	} {
		given := false
		walk := func(context.Context) (string, Entry, io.Reader, error) {
			if !given {
				given = true
				return "", leaves[0].e, nil, nil
			}
			return f.path, f.e, nil, nil
		}
		if _, _, _, _, err := WriteTree(t.Context(), p, &testKeys, -1, walk, Options{Parent: openTree(t, p, l)}); !errors.Is(err, ErrStale) {
			t.Errorf("%s: got %v, want %v", name, err, ErrStale)
		}
	}
	p.allClosed(t)
}

func BenchmarkSecondPut(b *testing.B) {
	p := newPacks()
	leaves := smallFiles(15_000)
	l, _, _ := writeTree(b, p, leaves, Options{})
	for b.Loop() {
		walk := as(leaves, leaves)
		if _, _, _, _, err := WriteTree(b.Context(), p, &testKeys, -1, walk, Options{Parent: openTree(b, p, l)}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(15_000*b.N)/b.Elapsed().Seconds(), "files/s")
}

// slowSink takes a pack when a reader has failed, if what asks still wants it then.
type slowSink struct {
	*packs
	failed chan struct{}
}

func (s slowSink) PutPack(ctx context.Context, data []byte, meta bool, release func()) (pack.ID, error) {
	<-s.failed
	select {
	case <-ctx.Done():
		return pack.ID{}, ctx.Err()
	case <-time.After(200 * time.Millisecond): // it would have been told by now
	}
	return s.packs.PutPack(ctx, data, meta, release)
}

type tellingReader struct {
	io.Reader
	failed chan struct{}
}

func (r tellingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil {
		close(r.failed)
	}
	return n, err
}

// A file that is left out while a pack waits to be stored takes nothing with
// it of those that are in the pack.
func TestAFileLeftOutTakesNoOtherWithIt(t *testing.T) {
	leaves := []leaf{aDir("")}
	for i := range 20 {
		leaves = append(leaves, aFile(fmt.Sprintf("a%02d", i), content(200_000, 0, byte(i))))
	}
	bad := aFile("bad", content(14<<20, 0, 99))
	bad.fail = fmt.Errorf("changed: %w", ErrLeftOut)
	last := aFile("last", content(1000, 0, 98))
	sink := slowSink{newPacks(), make(chan struct{})}
	walk := walkOf(append(append(slices.Clone(leaves), bad), last))
	telling := func(ctx context.Context) (string, Entry, io.Reader, error) {
		path, e, r, err := walk(ctx)
		if path == bad.path {
			r = tellingReader{r, sink.failed}
		}
		return path, e, r, err
	}
	root, e, _, _, err := WriteTree(t.Context(), sink, &testKeys, -1, telling, Options{PackBytes: smallest})
	if err != nil {
		t.Fatal(err)
	}
	if e.Files != 21 {
		t.Errorf("got %d files, want 21", e.Files)
	}
	sameTree(t, openTree(t, sink.packs, TreeLink(testNetwork, root)), append(leaves, last), 1)
}

// What a pack that cannot be stored holds is not left out: the put fails.
func TestALostPackFailsThePut(t *testing.T) {
	leaves := []leaf{aDir("")}
	for i := range 40 {
		leaves = append(leaves, aFile(fmt.Sprintf("a%02d", i), content(200_000, 0, byte(i))))
	}
	for n := range 3 {
		p := newPacks()
		p.refuse = n
		if _, _, _, _, err := WriteTree(t.Context(), p, &testKeys, -1, walkOf(leaves), Options{PackBytes: smallest}); !errors.Is(err, errMissing) {
			t.Errorf("pack %d refused: got %v, want %v", n, err, errMissing)
		}
		p.wg.Wait()
	}
}

// A tree from any point on is what is behind it, of which alone is fetched.
func TestATreeIsReadFromAnyPoint(t *testing.T) {
	p := newPacks()
	leaves := everything()
	for i := range 4 { // sub/z… sorts behind
		leaves = append(leaves, aFile(fmt.Sprintf("sub/z%d", i), content(700_000, 0, byte(40+i))))
	}
	leaves = append(leaves, aFile("subs", content(1_500_000, 0, 50)))
	l, _, _ := writeTree(t, p, leaves, Options{})
	all := func(after string, off int64) (got []byte, want []byte, fetched int64) {
		var paths []string
		before := p.fetched
		rest := off
		err := openTree(t, p, l).WriteTree(t.Context(), 1, after, off, func(q Path) (io.Writer, error) {
			paths = append(paths, q.Path)
			w := leaves[len(paths)-1]
			from := int64(0)
			switch {
			case w.e.Kind != FileEntry:
			case after != "" && ComparePaths(w.path, after) <= 0:
				from = w.e.Size
			default:
				from, rest = min(rest, w.e.Size), 0
			}
			if q.From != from {
				t.Errorf("after %q and %d: %q begins at %d, want %d", after, off, q.Path, q.From, from)
			}
			want = append(want, w.data[from:]...)
			return writeFunc(func(b []byte) (int, error) { got = append(got, b...); return len(b), nil }), nil
		})
		if err != nil || len(paths) != len(leaves) {
			t.Errorf("after %q and %d: got %d entries, %v, want %d", after, off, len(paths), err, len(leaves))
		}
		return got, want, p.fetched - before
	}
	_, _, lists := all("\xff", 0) // entries alone
	for _, after := range append([]leaf{{path: "sub/nothing"}, {path: "a"}}, leaves...) {
		for _, off := range []int64{0, 1, 4999, 600_000, 1 << 40} {
			got, want, fetched := all(after.path, off)
			if !bytes.Equal(got, want) {
				t.Errorf("after %q and %d: got %d bytes, want %d, or others", after.path, off, len(got), len(want))
			}
			if most := int64(len(want)+len(want)/100) + lists + 256<<10; fetched > most {
				t.Errorf("after %q and %d: fetched %d bytes, want at most %d", after.path, off, fetched, most)
			}
		}
	}
	p.allClosed(t)
}

type writeFunc func(b []byte) (int, error)

func (f writeFunc) Write(b []byte) (int, error) { return f(b) }
