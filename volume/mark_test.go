package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/p2pfs/p2pfs/pack"
)

// rootsRead fails where a tree of those cannot be read whole.
func rootsRead(src Source, roots []pack.Ref) error {
	for _, ref := range roots {
		f, err := OpenEntry(context.Background(), src, ref)
		if err != nil {
			return err
		}
		if _, err := readTree(f, 0); err != nil {
			return err
		}
	}
	return nil
}

// listsOf gives where all lists of trees are, but for the nodes of their refs.
func listsOf(r *rapid.T, src Source, roots []pack.Ref) map[place32]bool {
	ctx, out := context.Background(), make(map[place32]bool)
	for _, ref := range roots {
		f, err := OpenEntry(ctx, src, ref)
		if err != nil {
			r.Fatal(err)
		}
		for d, err := range f.Walk(ctx) {
			if err != nil {
				r.Fatal(err)
			}
			if d.entry.Kind != DirEntry {
				continue
			}
			for p, err := range d.pieces(ctx, 0, d.entry.Size) {
				if err != nil {
					r.Fatal(err)
				}
				out[placeOf(p.ref)] = true
			}
		}
	}
	return out
}

// states is what a machine has written over time.
func states(r *rapid.T, m *machine, commits, steps int) (roots []pack.Ref) {
	for range rapid.IntRange(1, commits).Draw(r, "commits") {
		for range rapid.IntRange(0, steps).Draw(r, "steps") {
			m.step(r)
		}
		m.commit(r)
		roots = append(roots, m.written.Root)
	}
	return roots
}

func TestAnyMarkIsWhatIsNeeded(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := newMachine()
		roots := states(r, m, 5, 4)
		src := counting{m.p, make(map[place32]int)}
		mark := NewMark(src)
		for _, ref := range roots {
			if err := mark.Root(context.Background(), ref); err != nil {
				r.Fatal(err)
			}
		}
		for at := range listsOf(r, m.p, roots) {
			if n := src.read[at]; n != 1 {
				r.Errorf("the list at %d is read %d times", at.off, n)
			}
		}
		if err := rootsRead(only{m.p, mark.Packs}, roots); err != nil {
			r.Fatalf("with all that is needed: %v", err)
		}
		for id := range mark.Packs {
			less := maps.Clone(mark.Packs)
			delete(less, id)
			if err := rootsRead(only{m.p, less}, roots); !errors.Is(err, errMissing) {
				r.Errorf("without pack %s: %v", id.Short(), err)
			}
			if mark.Meta[id] != m.p.meta[id] {
				r.Errorf("pack %s: got meta %v, want %v", id.Short(), mark.Meta[id], m.p.meta[id])
			}
		}
		read := len(src.read)
		for _, ref := range roots { // all is seen
			f, err := OpenEntry(context.Background(), m.p, ref)
			if err != nil {
				r.Fatal(err)
			}
			f.src = src
			if err := mark.Tree(context.Background(), f); err != nil || len(f.entry.parts) > 0 && len(src.read) != read {
				r.Errorf("once more: %v, %d chunks are read", err, len(src.read)-read)
			}
		}
	})
}

func TestMarkOfADraftIsWhatItWillNeed(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := newMachine()
		states(r, m, 3, 4)
		for range rapid.IntRange(0, 4).Draw(r, "steps") {
			m.step(r)
		}
		before := NewMark(m.p)
		if err := before.Draft(context.Background(), m.draft); err != nil {
			r.Fatal(err)
		}
		m.commit(r)
		after := NewMark(m.p)
		if err := after.Root(context.Background(), m.written.Root); err != nil {
			r.Fatal(err)
		}
		for id := range before.Packs {
			if !after.Packs[id] {
				r.Errorf("pack %s is not needed", id.Short())
			}
		}
		for id := range after.Packs {
			if !before.Packs[id] && !slices.Contains(m.written.Packs, id) {
				r.Errorf("pack %s is needed", id.Short())
			}
		}
	})
}

