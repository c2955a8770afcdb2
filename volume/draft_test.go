package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/p2pfs/p2pfs/pack"
)

// smallWriter is a writer whose packs hold little, and whose lists and refs nest
// soon.
func smallWriter(p Sink, opt Options) *writer {
	w := newWriter(p, &testKeys, Info{Size: 0}, opt)
	w.limit = 300 << 10
	w.nodeRefs, w.entryRefs = 3, 2
	w.minList, w.maxList = 1<<10, 6<<10
	return w
}

// model is a tree as a map from paths to what is there.
type model map[string]leaf

func modelOf(leaves []leaf) model {
	m := make(model)
	for _, l := range leaves {
		m[l.path] = l
	}
	return m
}

// leaves gives what is in it in the order of a walk.
func (m model) leaves() []leaf {
	order := func(path string) string { return strings.ReplaceAll(path, "/", "\x00") }
	return slices.SortedFunc(maps.Values(m), func(a, b leaf) int { return strings.Compare(order(a.path), order(b.path)) })
}

// counts gives the number of what is no directory, and the bytes of files.
func (m model) counts() (files, total int64) {
	for _, l := range m {
		if l.e.Kind != DirEntry {
			files++
			total += int64(len(l.data))
		}
	}
	return files, total
}

func (m model) isDir(path string) bool { l, ok := m[path]; return ok && l.e.Kind == DirEntry }

func above(path string) string { return path[:max(0, strings.LastIndexByte(path, '/'))] }

func join(dir, name string) string { return strings.TrimPrefix(dir+"/"+name, "/") }

// touch notes that something has changed in a directory.
func (m model) touch(path string, now time.Time) {
	l := m[path]
	l.e.MTime = now
	m[path] = l
}

// under gives a path and all below it.
func (m model) under(path string) (out []leaf) {
	for _, l := range m {
		if path == "" || l.path == path || strings.HasPrefix(l.path, path+"/") {
			out = append(out, l)
		}
	}
	return out
}

// cut takes a path with all below it away.
func (m model) cut(path string) []leaf {
	out := m.under(path)
	for _, l := range out {
		delete(m, l.path)
	}
	return out
}

// paste puts what was at from to another path.
func (m model) paste(leaves []leaf, from, to string) {
	for _, l := range leaves {
		if l.path = strings.TrimSuffix(join(to, strings.TrimPrefix(l.path[len(from):], "/")), "/"); l.path == to {
			l.e.Name = baseOf(to)
		}
		m[l.path] = l
	}
}

// blocked tells why nothing can come to a path: what is above it is not there, or no
// directory.
func (m model) blocked(path string) error {
	for p := above(path); ; p = above(p) {
		if l, ok := m[p]; ok && l.e.Kind != DirEntry {
			return ErrNotDir
		}
		if p == "" {
			break
		}
	}
	if _, ok := m[above(path)]; !ok {
		return ErrNotFound
	}
	return nil
}

// dirs makes the directories that are missing on the way to a path.
func (m model) dirs(path string, now time.Time) {
	if path == "" || m.isDir(path) {
		return
	}
	m.dirs(above(path), now)
	m[path] = leaf{path: path, e: Entry{Kind: DirEntry, Name: baseOf(path), Mode: 0o755, UID: NoOwner, GID: NoOwner, MTime: now}}
	m.touch(above(path), now)
}

func (m model) put(path string, leaves []leaf, from string, now time.Time) error {
	if err := m.blocked(path); errors.Is(err, ErrNotDir) {
		return err
	}
	m.dirs(above(path), now)
	m.cut(path)
	m.paste(leaves, from, path)
	m.touch(above(path), now)
	return nil
}

func (m model) remove(path string, now time.Time) error {
	if err := m.blocked(path); err != nil {
		return err
	}
	if len(m.cut(path)) == 0 {
		return ErrNotFound
	}
	m.touch(above(path), now)
	return nil
}

func (m model) mkdir(path string, parents bool, now time.Time) error {
	if _, ok := m[path]; ok {
		if parents && m.isDir(path) {
			return nil
		}
		return ErrExists
	}
	if err := m.blocked(path); errors.Is(err, ErrNotDir) || err != nil && !parents {
		return err
	}
	m.dirs(path, now)
	return nil
}

func (m model) move(from, to string, now time.Time) error {
	if err := m.blocked(from); err != nil {
		return err
	}
	l, ok := m[from]
	if !ok {
		return ErrNotFound
	}
	if m.isDir(to) {
		to = join(to, baseOf(from))
	}
	there, taken := m[to]
	switch {
	case to == from:
		return nil
	case l.e.Kind == DirEntry && strings.HasPrefix(to, from+"/"):
		return ErrInto
	case taken && (l.e.Kind == DirEntry || there.e.Kind == DirEntry):
		return ErrExists
	}
	if err := m.blocked(to); err != nil {
		return err
	}
	m.paste(m.cut(from), from, to)
	m.touch(above(from), now)
	m.touch(above(to), now)
	return nil
}

// machine changes a volume and a model of it alike.
type machine struct {
	p       *packs
	now     time.Time
	model   model // what the draft is
	draft   *Draft
	before  model // what it was made of
	root    *File // nil: nothing
	known   map[pack.ID]bool
	past    []Past
	trees   []model // what those are
	written Written
}

