package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/volume"
)

// items is a tree for tests, as source and as sink.
type items struct {
	list []Item
	data [][]byte
	next int
	bad  string                 // path of a file that cannot be read
	same func(path string) bool // files as they were in the parent; nil: none
}

func (s *items) Next(context.Context) (Item, io.Reader, error) {
	if s.next == len(s.list) {
		return Item{}, nil, io.EOF
	}
	i := s.next
	s.next++
	if s.list[i].Entry.Kind != volume.FileEntry {
		return s.list[i], nil, nil
	}
	if s.same != nil && s.same(s.list[i].Path) {
		return s.list[i], nil, nil
	}
	if s.list[i].Path == s.bad {
		return s.list[i], io.MultiReader(strings.NewReader("half"), failing{fmt.Errorf("gone: %w", ErrLeftOut)}), nil
	}
	return s.list[i], bytes.NewReader(s.data[i]), nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func (s *items) Take(item Item) (io.Writer, error) {
	s.list = append(s.list, item)
	s.data = append(s.data, nil)
	return (*tail)(s), nil
}

// tail appends to the content of the last item.
type tail items

func (s *tail) Write(b []byte) (int, error) {
	i := len(s.data) - 1
	s.data[i] = append(s.data[i], b...)
	return len(b), nil
}

func (s *items) add(path string, kind volume.EntryKind, data []byte) {
	name := path[strings.LastIndexByte(path, '/')+1:]
	if path == "" {
		name = "photos"
	}
	s.list = append(s.list, Item{Path: path, Entry: volume.Entry{Kind: kind, Name: name, Mode: 0o750, MTime: time.Unix(9, 8), Size: int64(len(data))}})
	s.data = append(s.data, data)
}

// aTree has dirs directories with each files files in it.
func aTree(dirs, files int) *items {
	s := new(items)
	s.add("", volume.DirEntry, nil)
	for d := range dirs {
		s.add(fmt.Sprintf("%03d", d), volume.DirEntry, nil)
		for f := range files {
			s.add(fmt.Sprintf("%03d/%03d", d, f), volume.FileEntry, random(uint64(d*1000+f), 100+37*f*d))
		}
	}
	s.add("large", volume.FileEntry, random(7, 3<<20))
	return s
}

func (s *items) equal(t *testing.T, got *items) {
	t.Helper()
	if len(got.list) != len(s.list) {
		t.Fatalf("got %d entries, want %d", len(got.list), len(s.list))
	}
	for i, want := range s.list {
		g := got.list[i]
		if g.Path != want.Path || g.Entry.Kind != want.Entry.Kind || g.Entry.Mode != want.Entry.Mode || !g.Entry.MTime.Equal(want.Entry.MTime) || !bytes.Equal(got.data[i], s.data[i]) {
			t.Errorf("got %q with %d bytes, want %q with %d, or others", g.Path, len(got.data[i]), want.Path, len(s.data[i]))
		}
	}
}

func TestTreesSurviveThePromisedLosses(t *testing.T) {
	m := newMemNet(t, 301, 20, 0)
	tree := aTree(20, 30)
	scheme := &erasure.Scheme{K: 8, M: 12}
	var last Progress
	res, err := m.client().node().PutTree(t.Context(), PutRequest{Size: -1, Redundancy: scheme}, tree, func(p Progress) { last = p })
	if err != nil {
		t.Fatal(err)
	}
	bytes := int64(0)
	for _, d := range tree.data {
		bytes += int64(len(d))
	}
	if res.Files != 601 || res.Bytes != bytes || last.Done != bytes || res.Partial {
		t.Errorf("got %+v and progress %+v, want 601 files with %d bytes", res, last, bytes)
	}
	for _, h := range m.holders()[:12] {
		h.down.Store(true)
	}
	reader := m.client().node()
	got := new(items)
	if err := reader.GetTree(t.Context(), GetRequest{Source: res.Link}, got, func(p Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	tree.equal(t, got)
	if last.Done != bytes || last.Total != bytes {
		t.Errorf("got progress %+v, want %d bytes", last, bytes)
	}
	m.holders()[12].down.Store(true)
	if err := m.client().node().GetTree(t.Context(), GetRequest{Source: res.Link}, new(items), nil); CodeOf(err) != Short {
		t.Errorf("with one holder less: got %v (code %d), want code %d", err, CodeOf(err), Short)
	}
}

func TestPathsInATree(t *testing.T) {
	m := newMemNet(t, 302, 5, 0)
	tree := aTree(3, 3)
	tree.bad = "001/001"
	res, err := m.client().node().PutTree(t.Context(), PutRequest{Size: -1}, tree, nil)
	if err != nil || res.Files != 9 {
		t.Fatalf("got %+v, %v, want 9 files", res, err)
	}
	n := m.client().node()
	list := func(source string, recursive bool) (paths []string) {
		t.Helper()
		err := n.List(t.Context(), source, recursive, func(i Item) error { paths = append(paths, i.Path); return nil })
		if err != nil {
			t.Errorf("list %q: %v", source, err)
		}
		return paths
	}
	for source, want := range map[string][]string{
		res.Link:              {"000", "001", "002", "large"},
		res.Link + "/001/":    {"000", "002"},
		res.Link + "/001/002": {""},
		res.Link + "//002//":  {"000", "001", "002"},
	} {
		if got := list(source, false); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := list(res.Link, true); len(got) != 12 || got[1] != "000/000" {
		t.Errorf("got %q", got)
	}
	b, info, err := get(t.Context(), n, res.Link+"/large")
	if err != nil || !bytes.Equal(b, random(7, 3<<20)) || info.Name != "large" {
		t.Errorf("got %d bytes of %+v, %v", len(b), info, err)
	}
	one := new(items)
	if err := n.GetTree(t.Context(), GetRequest{Source: res.Link + "/002/001"}, one, nil); err != nil || len(one.list) != 1 || one.list[0].Path != "" {
		t.Errorf("got %+v, %v, want the file", one.list, err)
	}
	file := put(t, m.client().node(), "a file", random(1, 100), nil)
	for source, want := range map[string]Code{
		res.Link:                Usage, // a directory
		res.Link + "/nothing":   NotFound,
		res.Link + "/large/sub": NotFound,
		res.Link + "/../large":  NotFound,
		file.Link + "/x":        Usage,
	} {
		if _, _, err := get(t.Context(), n, source); CodeOf(err) != want {
			t.Errorf("got %v (code %d), want code %d", err, CodeOf(err), want)
		}
	}
	if st, err := n.Stat(t.Context(), res.Link); err != nil || st.Kind != "tree" || st.Files != 9 || st.Bytes != res.Bytes || st.Packs != res.Packs {
		t.Errorf("got %+v, %v", st, err)
	}
	if st, err := n.Stat(t.Context(), res.Link+"/large"); err != nil || st.Kind != "file" || st.Bytes != 3<<20 || st.Packs != res.Packs {
		t.Errorf("got %+v, %v", st, err)
	}
	if h, err := n.Health(t.Context(), res.Link); err != nil || h.Kind != "tree" || h.Packs != res.Packs {
		t.Errorf("got %+v, %v", h, err)
	}
	stop := errors.New("enough")
	if err := n.List(t.Context(), res.Link, true, func(Item) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v, want %v", err, stop)
	}
}

func TestATreeIsRemovedWithAllItsPacks(t *testing.T) {
	m := newMemNet(t, 303, 5, 0)
	owner := m.client().node()
	tree := aTree(3, 3)
	res, err := owner.PutTree(t.Context(), PutRequest{Size: -1}, tree, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Remove(t.Context(), res.Link+"/large"); CodeOf(err) != Usage {
		t.Errorf("a path in it: got %v, want code %d", err, Usage)
	}
	if done, err := owner.Remove(t.Context(), res.Link); err != nil || done.Packs != res.Packs {
		t.Errorf("got %+v, %v, want %d packs removed", done, err, res.Packs)
	}
	if err := m.client().node().GetTree(t.Context(), GetRequest{Source: res.Link}, new(items), nil); CodeOf(err) != NotFound {
		t.Errorf("afterwards: got %v (code %d), want code %d", err, CodeOf(err), NotFound)
	}
	tree.next = 0
	again, err := owner.PutTree(t.Context(), PutRequest{Size: -1}, tree, nil)
	if err != nil || again.Link != res.Link {
		t.Errorf("put again: got %+v, %v, want the same link", again, err)
	}
	if err := m.client().node().GetTree(t.Context(), GetRequest{Source: res.Link}, new(items), nil); err != nil {
		t.Errorf("put again: %v", err)
	}
}

func TestASecondPutSendsWhatIsNew(t *testing.T) {
	m := newMemNet(t, 304, 10, 0)
	owner := m.client().node()
	q := PutRequest{Size: -1, Source: "here:/photos"}
	if p, err := owner.Parent(t.Context(), q); p != "" || err != nil {
		t.Errorf("before the first: got %q, %v", p, err)
	}
	tree := aTree(10, 10)
	first, err := owner.PutTree(t.Context(), q, tree, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]PutRequest{
		"another source": {Source: "here:/music"},
		"no source":      {},
		"redundancy":     {Source: q.Source, Redundancy: &erasure.Scheme{K: 2, M: 3}},
	} {
		if p, err := owner.Parent(t.Context(), other); p != "" || err != nil {
			t.Errorf("%s: got %q, %v", name, p, err)
		}
	}
	if q.Parent, err = owner.Parent(t.Context(), q); err != nil || q.Parent != first.Link {
		t.Fatalf("got %q, %v, want %q", q.Parent, err, first.Link)
	}
	tree.data[5] = random(999, 5000)
	tree.list[5].Entry.Size, tree.list[5].Entry.MTime = 5000, time.Unix(10, 0)
	tree.next, tree.same = 0, func(path string) bool { return path != tree.list[5].Path }
	second, err := owner.PutTree(t.Context(), q, tree, nil)
	if err != nil || second.Files != first.Files || second.NewBytes > 64<<10 || second.Link == first.Link || first.NewBytes < 3<<20 {
		t.Fatalf("got %+v, %v after %+v", second, err, first)
	}
	if second.Survives != first.Survives { // what it needs of the first is no safer than that
		t.Errorf("got %+v after %+v", second, first)
	}
	if p, err := owner.Parent(t.Context(), q); err != nil || p != second.Link {
		t.Errorf("got %q, %v, want the second", p, err)
	}
	// The packs that both have stay as long as one of them does.
	if done, err := owner.Remove(t.Context(), first.Link); err != nil || done.Kept == 0 {
		t.Errorf("got %+v, %v, want packs kept", done, err)
	}
	got := new(items)
	if err := m.client().node().GetTree(t.Context(), GetRequest{Source: second.Link}, got, nil); err != nil {
		t.Fatal(err)
	}
	tree.equal(t, got)
	tree.next = 0
	if _, err := owner.PutTree(t.Context(), q, tree, nil); CodeOf(err) != Failed {
		t.Errorf("on what was removed: got %v, want code %d", err, Failed)
	}
	if done, err := owner.Remove(t.Context(), second.Link); err != nil || done.Kept != 0 || done.Packs < second.Packs {
		t.Errorf("got %+v, %v, want %d packs removed", done, err, second.Packs)
	}
}

func TestWhatIsBuiltOnIsNotRemoved(t *testing.T) {
	var p parents
	id := store.RootID{1}
	if a, b := p.use(id), p.use(id); !a || !b || p.remove(id) {
		t.Error("removed while it is used")
	}
	p.used(id)
	if p.remove(id) {
		t.Error("removed while it is used by one")
	}
	p.used(id)
	if !p.remove(id) || p.use(id) || p.remove(id) {
		t.Error("used, or removed again, while it is being removed")
	}
	p.removed(id)
	if !p.use(id) || len(p.puts) != 1 {
		t.Error("not to be used afterwards")
	}
}