func TestMarkSkips(t *testing.T) {
	p := newPacks()
	ctx, now := t.Context(), time.Unix(1_800_000_000, 0)
	d := NewDraft(nil)
	trees := make(map[string]*File)
	ids := make(map[string][]pack.ID)
	for i, name := range []string{"one", "two"} {
		l, _, packs := writeTree(t, p, []leaf{aDir(""), aFile("x", content(5000, 0, byte(i))), aFile("y", content(90_000, 0, byte(i+10)))}, Options{})
		trees[name], ids[name] = openTree(t, p, l), packs
		put(t, d, "sub/"+name, trees[name], now)
	}
	f := commitDraft(t, p, d)
	f.src = p
	m := NewMark(p)
	m.Skip = func(f *File) bool { return Same(f, trees["one"]) }
	if err := m.Tree(ctx, f); err != nil {
		t.Fatal(err)
	}
	if m.Packs[ids["one"][0]] || !m.Packs[ids["two"][0]] {
		t.Errorf("got %v", m.Packs)
	}
	m.Skip = nil
	m = NewMark(p)
	if err := m.Tree(ctx, f); err != nil || !m.Packs[ids["one"][0]] || !m.Packs[ids["two"][0]] {
		t.Errorf("got %v, %v", m.Packs, err)
	}
}

// A mark that has failed goes on where it is asked again: nothing that was not
// looked through counts as seen.
func TestMarkGoesOnAfterAFailure(t *testing.T) {
	p := newPacks()
	leaves := []leaf{aDir("")}
	for i := range 4 {
		dir := fmt.Sprintf("d%d", i)
		leaves = append(leaves, aDir(dir))
		for _, l := range manyLeaves(12, byte(i))[1:] {
			l.path = dir + "/" + l.path
			leaves = append(leaves, l)
		}
		leaves = append(leaves, aFile(dir+"/z", content(200_000, 0, byte(i)))) // in a pack of its own
	}
	w := smallWriter(p, Options{})
	if err := w.tree(t.Context(), walkOf(leaves)); err != nil {
		t.Fatal(err)
	}
	want := NewMark(p)
	if err := want.Root(t.Context(), w.root); err != nil {
		t.Fatal(err)
	}
	if len(want.Packs) < 3 {
		t.Fatalf("%d packs", len(want.Packs))
	}
	for id := range want.Meta {
		less := maps.Clone(want.Packs)
		delete(less, id)
		m := NewMark(only{p, less})
		if err := m.Root(t.Context(), w.root); !errors.Is(err, errMissing) {
			t.Errorf("got %v, want %v", err, errMissing)
		}
		less[id] = true
		if err := m.Root(t.Context(), w.root); err != nil || !maps.Equal(m.Packs, want.Packs) || !maps.Equal(m.Meta, want.Meta) {
			t.Errorf("got %d packs, %v, want %d", len(m.Packs), err, len(want.Packs))
		}
	}
}

// Trees by somebody who has the keys and no good will.

// hostileLists are lists of directories, with how many files those say that they have.
func hostileLists(t *testing.T) map[string]hostileList {
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
	return map[string]hostileList{
		"fewer than said":  {two, 3},
		"more than said":   {two, 1},
		"descending":       {append(entry("b", nil), entry("a", nil)...), 2},
		"the same twice":   {append(entry("a", nil), entry("a", nil)...), 2},
		"cut off":          {two[:len(two)-1], 2},
		"a byte more":      {append(slices.Clone(two), 0), 2},
		"up":               {entry("..", nil), 1},
		"absolute":         {entry("/etc/passwd", nil), 1},
		"slash":            {entry("a/b", nil), 1},
		"ref into itself":  {entry("a", func(e *Entry) { e.Size, e.parts = 10, []part{{Ref: pack.Ref{Off: 1000, Len: 50, Size: 10}, under: 10}} }), 1},
		"inventory":        {entry("a", func(e *Entry) { e.inventory = testRef("i", 0, 10, 10) }), 1},
		"bytes not said":   {entry("a", func(e *Entry) { e.Size, e.inline = 1, []byte{1} }), 1},
		"target of a file": {entry("a", func(e *Entry) { e.Target = "x" }), 1},
		"a list of another": {entry("d", func(e *Entry) {
			e.Kind, e.Size, e.parts = DirEntry, 10, []part{{Ref: pack.Ref{Pack: sum("p"), Len: 50, Size: 11}, under: 10}}
		}), 0},
	}
}