func newMachine() *machine {
	m := &machine{p: newPacks(), now: time.Unix(1_750_000_000, 5), draft: NewDraft(nil), known: make(map[pack.ID]bool)}
	m.model = modelOf([]leaf{{e: m.draft.root.entry}})
	m.before = maps.Clone(m.model)
	return m
}

// tick is a moment later than the last.
func (m *machine) tick() time.Time {
	m.now = m.now.Add(time.Second)
	return m.now
}

var drawnNames = []string{"a", "b", "c", "d.e", "\xff\xfe", "é"}

// aPath draws a path, which may be there.
func (m *machine) aPath(r *rapid.T, what string) string {
	paths := slices.Sorted(maps.Keys(m.model))
	path := rapid.SampledFrom(paths).Draw(r, what)
	for range rapid.IntRange(0, 2).Draw(r, "more") {
		if rapid.Bool().Draw(r, "up") {
			path = above(path)
		} else {
			path = join(path, rapid.SampledFrom(drawnNames).Draw(r, "name"))
		}
	}
	return path
}

// someLeaf draws what is no directory.
func someLeaf(r *rapid.T, path string) leaf {
	size := rapid.SampledFrom([]int{0, 3, treeInline, treeInline + 1, 5000, 90_000}).Draw(r, "size")
	l := aFile(path, content(size, byte(size%2), rapid.ByteRange(0, 5).Draw(r, "seed")))
	if rapid.IntRange(0, 4).Draw(r, "link") == 0 {
		l = leaf{path: path, e: Entry{Kind: SymlinkEntry, Name: l.e.Name, Mode: 0o777, Target: fmt.Sprint("to ", size)}}
	}
	if rapid.IntRange(0, 3).Draw(r, "wide") == 0 { // so that lists get long
		l.e.Xattrs = []Xattr{{Name: []byte("user.x"), Value: content(3000, 0, rapid.Byte().Draw(r, "x"))}}
	}
	return l
}

// someTree draws a tree.
func someTree(r *rapid.T) []leaf {
	m := modelOf([]leaf{aDir("")})
	for range rapid.IntRange(0, 14).Draw(r, "entries") {
		dirs := slices.DeleteFunc(slices.Sorted(maps.Keys(m)), func(p string) bool { return !m.isDir(p) })
		path := join(rapid.SampledFrom(dirs).Draw(r, "dir"), rapid.SampledFrom(drawnNames).Draw(r, "name"))
		if _, ok := m[path]; ok {
			continue
		}
		if m[path] = aDir(path); rapid.IntRange(0, 2).Draw(r, "kind") > 0 {
			m[path] = someLeaf(r, path)
		}
	}
	return m.leaves()
}

// manyLeaves is a directory whose list fills packs.
func manyLeaves(n int, seed byte) []leaf {
	out := []leaf{aDir("")}
	for i := range n {
		l := aFile(fmt.Sprintf("m%02d", i), content(i*40, 0, seed))
		l.e.Xattrs = []Xattr{{Name: []byte("user.x"), Value: content(20_000, 0, seed+byte(i))}}
		out = append(out, l)
	}
	return out
}

// write stores a tree.
func (m *machine) write(r *rapid.T, leaves []leaf) *File {
	w := smallWriter(m.p, Options{})
	defer w.close()
	if err := w.tree(context.Background(), walkOf(leaves)); err != nil {
		r.Fatal(err)
	}
	for _, id := range w.packs {
		m.known[id] = true
	}
	if rapid.Bool().Draw(r, "made") {
		return Made(m.p, w.root, w.entry)
	}
	f, err := OpenEntry(context.Background(), m.p, w.root)
	if err != nil {
		r.Fatal(err)
	}
	return f
}

// step changes something.
func (m *machine) step(r *rapid.T) {
	ctx := context.Background()
	now := m.tick()
	path := m.aPath(r, "path")
	var got, want error
	op := rapid.SampledFrom([]string{"file", "file", "tree", "many", "copy", "remove", "mkdir", "move", "move"}).Draw(r, "op")
	switch op {
	case "file", "tree", "many":
		var leaves []leaf
		from := ""
		switch op {
		case "file":
			leaves, from = []leaf{aDir(""), someLeaf(r, "x")}, "x"
		case "tree":
			leaves = someTree(r)
		case "many":
			leaves = manyLeaves(rapid.IntRange(5, 25).Draw(r, "n"), rapid.ByteRange(0, 3).Draw(r, "seed"))
		}
		f, err := m.write(r, leaves).Lookup(ctx, from)
		if err != nil {
			r.Fatal(err)
		}
		if path == "" {
			path = "new"
		}
		got, want = m.draft.Put(ctx, path, f, now), m.model.put(path, modelOf(leaves).under(from), from, now)
	case "copy":
		from := rapid.SampledFrom(slices.Sorted(maps.Keys(m.before))).Draw(r, "from")
		if m.root == nil || path == "" {
			return
		}
		f, err := m.root.Lookup(ctx, from)
		if err != nil {
			r.Fatal(err)
		}
		got, want = m.draft.Put(ctx, path, f, now), m.model.put(path, m.before.under(from), from, now)
	case "remove":
		if path == "" {
			return
		}
		got, want = m.draft.Remove(ctx, path, now), m.model.remove(path, now)
	case "mkdir":
		parents := rapid.Bool().Draw(r, "parents")
		got, want = m.draft.Mkdir(ctx, path, parents, now), m.model.mkdir(path, parents, now)
	case "move":
		to := m.aPath(r, "to")
		if path == "" {
			return
		}
		got, want = m.draft.Move(ctx, path, to, now), m.model.move(path, to, now)
	}
	if !errors.Is(got, want) || (got == nil) != (want == nil) {
		r.Fatalf("%s %q: got %v, want %v", op, path, got, want)
	}
	m.find(r, path)
}