type hostileList struct {
	b     []byte
	files int64
}

// asRoot gives a tree whose root has the list.
func (l hostileList) asRoot(t *testing.T) *File {
	root := aDir("").e
	root.Files = l.files
	return hostileDir(t, root, l.b)
}

func TestHostileTreesAreRefusedWhereverTheyCome(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	p := newPacks()
	honest := treeOf(t, p, spec{"a": "1", "c": "2", "d/e": "3"})
	for name, l := range hostileLists(t) {
		ctx := t.Context()
		bad := l.asRoot(t)
		below := func() *File { // in a directory of an honest tree
			e := aDir("").e
			e.list = []Entry{bad.entry}
			e.list[0].Name = "d"
			if err := e.bake(); err != nil {
				t.Fatal(err)
			}
			e.Files = l.files
			return &File{src: bad.src, root: bad.root, entry: e}
		}()
		commit := func(d *Draft, err error) error {
			if err != nil {
				return err
			}
			_, err = WriteVolume(ctx, newPacks(), &testKeys, d, Commit{}, Options{})
			return err
		}
		for what, err := range map[string]error{
			"draft of it":        commit(NewDraft(bad), nil),
			"remove from it":     NewDraft(bad).Remove(ctx, "zz", now),
			"move in it":         NewDraft(bad).Move(ctx, "zz", "y", now),
			"put into it":        func() error { d := NewDraft(bad); return commit(d, d.Put(ctx, "x", honest, now)) }(),
			"put below it":       func() error { d := NewDraft(below); return commit(d, d.Put(ctx, "d/x", honest, now)) }(),
			"put of it":          func() error { d := NewDraft(nil); return commit(d, d.Put(ctx, "x", bad, now)) }(),
			"merge after it":     func() error { d, _, err := Merge(ctx, bad, honest, honest, fromBob); return commit(d, err) }(),
			"merge with ours":    func() error { d, _, err := Merge(ctx, honest, bad, honest, fromBob); return commit(d, err) }(),
			"merge with theirs":  func() error { d, _, err := Merge(ctx, honest, honest, bad, fromBob); return commit(d, err) }(),
			"merge of it below":  func() error { d, _, err := Merge(ctx, nil, below, honest, fromBob); return commit(d, err) }(),
			"merge of it beside": func() error { d, _, err := Merge(ctx, nil, honest, below, fromBob); return commit(d, err) }(),
			"mark":               NewMark(p).Tree(ctx, bad),
			"mark of a draft":    NewMark(p).Draft(ctx, NewDraft(bad)),
			"lookup":             func() error { _, err := below.Lookup(ctx, "d/zz"); return err }(),
			"identity":           func() error { _, err := below.Identity("x"); return err }(),
		} {
			if name == "a list of another" && !errors.Is(err, ErrCorrupt) {
				continue // what is not read is not noticed
			}
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s: %s: got %v, want %v", what, name, err, ErrCorrupt)
			}
		}
		Same(bad, below)
		Same(bad, bad)
	}
	file := &File{src: p, entry: aFile("root", nil).e}
	if _, _, err := Merge(t.Context(), nil, honest, file, fromBob); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a root that is a file: got %v, want %v", err, ErrCorrupt)
	}
	d := NewDraft(file)
	if err := d.Put(t.Context(), "x", honest, now); err == nil {
		_, err = WriteVolume(t.Context(), p, &testKeys, d, Commit{}, Options{})
		if err == nil {
			t.Error("a draft of a file: written")
		}
	}
}

// endless is a tree of depth directories in one another, in each of which the next
// is twice, all of a time: so it has 2^depth, and no file.
func endless(t *testing.T, depth int, sec int64) *File {
	t.Helper()
	h := newHostile(t)
	var below []part
	var size int64
	for range depth {
		var list []byte
		for _, name := range []string{"a", "b"} {
			e := aDir(name).e
			e.MTime, e.Size, e.parts = time.Unix(sec, 0), size, below
			b, err := e.appendListed(nil)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, b...)
		}
		r := h.chunk(list)
		below, size = []part{{Ref: r, under: r.Size}}, int64(r.Size)
	}
	root := aDir("").e
	root.Size, root.parts = size, below
	ref := h.chunk(encodeUnchecked(&root))
	ref.Pack = h.put(h.b.Finish())
	f, err := OpenEntry(t.Context(), h, ref)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestTreesThatNeverEndAreRefused(t *testing.T) {
	a, b := endless(t, 900, 1), endless(t, 900, 2)
	ctx := t.Context()
	n := 0
	w := walker{ctx: ctx, descent: descent{left: 5000, hold: maxHeld}, yield: func(Path, error) bool { n++; return true }}
	if err := w.walk(a); !errors.Is(err, ErrCorrupt) || n > 5002 {
		t.Errorf("walk: got %v after %d entries, want %v", err, n, ErrCorrupt)
	}
	m := merger{ctx: ctx, beside: fromBob, down: descent{left: 5000, hold: maxHeld}}
	if err := m.dir("", newDraft(a.entry, a), nil, b, 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("merge: got %v, want %v", err, ErrCorrupt)
	}
	m = merger{ctx: ctx, beside: fromBob, down: newDescent(math.MaxInt64), memory: memory{maxKept - 1<<20}}
	if err := m.dir("", newDraft(a.entry, a), nil, b, 0); !errors.Is(err, ErrTooLarge) {
		t.Errorf("merge: got %v, want %v", err, ErrTooLarge)
	}
	leaving := Leaving{packs: map[pack.ID]bool{a.root.Pack: true}, clear: make(map[place32]bool), down: descent{left: 5000, hold: maxHeld}}
	if _, err := leaving.dir(ctx, newDraft(a.entry, a), 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("leave: got %v, want %v", err, ErrCorrupt)
	}
	src := counting{a.src, make(map[place32]int)}
	mark := NewMark(src)
	a.src = src
	if d, err := Leave(ctx, a, map[pack.ID]bool{{1}: true}, new(Leaving)); err != nil || d != nil || len(src.read) != 900 {
		t.Errorf("leave of nothing: got %v, %v, after %d chunks", d, err, len(src.read))
	}
	clear(src.read)
	if err := mark.Tree(ctx, a); err != nil || len(mark.Packs) != 1 || len(src.read) != 900 {
		t.Errorf("mark: got %d packs, %v, after %d chunks", len(mark.Packs), err, len(src.read))
	}
	d := NewDraft(a)
	if err := errors.Join(d.Remove(ctx, "a/a/b", time.Unix(1, 0)), NewMark(src).Draft(ctx, d)); err != nil {
		t.Error(err)
	}
	if _, err := WriteVolume(ctx, newPacks(), &testKeys, d, Commit{}, Options{}); err != nil {
		t.Error(err)
	}

	deep := endless(t, MaxDepth+2, 1)
	if err := NewMark(deep.src).Tree(ctx, deep); !errors.Is(err, ErrCorrupt) {
		t.Errorf("mark of a deep tree: got %v, want %v", err, ErrCorrupt)
	}
	for _, err := range deep.Walk(ctx) { // down to the left
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("walk of a deep tree: got %v, want %v", err, ErrCorrupt)
			}
			break
		}
	}
	if _, _, err := Merge(ctx, nil, deep, endless(t, MaxDepth+2, 2), fromBob); !errors.Is(err, ErrCorrupt) {
		t.Errorf("merge of deep trees: got %v, want %v", err, ErrCorrupt)
	}
	if testing.Short() {
		return
	}
	n = 0
	for _, err := range endless(t, 40, 1).Walk(ctx) {
		if n++; err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("walk: got %v, want %v", err, ErrCorrupt)
		}
	}
	if n > spareDirs+2 {
		t.Errorf("a walk of %d entries", n)
	}
}