// find checks what the draft says is at a path.
func (m *machine) find(r *rapid.T, path string) {
	f, err := m.draft.Find(context.Background(), path)
	l, ok := m.model[path]
	if err != nil || ok != (f != nil) || ok && f.entry.Kind != l.e.Kind {
		r.Fatalf("find %q: got %v, %v, want %v", path, f, err, l.e)
	}
}

// commit writes the draft with what only it needs, or with more that is dying.
func (m *machine) commit(r *rapid.T) {
	ctx := context.Background()
	mark := NewMark(m.p)
	if err := mark.Draft(ctx, m.draft); err != nil {
		r.Fatal(err)
	}
	c := Commit{Packs: slices.Collect(maps.Keys(mark.Packs)), Past: m.past}
	if rapid.Bool().Draw(r, "dying") {
		c.Packs = slices.Collect(maps.Keys(m.known))
		for id := range m.known {
			if !mark.Packs[id] {
				c.Dying = append(c.Dying, DyingPack{ID: id, Since: time.UnixMilli(m.now.UnixMilli()).UTC()})
			}
		}
	}
	w := smallWriter(m.p, Options{Parent: m.draft.root.was})
	defer w.close()
	var err error
	if m.written, err = w.volume(ctx, m.draft, c); err != nil {
		r.Fatal(err)
	}
	m.check(r, c)
	m.written.Past = c.Past
	m.goOn(r)
}

// goOn goes on from what was written.
func (m *machine) goOn(r *rapid.T) {
	var err error
	ctx := context.Background()
	if rapid.Bool().Draw(r, "made") {
		m.root = Made(m.p, m.written.Root, m.written.Entry)
	} else if m.root, err = OpenEntry(ctx, m.p, m.written.Root); err != nil {
		r.Fatal(err)
	}
	m.trees = append(m.trees, maps.Clone(m.model))
	m.past = append(slices.Clone(m.written.Past), Past{
		Number: uint64(len(m.past) + 1), Hash: HeadHash(m.written.Root.Key), Time: time.UnixMilli(m.now.UnixMilli()), Peer: "peer", Root: m.written.Root,
	})
	m.draft, m.before = NewDraft(m.root), maps.Clone(m.model)
	if m.draft.Changed() {
		r.Fatal("changed before anything was")
	}
}

// condense stores again what is in some packs, in the tree and in those that were.
func (m *machine) condense(r *rapid.T) {
	ctx := context.Background()
	mark := NewMark(m.p)
	for _, p := range m.past {
		if err := mark.Root(ctx, p.Root); err != nil {
			r.Fatal(err)
		}
	}
	avoid := make(map[pack.ID]bool)
	for _, id := range slices.SortedFunc(maps.Keys(mark.Packs), func(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) }) {
		if !mark.Meta[id] && rapid.Bool().Draw(r, "avoid") {
			avoid[id] = true
		}
	}
	leave, seen := func(ref pack.Ref, seen *Leaving) *Draft {
		f, err := OpenEntry(ctx, m.p, ref)
		if err != nil {
			r.Fatal(err)
		}
		d, err := Leave(ctx, f, avoid, seen)
		if err != nil {
			r.Fatal(err)
		}
		return d
	}, new(Leaving)
	c := Commit{Packs: slices.Collect(maps.Keys(mark.Packs)), Past: m.past}
	for _, p := range m.past {
		c.Again = append(c.Again, leave(p.Root, seen))
	}
	if d := leave(m.written.Root, seen); d != nil {
		m.draft = d
	}
	w := smallWriter(m.p, Options{Parent: m.draft.root.was, Avoid: avoid})
	defer w.close()
	var err error
	if m.written, err = w.volume(ctx, m.draft, c); err != nil {
		r.Fatal(err)
	}
	src := only{m.p, maps.Clone(mark.Packs)}
	for _, id := range m.written.Packs {
		src.has[id], m.known[id] = true, true
	}
	maps.DeleteFunc(src.has, func(id pack.ID, _ bool) bool { return avoid[id] && !slices.Contains(m.written.Packs, id) })
	past, err := ReadHistory(ctx, src, m.written.History)
	if err != nil || !equalPast(past, m.written.Past) || len(past) != len(m.past) {
		r.Fatalf("got a history %v, %v, want %v", past, err, m.written.Past)
	}
	for i, ref := range append([]pack.Ref{m.written.Root}, rootsOf(past)...) {
		f, err := OpenEntry(ctx, src, ref)
		if err != nil {
			r.Fatal(err)
		}
		got, err := readTree(f, 1)
		if err != nil {
			r.Fatalf("state %d of %d: %v", i, len(past), err)
		}
		want := m.model
		if i > 0 {
			want = m.trees[i-1]
		}
		if d := treeDiff(got, want.leaves()); d != "" {
			r.Fatalf("state %d of %d: %s", i, len(past), d)
		}
	}
	m.goOn(r)
}