func TestManyDirectoriesNeedFiles(t *testing.T) {
	for _, c := range []struct{ files, want int64 }{
		{0, 1 << 20}, {1, 1<<20 + 64}, {1 << 40, 1<<20 + 1<<46}, {1 << 57, 1<<20 + 1<<63 - 1<<20 - 1}, {math.MaxInt64, math.MaxInt64},
	} {
		if got := maxDirs(c.files); got != c.want {
			t.Errorf("%d files: got %d, want %d", c.files, got, c.want)
		}
	}
	w := newWriter(newPacks(), &testKeys, Info{Size: -1}, Options{})
	if err := w.tree(t.Context(), walkOf(spec{"a/b/c": "1", "a/d": "dir", "e": "dir", "f": "2"}.leaves())); err != nil || w.dirs[:1][0].dirs != 4 {
		t.Errorf("got %d directories, want 4, %v", w.dirs[:1][0].dirs, err)
	}
	d := &dir{entry: aDir("").e, dirs: spareDirs + 64}
	d.entry.Files = 1
	if err := w.endDir(t.Context(), d); err != nil {
		t.Error(err)
	}
	d.dirs++
	if err := w.endDir(t.Context(), d); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want %v", err, ErrTooLarge)
	}
}

// A list of a directory that refers to one chunk over and over, by nodes in nodes,
// ends at once.
func TestListsThatNeverEndAreRefused(t *testing.T) {
	h := newHostile(t)
	e := aFile("a", nil).e
	b, err := e.appendListed(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := h.chunk(b)
	p := part{Ref: r, under: r.Size}
	for level := range maxDepth {
		n := node{level: level}
		under := uint64(0)
		for range 1024 {
			n.parts = append(n.parts, p)
			under += p.under
		}
		p = part{Ref: h.chunk(n.encode()), under: under}
	}
	root := aDir("").e
	root.Files, root.Size, root.depth, root.parts = 1<<60, int64(p.under), maxDepth, []part{p}
	ref := h.chunk(encodeUnchecked(&root))
	ref.Pack = h.put(h.b.Finish())
	f, err := OpenEntry(t.Context(), h, ref)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	honest := treeOf(t, newPacks(), spec{"a": "1"})
	d := NewDraft(f)
	put(t, d, "b", honest, now)
	_, werr := WriteVolume(t.Context(), newPacks(), &testKeys, d, Commit{}, Options{})
	_, _, merr := Merge(t.Context(), honest, f, honest, fromBob)
	var lerr error
	for _, err := range f.List(t.Context()) {
		lerr = err
	}
	for what, err := range map[string]error{"write": werr, "merge": merr, "list": lerr} {
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v, want %v", what, err, ErrCorrupt)
		}
	}
	if d, err := Leave(t.Context(), f, map[pack.ID]bool{ref.Pack: true}, new(Leaving)); d == nil || err != nil { // whoever writes it notices
		t.Errorf("leave: got %v, %v", d, err)
	}
	if d, err := Leave(t.Context(), f, map[pack.ID]bool{{1}: true}, new(Leaving)); d != nil || err != nil {
		t.Errorf("leave of nothing: got %v, %v", d, err)
	}
	m := NewMark(h)
	if err := m.Tree(t.Context(), f); err != nil || len(m.Packs) != 1 {
		t.Errorf("mark: got %d packs, %v", len(m.Packs), err)
	}
}

// A file that says it is as it was is taken over, whatever its parent says of it, or
// refused; and either at once.
func TestAFileThatNeverEndsIsTakenOver(t *testing.T) {
	h := newHostile(t)
	r := h.chunk([]byte("x"))
	p := part{Ref: r, under: r.Size}
	for level := range maxDepth {
		n := node{level: level}
		under := uint64(0)
		for range 1024 {
			n.parts = append(n.parts, p)
			under += p.under
		}
		p = part{Ref: h.chunk(n.encode()), under: under}
	}
	root := aDir("").e
	file := aFile("a", nil).e
	file.Size, file.depth, file.parts = int64(p.under), maxDepth, []part{p}
	root.list = []Entry{file}
	root.Files, root.Bytes = 1, file.Size
	if err := root.bake(); err != nil {
		t.Fatal(err)
	}
	ref := h.chunk(encodeUnchecked(&root))
	ref.Pack = h.put(h.b.Finish())
	f, err := OpenEntry(t.Context(), h, ref)
	if err != nil {
		t.Fatal(err)
	}
	same := leaf{path: "a", e: aFile("a", nil).e}
	same.e.Size = file.Size
	_, e, _, kept, err := WriteTree(t.Context(), h, &testKeys, -1, as([]leaf{same}, []leaf{aDir(""), same}), Options{Parent: f})
	if err != nil || e.Bytes != file.Size || !slices.Equal(kept, []pack.ID{ref.Pack}) {
		t.Errorf("got %d bytes, %d packs kept, %v", e.Bytes, len(kept), err)
	}
	other := aFile("a", []byte("new"))
	if _, _, _, _, err := WriteTree(t.Context(), h, &testKeys, -1, walkOf([]leaf{aDir(""), other}), Options{Parent: f}); err != nil {
		t.Error(err)
	}
}

// A file of which something was given up cannot be stored again, however its refs
// nest; one that has something in packs to be left has to be.
func TestLeaveOfFilesWhoseRefsNest(t *testing.T) {
	h := newHostile(t)
	at := func(name string) part {
		r := testRef(name, 0, 1000, 5000)
		return part{Ref: r, under: r.Size}
	}
	a, b, c := at("a"), at("b"), at("c")
	one, two := node{parts: []part{a, b}}, node{parts: []part{a, c}}
	root := aDir("").e
	for name, n := range map[string]*node{"one": &one, "two": &two} {
		e := aFile(name, nil).e
		inner := part{Ref: h.chunk(n.encode()), under: 10_000}
		outer := node{level: 1, parts: []part{inner, inner}}
		e.Size, e.depth, e.parts = 20_000, 2, []part{{Ref: h.chunk(outer.encode()), under: 20_000}}
		root.list = append(root.list, e)
		root.Files, root.Bytes = root.Files+1, root.Bytes+e.Size
	}
	slices.SortFunc(root.list, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	if err := root.bake(); err != nil {
		t.Fatal(err)
	}
	ref := h.chunk(encodeUnchecked(&root))
	ref.Pack = h.put(h.b.Finish())
	f, err := OpenEntry(t.Context(), h, ref)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		leave, gone part
		want        []string
	}{
		"all":            {a, part{}, []string{"one", "two"}},
		"one":            {b, part{}, []string{"one"}},
		"none":           {at("d"), part{}, nil},
		"one given up":   {a, c, []string{"one"}},
		"given up alone": {a, a, nil},
		"node":           {part{Ref: ref}, part{}, []string{"one", "two"}},
	} {
		d, err := Leave(t.Context(), f, map[pack.ID]bool{c.leave.Pack: true}, &Leaving{Gone: func(id pack.ID) bool { return id == c.gone.Pack }})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		if d != nil {
			got = slices.Sorted(maps.Keys(d.root.names))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
		for _, n := range got {
			if !d.root.names[n].anew {
				t.Errorf("%s: %q is not stored again", name, n)
			}
		}
	}
}

func TestCountsThatOverflowAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Entry){
		"files": func(e *Entry) { e.Files = 1 << 62 }, "bytes": func(e *Entry) { e.Bytes = 1 << 62 },
	} {
		e := aDir("").e
		e.Size, e.parts = 10, []part{{Ref: testRef("p", 0, 10, 10), under: 10}}
		change(&e)
		d := NewDraft(nil)
		for i := range 4 { // together they are 0
			put(t, d, fmt.Sprint(i), &File{src: newPacks(), entry: e}, time.Unix(1, 0))
		}
		if _, err := WriteVolume(t.Context(), newPacks(), &testKeys, d, Commit{}, Options{}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: got %v, want %v", name, err, ErrTooLarge)
		}
	}
}