func rootsOf(past []Past) (refs []pack.Ref) {
	for _, p := range past {
		refs = append(refs, p.Root)
	}
	return refs
}

// only is a source of some packs.
type only struct {
	*packs
	has map[pack.ID]bool
}

func (o only) Open(ctx context.Context, id pack.ID, off, n int) (Range, error) {
	if !o.has[id] {
		return nil, errMissing
	}
	return o.packs.Open(ctx, id, off, n)
}

// check reads back what was written, from those packs that it lists and are not
// dying.
func (m *machine) check(r *rapid.T, c Commit) {
	ctx, w := context.Background(), m.written
	ids, err := ReadInventory(ctx, m.p, w.Inventory)
	if err != nil {
		r.Fatal(err)
	}
	want := make(map[pack.ID]bool)
	for _, id := range slices.Concat(c.Packs, w.Packs) {
		want[id] = true
	}
	src := only{m.p, make(map[pack.ID]bool)}
	for _, id := range ids {
		src.has[id] = true
	}
	if !maps.Equal(src.has, want) || len(ids) != len(want) || ids[len(ids)-1] != w.Root.Pack {
		r.Fatalf("got an inventory of %d packs, want %d", len(ids), len(want))
	}
	c.Dying = slices.DeleteFunc(c.Dying, func(d DyingPack) bool { return slices.Contains(w.Packs, d.ID) }) // it was needed again
	for _, d := range c.Dying {
		delete(src.has, d.ID)
	}
	for _, id := range w.Packs {
		m.known[id] = true
	}
	f, err := OpenEntry(ctx, src, w.Root)
	if err != nil {
		r.Fatal(err)
	}
	files, total := m.model.counts()
	if f.entry.Files != files || f.entry.Bytes != total || w.Entry.Files != files || w.Entry.Bytes != total {
		r.Fatalf("got %d files with %d bytes, want %d with %d", f.entry.Files, f.entry.Bytes, files, total)
	}
	got, err := readTree(f, 1)
	if err != nil {
		r.Fatal(err)
	}
	if d := treeDiff(got, m.model.leaves()); d != "" {
		r.Fatal(d)
	}
	past, err := ReadHistory(ctx, src, w.History)
	if err != nil || !equalPast(past, c.Past) && len(past)+len(c.Past) > 0 {
		r.Fatalf("got a history %v, %v, want %v", past, err, c.Past)
	}
	dying, err := ReadDying(ctx, src, w.Dying)
	slices.SortFunc(c.Dying, func(a, b DyingPack) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	if err != nil || !slices.EqualFunc(dying, c.Dying, func(a, b DyingPack) bool { return a.ID == b.ID && a.Since.Equal(b.Since) }) {
		r.Fatalf("got dying packs %v, %v, want %v", dying, err, c.Dying)
	}
}

func TestAnyDraftIsReadAsChanged(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := newMachine()
		for range rapid.IntRange(1, 5).Draw(r, "commits") {
			for range rapid.IntRange(0, 6).Draw(r, "steps") {
				m.step(r)
			}
			m.commit(r)
			if rapid.IntRange(0, 2).Draw(r, "condense") == 0 {
				m.condense(r)
			}
		}
		m.p.allClosed(t)
	})
}