// What is held of lists in which others are being gone through is bounded, and where
// it is let go of nothing is lost.
func TestOpenListsAreBounded(t *testing.T) {
	p := newPacks()
	tree := func(changed string) ([]leaf, *File) {
		leaves := []leaf{aDir("")}
		dir := ""
		for i := range 30 {
			for _, l := range manyLeaves(6, byte(i))[1:] {
				l.path = join(dir, l.path)
				if i%3 == 0 && l.e.Name == "m03" {
					l.data = []byte(changed)
					l.e.Size = int64(len(l.data))
				}
				leaves = append(leaves, l)
			}
			dir = join(dir, "m03x") // in the middle of the names
			leaves = append(leaves, aDir(dir))
		}
		leaves = modelOf(leaves).leaves()
		w := smallWriter(p, Options{})
		if err := w.tree(t.Context(), walkOf(leaves)); err != nil {
			t.Fatal(err)
		}
		f, err := OpenEntry(t.Context(), p, w.root)
		if err != nil {
			t.Fatal(err)
		}
		return leaves, f
	}
	leaves, base := tree("0")
	_, ours := tree("1")
	_, theirs := tree("2")
	for _, hold := range []int{0, 50_000, 100_000, maxHeld} {
		var got []string
		w := walker{ctx: t.Context(), descent: descent{left: 1000, hold: hold}}
		w.yield = func(p Path, err error) bool {
			got = append(got, p.Path)
			held := 0
			for _, l := range w.lists[:max(0, len(w.lists)-1)] {
				held += l.held()
			}
			if held > hold {
				t.Errorf("%d bytes are held, want %d at most", held, hold)
			}
			return err == nil
		}
		if err := w.walk(base); err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, l := range leaves {
			want = append(want, l.path)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d bytes held: got %d entries, want %d", hold, len(got), len(want))
		}

		m := NewMark(p)
		m.down.hold = hold
		if err := m.Tree(t.Context(), base); err != nil {
			t.Fatal(err)
		}
		all := NewMark(p)
		if err := all.Tree(t.Context(), base); err != nil || !maps.Equal(m.Packs, all.Packs) {
			t.Errorf("%d bytes held: marks %d packs, want %d, %v", hold, len(m.Packs), len(all.Packs), err)
		}

		mg := merger{ctx: t.Context(), beside: fromBob, down: descent{left: 1000, hold: hold}}
		d := NewDraft(ours)
		if err := mg.dir("", d.root, base, theirs, 0); err != nil || len(mg.conflicts) != 10 {
			t.Errorf("%d bytes held: got %d conflicts, want 10, %v", hold, len(mg.conflicts), err)
		}
		f := commitDraft(t, p, d)
		f.src = p
		s := readSpec(t, f)
		if len(s) != len(readSpec(t, base))+10 {
			t.Errorf("%d bytes held: got %d files", hold, len(s))
		}
	}
}

// Paths and entries that wait to be given out do too.
func TestGroupsOfLongPathsAreBounded(t *testing.T) {
	p := newPacks()
	leaves := []leaf{aDir("")}
	dir := ""
	for range 100 {
		dir = join(dir, fmt.Sprintf("%0250d", 0))
		leaves = append(leaves, aDir(dir))
	}
	for i := range 400 {
		leaves = append(leaves, aFile(fmt.Sprintf("%s/%0250d", dir, i), []byte("x")))
	}
	l, _, _ := writeTree(t, p, leaves, Options{})
	f := openTree(t, p, l)
	sameTree(t, f, leaves, 2)
	steps := 0
	for g, err := range groups(func(yield func(step, error) bool) { f.treeSteps(t.Context(), "", 0, yield) }) {
		if err != nil {
			t.Fatal(err)
		}
		steps += len(g.steps)
		if g.weight > maxGroup+1<<20 {
			t.Errorf("a group of %d bytes", g.weight)
		}
	}
	if steps < len(leaves) {
		t.Errorf("%d steps for %d entries", steps, len(leaves))
	}
}