// commitDraft writes a draft with what it needs, and opens what was written.
func commitDraft(t testing.TB, p *packs, d *Draft) *File {
	t.Helper()
	ctx := context.Background()
	m := NewMark(p)
	if err := m.Draft(ctx, d); err != nil {
		t.Fatal(err)
	}
	w, err := WriteVolume(ctx, p, &testKeys, d, Commit{Packs: slices.Collect(maps.Keys(m.Packs))}, Options{PackBytes: smallest})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := ReadInventory(ctx, p, w.Inventory)
	if err != nil {
		t.Fatal(err)
	}
	src := only{p, make(map[pack.ID]bool)}
	for _, id := range ids {
		src.has[id] = true
	}
	f, err := OpenEntry(ctx, src, w.Root)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func put(t testing.TB, d *Draft, path string, f *File, now time.Time) {
	t.Helper()
	if err := d.Put(context.Background(), path, f, now); err != nil {
		t.Fatal(err)
	}
}

func TestRefusedChangesChangeNothing(t *testing.T) {
	p := newPacks()
	base := []leaf{aDir(""), aFile("f", []byte("f")), aDir("p"), aDir("p/q"), aFile("p/q/g", []byte("g")), aDir("r"), aDir("r/q"), aFile("r/x", nil)}
	l, _, _ := writeTree(t, p, base, Options{})
	root := openTree(t, p, l)
	f, err := root.Lookup(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	ctx, now := t.Context(), time.Unix(1_800_000_000, 0)
	deep := strings.Repeat("d/", MaxDepth)
	long := strings.Repeat("n", MaxName+1)
	any := errors.New("any")
	for name, c := range map[string]struct {
		do   func(d *Draft) error
		want error
	}{
		"put at the root":                   {func(d *Draft) error { return d.Put(ctx, "//", f, now) }, any},
		"put below a file":                  {func(d *Draft) error { return d.Put(ctx, "f/x", f, now) }, ErrNotDir},
		"put far below a file":              {func(d *Draft) error { return d.Put(ctx, "f/x/y", f, now) }, ErrNotDir},
		"put as nothing that is a name":     {func(d *Draft) error { return d.Put(ctx, "new/..", f, now) }, any},
		"put below what is no name":         {func(d *Draft) error { return d.Put(ctx, "new/../x", f, now) }, any},
		"put below a long name":             {func(d *Draft) error { return d.Put(ctx, "new/"+long+"/x", f, now) }, any},
		"put with a zero in the name":       {func(d *Draft) error { return d.Put(ctx, "new/a\x00b", f, now) }, any},
		"put too deep":                      {func(d *Draft) error { return d.Put(ctx, deep+"x", f, now) }, any},
		"put of a directory too deep":       {func(d *Draft) error { return d.Put(ctx, deep[:len(deep)-1], root, now) }, any},
		"remove the root":                   {func(d *Draft) error { return d.Remove(ctx, "", now) }, any},
		"remove what is not there":          {func(d *Draft) error { return d.Remove(ctx, "p/x", now) }, ErrNotFound},
		"remove below what is not there":    {func(d *Draft) error { return d.Remove(ctx, "x/y", now) }, ErrNotFound},
		"remove below a file":               {func(d *Draft) error { return d.Remove(ctx, "f/y", now) }, ErrNotDir},
		"make the root":                     {func(d *Draft) error { return d.Mkdir(ctx, "/", false, now) }, ErrExists},
		"make a directory that is there":    {func(d *Draft) error { return d.Mkdir(ctx, "p", false, now) }, ErrExists},
		"make what is a file":               {func(d *Draft) error { return d.Mkdir(ctx, "f", false, now) }, ErrExists},
		"make what is a file, with parents": {func(d *Draft) error { return d.Mkdir(ctx, "f", true, now) }, ErrExists},
		"make below a file":                 {func(d *Draft) error { return d.Mkdir(ctx, "f/x", false, now) }, ErrNotDir},
		"make below a file, with parents":   {func(d *Draft) error { return d.Mkdir(ctx, "f/x/y", true, now) }, ErrNotDir},
		"make without parents":              {func(d *Draft) error { return d.Mkdir(ctx, "x/y", false, now) }, ErrNotFound},
		"make what is no name":              {func(d *Draft) error { return d.Mkdir(ctx, "new/.", true, now) }, any},
		"make too deep":                     {func(d *Draft) error { return d.Mkdir(ctx, deep, true, now) }, any},
		"move the root":                     {func(d *Draft) error { return d.Move(ctx, "", "p", now) }, any},
		"move what is not there":            {func(d *Draft) error { return d.Move(ctx, "x", "p", now) }, ErrNotFound},
		"move below what is not there":      {func(d *Draft) error { return d.Move(ctx, "f", "x/y", now) }, ErrNotFound},
		"move below a file":                 {func(d *Draft) error { return d.Move(ctx, "p", "f/y", now) }, ErrNotDir},
		"move into itself":                  {func(d *Draft) error { return d.Move(ctx, "p", "p", now) }, ErrInto},
		"move deep into itself":             {func(d *Draft) error { return d.Move(ctx, "p", "p/q/new", now) }, ErrInto},
		"move over a file, a directory":     {func(d *Draft) error { return d.Move(ctx, "p", "f", now) }, ErrExists},
		"move over a directory, one":        {func(d *Draft) error { return d.Move(ctx, "p/q", "r", now) }, ErrExists},
		"move to what is no name":           {func(d *Draft) error { return d.Move(ctx, "f", "p/..", now) }, any},
		"move to a long name":               {func(d *Draft) error { return d.Move(ctx, "f", long, now) }, any},
		"move to where it is":               {func(d *Draft) error { return d.Move(ctx, "p/q", "p", now) }, nil},
		"move a file to where it is":        {func(d *Draft) error { return d.Move(ctx, "f", "/", now) }, nil},
		"make what is there, with parents":  {func(d *Draft) error { return d.Mkdir(ctx, "/p/q/", true, now) }, nil},
		"make the root, with parents":       {func(d *Draft) error { return d.Mkdir(ctx, "", true, now) }, nil},
	} {
		d := NewDraft(root)
		err := c.do(d)
		if (err == nil) != (c.want == nil) || c.want != any && !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if d.Changed() {
			t.Errorf("%s: it is changed", name)
		}
		sameTree(t, commitDraft(t, p, d), base, 0)
	}
}

func TestMoveOverFilesAndIntoDirectories(t *testing.T) {
	p := newPacks()
	base := []leaf{aDir(""), aFile("f", []byte("f")), aFile("g", []byte("g")), aDir("p"), aFile("p/g", []byte("below")), aDir("r")}
	l, _, _ := writeTree(t, p, base, Options{})
	now := time.Unix(1_800_000_000, 0)
	for _, c := range []struct{ from, to, is string }{
		{"f", "g", "g"}, {"f", "p", "p/f"}, {"g", "p", "p/g"}, {"f", "r/new", "r/new"}, {"p", "r", "r/p"}, {"p", "r/new", "r/new"}, {"p/g", "", "g"}, {"p", "q", "q"},
	} {
		root := openTree(t, p, l)
		d := NewDraft(root)
		if err := d.Move(t.Context(), c.from, c.to, now); err != nil {
			t.Errorf("%s to %s: %v", c.from, c.to, err)
			continue
		}
		m := modelOf(base)
		if err := m.move(c.from, c.to, now); err != nil || m[c.is].path == "" {
			t.Fatal(err)
		}
		f := commitDraft(t, p, d)
		sameTree(t, f, m.leaves(), 0)
		// Back where it was, at another time.
		d = NewDraft(f)
		if err := d.Move(t.Context(), c.is, c.from, now); err != nil && !errors.Is(err, ErrExists) || !d.Changed() && err == nil {
			t.Errorf("%s back to %s: %v", c.is, c.from, err)
		}
	}
}

// What is moved out of a directory and back is what it was, whatever was between.
func TestADirectoryMovedWhileItChanges(t *testing.T) {
	p := newPacks()
	l, _, _ := writeTree(t, p, everything(), Options{})
	root := openTree(t, p, l)
	ctx, now := t.Context(), time.Unix(1_800_000_000, 0)
	text, err := root.Lookup(ctx, "sub/deep/text")
	if err != nil {
		t.Fatal(err)
	}
	d, m := NewDraft(root), modelOf(everything())
	check := func(got, want error) {
		t.Helper()
		if got != nil || want != nil {
			t.Fatal(got, want)
		}
	}
	check(d.Put(ctx, "sub/deep/new", text, now), m.put("sub/deep/new", m.under("sub/deep/text"), "sub/deep/text", now))
	check(d.Move(ctx, "sub", "empty", now), m.move("sub", "empty", now))
	check(d.Remove(ctx, "empty/sub/deep/text", now), m.remove("empty/sub/deep/text", now))
	check(d.Move(ctx, "empty/sub/deep", "other", now), m.move("empty/sub/deep", "other", now))
	check(d.Mkdir(ctx, "sub/deep", true, now), m.mkdir("sub/deep", true, now))
	check(d.Put(ctx, "sub/deep/text", root, now), m.put("sub/deep/text", everything(), "", now))
	sameTree(t, commitDraft(t, p, d), m.leaves(), 1)

	f, err := d.Find(ctx, "empty/sub") // what it was, and where it was
	if err != nil || f == nil || f.entry.Name != "sub" {
		t.Fatal(f, err)
	}
	sameTree(t, f, atRoot(everything(), "sub"), 0)
	if f, err := d.Find(ctx, "sub"); err != nil || f == nil || f.entry.Kind != DirEntry || f.entry.Size != 0 {
		t.Errorf("a new directory: got %v, %v", f, err)
	}
	if f, err := d.Find(ctx, "empty/sub/deep"); err != nil || f != nil {
		t.Errorf("what has moved: got %v, %v", f, err)
	}
}

// atRoot gives what is at a path as a tree of its own.
func atRoot(leaves []leaf, path string) []leaf {
	m := make(model)
	for _, l := range modelOf(leaves).under(path) {
		l.path = strings.TrimPrefix(strings.TrimPrefix(l.path, path), "/")
		m[l.path] = l
	}
	return m.leaves()
}

// counting is a source that remembers what was read.
type counting struct {
	Source
	read map[place32]int
}

func (c counting) Open(ctx context.Context, id pack.ID, off, n int) (Range, error) {
	c.read[place32{id, uint32(off)}]++
	return c.Source.Open(ctx, id, off, n)
}

// lists gives where the lists, and nodes of them, of all directories are.
func lists(t testing.TB, root *File) map[string][]place32 {
	t.Helper()
	out := make(map[string][]place32)
	for p, err := range root.Walk(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		if p.entry.Kind != DirEntry {
			continue
		}
		src := counting{p.src, make(map[place32]int)}
		for _, err := range (&File{src: src, root: p.root, entry: p.entry}).List(context.Background()) {
			if err != nil {
				t.Fatal(err)
			}
		}
		out[p.Path] = slices.Collect(maps.Keys(src.read))
	}
	return out
}

// Of a tree of some 20,000 entries only what is above a change is read and written.
func TestOnlyWhatIsAboveAChangeIsReadAndWritten(t *testing.T) {
	p := newPacks()
	leaves := []leaf{aDir("")}
	for i := range 7 {
		leaves = append(leaves, aDir(fmt.Sprintf("d%02d", i)))
		for j := range 35 {
			leaves = append(leaves, aDir(fmt.Sprintf("d%02d/e%02d", i, j)))
			for k := range 85 {
				leaves = append(leaves, aFile(fmt.Sprintf("d%02d/e%02d/%03d", i, j, k), nil))
			}
		}
	}
	l, e, _ := writeTree(t, p, leaves, Options{})
	root := openTree(t, p, l)
	before := lists(t, root)
	if len(before["d05/e07"]) != 1 || len(before["d05"]) != 1 { // and the root's in its entry
		t.Fatalf("lists are in %v, %v", before["d05"], before["d05/e07"])
	}
	file := aFile("new", []byte("new"))
	nl, _, _ := writeTree(t, p, []leaf{aDir(""), file}, Options{})
	f, err := openTree(t, p, nl).Lookup(t.Context(), "new")
	if err != nil {
		t.Fatal(err)
	}

	src := counting{p, make(map[place32]int)}
	was := &File{src: src, root: root.root, entry: root.entry}
	d := NewDraft(was)
	m := modelOf(leaves)
	now := time.Unix(1_800_000_000, 0)
	put(t, d, "d05/e07/new", f, now)
	if err := errors.Join(d.Remove(t.Context(), "d05/e07/084", now), d.Mkdir(t.Context(), "d05/e07/sub", false, now)); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		m.put("d05/e07/new", []leaf{file}, "new", now), m.remove("d05/e07/084", now), m.mkdir("d05/e07/sub", false, now),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	had := len(p.data)
	mark := make(map[pack.ID]bool)
	for id := range p.data {
		mark[id] = true
	}
	w, err := WriteVolume(t.Context(), p, &testKeys, d, Commit{Packs: slices.Collect(maps.Keys(mark))}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	above := slices.Concat(before[""], before["d05"], before["d05/e07"])
	for at, n := range src.read {
		if !slices.Contains(above, at) || n > 6 {
			t.Errorf("the chunk at %d is read %d times", at.off, n)
		}
	}
	if len(p.data) != had+1 || len(w.Packs) != 1 || len(p.data[w.Packs[0]]) > 32<<10 {
		t.Errorf("%d packs more, of %d bytes", len(p.data)-had, len(p.data[w.Packs[0]]))
	}
	f, err = OpenEntry(t.Context(), p, w.Root)
	if err != nil {
		t.Fatal(err)
	}
	for path, at := range lists(t, f) {
		switch path {
		case "", "d05", "d05/e07", "d05/e07/sub":
			if len(at) > 0 && at[0].id != w.Root.Pack {
				t.Errorf("%q: its list is where it was", path)
			}
		default:
			if !slices.Equal(at, before[path]) {
				t.Errorf("%q: its list was written again", path)
			}
		}
	}
	if w.Entry.Files != e.Files || w.Entry.Bytes != e.Bytes+3 {
		t.Errorf("got %d files with %d bytes, want %d with %d", w.Entry.Files, w.Entry.Bytes, e.Files, e.Bytes+3)
	}
	sameTree(t, f, m.leaves(), 2)

	// In a long list a name more changes one chunk.
	wide := []leaf{aDir(""), aDir("w")}
	for i := range 10_000 {
		wide = append(wide, aFile(fmt.Sprintf("w/%06d", i), nil))
	}
	l, _, ids := writeTree(t, p, wide, Options{})
	d = NewDraft(openTree(t, p, l))
	put(t, d, "w/005000x", f, now)
	w, err = WriteVolume(t.Context(), p, &testKeys, d, Commit{Packs: slices.Concat(ids, slices.Collect(maps.Keys(mark)))}, Options{})
	if err != nil || len(w.Packs) != 1 || len(p.data[w.Packs[0]]) > 300<<10 {
		t.Errorf("%d packs more, of %d bytes, %v", len(w.Packs), len(p.data[w.Packs[0]]), err)
	}
}

// Directories that stand in the entries above them keep what they refer to, wherever
// those come to stand.
func TestListsInEntriesAreGraftedRight(t *testing.T) {
	p := newPacks()
	small := func(path string) []leaf {
		return []leaf{aFile(path+"/x", content(700, 0, 1)), aFile(path+"/y", []byte("tiny")), aFile(path+"/z", content(9000, 0, 2))}
	}
	tree := []leaf{aDir(""), aDir("a")}
	tree = append(tree, aDir("a/b"), aDir("a/b/c"))
	tree = append(tree, small("a/b/c")...)
	tree = append(tree, aDir("a/b/many"))
	for _, l := range manyLeaves(30, 1)[1:] { // its refs are into the pack that it is in, or one before
		l.path = "a/b/many/" + l.path
		tree = append(tree, l)
	}
	tree = append(tree, small("a/d")...)
	tree = append(tree, aDir("a/d"))
	tree = modelOf(tree).leaves()
	for _, entry := range []func(w *writer) *File{
		func(w *writer) *File { return Made(p, w.root, w.entry) },
		func(w *writer) *File { f, _ := OpenEntry(t.Context(), p, w.root); return f },
	} {
		w := smallWriter(p, Options{})
		if err := w.tree(t.Context(), walkOf(tree)); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"", "a", "a/b", "a/b/c", "a/b/many", "a/d"} {
			f, err := entry(w).Lookup(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			if path != "a/b/many" && len(f.entry.parts) > 0 {
				t.Fatalf("%q does not stand in its entry", path)
			}
			now := time.Unix(1_800_000_000, 0)
			want := modelOf([]leaf{{e: NewDraft(nil).root.entry}})
			d := NewDraft(nil)
			for _, to := range []string{"one", "two/three", "two/four/five"} {
				put(t, d, to, f, now)
				if err := want.put(to, modelOf(tree).under(path), path, now); err != nil {
					t.Fatal(err)
				}
			}
			g := commitDraft(t, p, d)
			sameTree(t, g, want.leaves(), 1)

			// And from there once more, out of an entry in an entry.
			f, err = g.Lookup(t.Context(), "two/four")
			if err != nil {
				t.Fatal(err)
			}
			f.src = p
			d = NewDraft(g)
			put(t, d, "again", f, now)
			if err := want.put("again", want.under("two/four"), "two/four", now); err != nil {
				t.Fatal(err)
			}
			sameTree(t, commitDraft(t, p, d), want.leaves(), 1)
		}
	}
}

// A pack that is dying and comes to be written once more is not dying any more.
func TestWhatIsWrittenAgainIsNotDying(t *testing.T) {
	p := newPacks()
	ctx, now := t.Context(), time.Unix(1_800_000_000, 0)
	l, _, ids := writeTree(t, p, manyLeaves(40, 1), Options{})
	tree := openTree(t, p, l)
	write := func(d *Draft, c Commit) Written {
		t.Helper()
		w := smallWriter(p, Options{Parent: d.root.was})
		defer w.close()
		out, err := w.volume(ctx, d, c)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	edit := func(root *File) *Draft { // its list is written, all of it
		d := NewDraft(root)
		put(t, d, "many", tree, now)
		if err := d.Remove(ctx, "many/m39", now); err != nil {
			t.Fatal(err)
		}
		return d
	}
	one := write(edit(nil), Commit{Packs: ids})
	if len(one.Packs) < 3 {
		t.Fatalf("%d packs", len(one.Packs))
	}
	c := Commit{Packs: slices.Concat(ids, one.Packs)}
	for _, id := range c.Packs {
		if !slices.Contains(ids, id) {
			c.Dying = append(c.Dying, DyingPack{ID: id, Since: now})
		}
	}
	two := write(edit(nil), c)
	dying, err := ReadDying(ctx, p, two.Dying)
	if err != nil {
		t.Fatal(err)
	}
	m := NewMark(p)
	if err := m.Root(ctx, two.Root); err != nil {
		t.Fatal(err)
	}
	if len(dying) >= len(c.Dying) {
		t.Errorf("nothing was written again")
	}
	for _, d := range dying {
		if m.Packs[d.ID] {
			t.Errorf("pack %s is dying and needed", d.ID.Short())
		}
	}
}

// Numbers of files with several names are those of the trees that were put: those
// of two may be the same.
func TestOneNumberForTwoFilesIsNotOneFile(t *testing.T) {
	p := newPacks()
	link := func(path string, data []byte) leaf {
		l := aFile(path, data)
		l.e.Group = 7
		return l
	}
	old, now := content(3000, 0, 1), content(3000, 0, 2)
	d := NewDraft(nil)
	for path, data := range map[string][]byte{"monday": old, "tuesday": now} {
		l, _, _ := writeTree(t, p, []leaf{aDir(""), link("a", data), link("b", data)}, Options{})
		put(t, d, path, openTree(t, p, l), time.Unix(1_800_000_000, 0))
	}
	got, err := readTree(commitDraft(t, p, d), 1)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[uint64][]byte)
	for _, l := range got {
		if l.e.Kind != FileEntry {
			continue
		}
		if was, ok := files[l.e.Group]; ok && l.e.Group != 0 && !bytes.Equal(was, l.data) {
			t.Errorf("%q is said to be a file that it is not", l.path)
		}
		files[l.e.Group] = l.data
	}
	if files[7] == nil {
		t.Error("no file has two names")
	}
}

func TestARootThatIsWrittenAloneIsReadByItsLink(t *testing.T) {
	p := newPacks()
	m := modelOf(everything())
	l, _, _ := writeTree(t, p, everything(), Options{})
	root := openTree(t, p, l)
	for _, path := range []string{"", "sub", "sub/deep", "empty", "second name", "sub/deep/text"} {
		f, err := root.Lookup(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		mark := NewMark(p)
		if err := mark.Tree(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		ref, e, err := WriteRoot(t.Context(), p, &testKeys, f, "given", slices.Collect(maps.Keys(mark.Packs)), Options{})
		if err != nil {
			t.Fatal(err)
		}
		link := TreeLink(testNetwork, ref)
		if e.Kind == FileEntry {
			link = FileLink(testNetwork, ref)
		}
		g := openTree(t, p, link)
		ids, err := g.Packs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if inv := InventoryOf(e); inv == (pack.Ref{}) || inv != InventoryOf(g.entry) {
			t.Errorf("%q: its inventory is at %v", path, inv)
		}
		src := only{p, make(map[pack.ID]bool)}
		for _, id := range ids {
			src.has[id] = true
		}
		if g, err = OpenRoot(t.Context(), src, link); err != nil {
			t.Fatal(err)
		}
		want := atRoot(m.leaves(), path)
		want[0].e.Name = "given"
		sameTree(t, g, want, 0)
		a, err := f.Identity("given")
		if err != nil {
			t.Fatal(err)
		}
		b, err := g.Identity("given")
		if err != nil || a != b || !Same(f, g) {
			t.Errorf("%q: it is another where it is alone: %v, %v, %v", path, a, b, err)
		}
		if c, err := f.Identity("other"); err != nil || c == a {
			t.Errorf("%q: the same under another name: %v", path, err)
		}
	}
}

func equalPast(a, b []Past) bool { return reflect.DeepEqual(a, b) || len(a) == 0 && len(b) == 0 }
