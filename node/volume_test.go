package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/volume"
)

// home gives a client with a home of its own, in a directory of the test's.
func (m *memNet) home(t *testing.T, seed byte) *Node {
	n := m.client().homeOf(volume.Seed{seed, 7})
	n.home = HomeAt(t.TempDir())
	return n
}

// into puts a file into a directory of a volume.
func into(t *testing.T, n *Node, target, name, content string) PutResult {
	t.Helper()
	res, err := n.Put(t.Context(), PutRequest{Name: name, Mode: 0o644, Size: int64(len(content)), Target: target}, strings.NewReader(content), nil)
	if err != nil {
		t.Fatalf("put %s into %s: %v", name, target, err)
	}
	return res
}

// text gives what is at a place.
func text(t *testing.T, n *Node, place string) string {
	t.Helper()
	b, _, err := get(t.Context(), n, place)
	if err != nil {
		t.Fatalf("get %s: %v", place, err)
	}
	return string(b)
}

// names gives the paths below a place.
func names(t *testing.T, n *Node, place string) string {
	t.Helper()
	var out []string
	err := n.List(t.Context(), place, true, func(i Item) error { out = append(out, i.Path); return nil })
	if err != nil {
		t.Fatalf("list %s: %v", place, err)
	}
	return strings.Join(out, " ")
}

func TestAVolumeFromOneHomeToAnother(t *testing.T) {
	m := newMemNet(t, 401, 6, 0)
	a, b := m.home(t, 1), m.home(t, 2)
	if _, err := a.VolumeCreate(t.Context(), "docs"); err != nil {
		t.Fatal(err)
	}
	into(t, a, "docs:", "one", "first")
	into(t, a, "docs:deep/er", "two", "second")
	if got := names(t, a, "docs:"); got != "deep deep/er deep/er/two one" {
		t.Errorf("got %q", got)
	}
	write, err := a.VolumeLink(t.Context(), "docs", "write")
	if err != nil {
		t.Fatal(err)
	}
	res, err := b.VolumeAdd(t.Context(), write, "theirs")
	if err != nil || res.Number != 3 || res.Lost != 0 || res.Packs < 3 {
		t.Fatalf("add: %+v, %v", res, err)
	}
	if got := text(t, b, "theirs:deep/er/two"); got != "second" {
		t.Errorf("got %q", got)
	}
	into(t, b, "theirs:", "one", "changed")
	if err := b.Move(t.Context(), "theirs:deep/er/two", "theirs:"); err != nil {
		t.Fatal(err)
	}
	if err := b.Mkdir(t.Context(), "theirs:new/dir", true); err != nil {
		t.Fatal(err)
	}
	if got := names(t, a, "docs:"); got != "deep deep/er new new/dir one two" {
		t.Errorf("got %q", got)
	}
	if got := text(t, a, "docs:one"); got != "changed" {
		t.Errorf("got %q", got)
	}
	if got := text(t, a, "docs@3:one"); got != "first" {
		t.Errorf("got %q", got)
	}
	log, err := a.VolumeLog(t.Context(), "docs")
	if err != nil || len(log) != 6 || log[0].Number != 6 || !log[0].Current || log[5].Number != 1 || log[5].Current {
		t.Errorf("log: %+v, %v", log, err)
	}
	for right, ok := range map[string]bool{"read": true, "verify": false} {
		link, err := a.VolumeLink(t.Context(), "docs", right)
		if err != nil {
			t.Fatal(err)
		}
		c := m.home(t, 3)
		if _, err := c.VolumeAdd(t.Context(), link, "x"); err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		err = c.Get(t.Context(), GetRequest{Source: "x:one", Length: -1}, func(FileInfo) (io.Writer, error) { return &buf, nil }, nil)
		if ok != (err == nil) || !ok && CodeOf(err) != Refused || ok && buf.String() != "changed" {
			t.Errorf("%s link: got %q, %v", right, buf.String(), err)
		}
		if err := c.Mkdir(t.Context(), "x:y", false); CodeOf(err) != Refused {
			t.Errorf("%s link: mkdir: got %v", right, err)
		}
		st, err := c.Stat(t.Context(), "x:")
		if err != nil || st.Packs < 6 || st.Live != st.N {
			t.Errorf("%s link: stat: %+v, %v", right, st, err)
		}
	}
}

func TestTwoWritersAtOnceLoseNothing(t *testing.T) {
	m := newMemNet(t, 402, 5, 0)
	a, b := m.home(t, 1), m.home(t, 2)
	if _, err := a.VolumeCreate(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	into(t, a, "v:", "same", "0")
	link, _ := a.VolumeLink(t.Context(), "v", "write")
	if _, err := b.VolumeAdd(t.Context(), link, "v"); err != nil {
		t.Fatal(err)
	}
	// Both begin before one of them publishes.
	va, _ := a.vol("v")
	vb, _ := b.vol("v")
	ca, err := a.begin(t.Context(), va)
	if err != nil {
		t.Fatal(err)
	}
	cb, err := b.begin(t.Context(), vb)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(c *commit, name, content string) {
		p := c.n.engine.newPutter(t.Context(), c.keys.Owner, nil, 0)
		defer p.end()
		info := volume.Info{Name: name, Size: int64(len(content))}
		ref, e, packs, err := volume.WriteFile(t.Context(), p, c.keys, info, strings.NewReader(content), volume.Options{})
		if err != nil {
			t.Fatal(err)
		}
		d := volume.NewDraft(c.w.root)
		if err := d.Put(t.Context(), name, volume.Made(c.w.src, ref, e), c.now); err != nil {
			t.Fatal(err)
		}
		if err := d.Put(t.Context(), "of "+content, volume.Made(c.w.src, ref, e), c.now); err != nil {
			t.Fatal(err)
		}
		if err := c.commitBy(t.Context(), p, d, true, &change{packs: packs}); err != nil {
			t.Fatal(err)
		}
		c.end()
	}
	edit(ca, "same", "A")
	edit(cb, "same", "B")
	for _, n := range []*Node{a, b, m.home(t, 3)} {
		if n.vols() == 1 {
			if _, err := n.VolumeAdd(t.Context(), link, "v"); err != nil {
				t.Fatal(err)
			}
		}
		got := names(t, n, "v:")
		if !strings.Contains(got, "of A of B same same (conflict") {
			t.Errorf("got %q", got)
		}
	}
	into(t, a, "v:", "later", "C")
	log, err := b.VolumeLog(t.Context(), "v")
	if err != nil || len(log) != 6 || log[0].Number != 5 || log[1].Number != 4 || log[2].Number != 3 || log[3].Number != 3 {
		t.Errorf("log: %+v, %v", log, err)
	}
	if got := names(t, b, "v:"); strings.Count(got, "conflict") != 1 {
		t.Errorf("got %q", got)
	}
}

func (n *Node) vols() int { return len(n.allVols()) }

func TestPutsAreInMine(t *testing.T) {
	m := newMemNet(t, 403, 5, 0)
	a := m.home(t, 1)
	first := into(t, a, "", "f", "one")
	again := into(t, a, "", "f", "two")
	same := into(t, a, "", "f", "one")
	if !strings.HasPrefix(first.Place, "mine:put/") || again.Place == first.Place || same.Place != first.Place {
		t.Errorf("got %q, %q, %q", first.Place, again.Place, same.Place)
	}
	if text(t, a, again.Place) != "two" {
		t.Error("another content")
	}
	if res, err := a.Remove(t.Context(), first.Link); err != nil || res.Packs == 0 {
		t.Fatalf("remove: %+v, %v", res, err)
	}
	if got := names(t, a, "mine:put"); strings.Count(got, "/f") != 1 {
		t.Errorf("got %q", got)
	}
	if _, _, err := get(t.Context(), a, first.Link); err == nil {
		t.Error("what was removed is there still")
	}
	if text(t, a, again.Link) != "two" {
		t.Error("another content")
	}
}

func TestPrune(t *testing.T) {
	m := newMemNet(t, 404, 5, 0)
	a := m.home(t, 1)
	if _, err := a.VolumeCreate(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		into(t, a, "v:", "f", strings.Repeat(fmt.Sprint(i), 9000))
	}
	link, err := a.Link(t.Context(), "v@3:f", false)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := a.Link(t.Context(), "v@3:f", false); err != nil || again != link {
		t.Errorf("another link: %v, %v", again, err)
	}
	st, err := a.Stat(t.Context(), "v:")
	if err != nil {
		t.Fatal(err)
	}
	res, err := a.VolumePrune(t.Context(), "v", PruneRequest{Policy: volume.Policy{Last: 2}})
	if err != nil || res.Kept != 2 || res.Removed != 5 || res.Dropped != 0 || res.Dying == 0 {
		t.Fatalf("prune: %+v, %v", res, err)
	}
	res, err = a.VolumePrune(t.Context(), "v", PruneRequest{Policy: volume.Policy{Last: 2}, Now: true})
	if err != nil || res.Kept != 2 || res.Removed != 0 || res.Dropped == 0 || res.Untold != 0 {
		t.Fatalf("prune: %+v, %v", res, err)
	}
	after, err := a.Stat(t.Context(), "v:")
	if err != nil || after.Packs >= st.Packs || after.Live != after.N {
		t.Errorf("%d packs, before %d: %+v, %v", after.Packs, st.Packs, after, err)
	}
	if text(t, a, "v:f") != strings.Repeat("5", 9000) || text(t, a, "v@6:f") != strings.Repeat("4", 9000) {
		t.Error("what is kept is another")
	}
	if _, _, err := get(t.Context(), a, "v@4:f"); CodeOf(err) != NotFound {
		t.Errorf("a head that was let go of: %v", err)
	}
	if text(t, a, link) != strings.Repeat("1", 9000) {
		t.Error("a link that was given out leads to something else")
	}
	drop, err := a.VolumeDrop(t.Context(), "v", true)
	if err != nil || drop.Dropped == 0 {
		t.Errorf("drop: %+v, %v", drop, err)
	}
	if _, err := a.VolumeLog(context.Background(), "v"); CodeOf(err) != NotFound {
		t.Errorf("log of what was dropped: %v", err)
	}
}

// A file that was put before under another name, or from another place, is not
// stored again; nor where the index was lost.
func TestWhatAVolumeHasIsNotStoredAgain(t *testing.T) {
	m := newMemNet(t, 405, 5, 0)
	a := m.home(t, 1)
	data := string(random(77, 3<<20))
	first := into(t, a, "", "f", data)
	if first.NewBytes < 3<<20 {
		t.Fatalf("first: %+v", first)
	}
	if res := into(t, a, "", "other", data); res.NewBytes > 64<<10 || res.Packs != first.Packs {
		t.Errorf("under another name: %+v", res)
	}
	if res := into(t, a, "", "larger", data+data[:2<<20]); res.NewBytes > 4<<20 {
		t.Errorf("with more at its end: %+v", res)
	}
	link, err := a.VolumeLink(t.Context(), Mine, "write")
	if err != nil {
		t.Fatal(err)
	}
	b := m.home(t, 2)
	if _, err := b.VolumeAdd(t.Context(), link, "theirs"); err != nil {
		t.Fatal(err)
	}
	if res := into(t, b, "theirs:copies", "f", data); res.NewBytes > 64<<10 {
		t.Errorf("from a home that has put nothing before: %+v", res)
	}
	if res, err := a.Remove(t.Context(), first.Link); err != nil || res.Kept == 0 {
		t.Errorf("remove: %+v, %v", res, err)
	}
	if text(t, a, "mine:copies/f") != data {
		t.Error("the copy is not what it was")
	}
	eight := into(t, a, "", "given", data)
	if eight.NewBytes > 64<<10 {
		t.Errorf("again: %+v", eight)
	}
	res, err := a.Put(t.Context(), PutRequest{Name: "g", Size: int64(len(data)), Redundancy: &erasure.Scheme{K: 2, M: 3}}, strings.NewReader(data), nil)
	if err != nil || res.NewBytes < 3<<20 {
		t.Errorf("with a redundancy of its own: %+v, %v", res, err)
	}
}

// folder gives a tree of files, for a put.
type folder struct {
	names []string
	data  map[string]string
	at    int
}

func (f *folder) Next(context.Context) (Item, io.Reader, error) {
	e := volume.Entry{UID: volume.NoOwner, GID: volume.NoOwner}
	switch f.at++; {
	case f.at == 1:
		e.Kind, e.Name, e.Mode = volume.DirEntry, "folder", 0o755
		return Item{Entry: e}, nil, nil
	case f.at > len(f.names)+1:
		return Item{}, nil, io.EOF
	}
	name := f.names[f.at-2]
	e.Kind, e.Name, e.Mode, e.Size = volume.FileEntry, name, 0o644, int64(len(f.data[name]))
	return Item{Path: name, Entry: e}, strings.NewReader(f.data[name]), nil
}

// What is needed of packs that are mostly dead is stored again, also for the past
// that is kept, and the packs go.
func TestPruneStoresWhatIsLeftOfPacksAgain(t *testing.T) {
	m := newMemNet(t, 406, 5, 0)
	a := m.home(t, 1)
	if _, err := a.VolumeCreate(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	f := &folder{data: make(map[string]string)}
	for i := range 40 {
		name := fmt.Sprintf("f%02d", i)
		f.names = append(f.names, name)
		f.data[name] = string(random(uint64(i), 300<<10))
	}
	if _, err := a.PutTree(t.Context(), PutRequest{Target: "v:", Size: -1}, f, nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range f.names[5:] {
		if err := a.removeText(t.Context(), "v:folder/"+name); err != nil {
			t.Fatal(err)
		}
	}
	into(t, a, "v:", "later", "x")
	bytesOf := func() int64 {
		h, err := a.Health(t.Context(), "v:")
		if err != nil {
			t.Fatal(err)
		}
		return h.Bytes
	}
	before := bytesOf()
	res, err := a.VolumePrune(t.Context(), "v", PruneRequest{Policy: volume.Policy{Last: 2}, Now: true})
	if err != nil || res.Kept != 2 || res.Untold > 0 {
		t.Fatalf("prune: %+v, %v", res, err)
	}
	if after := bytesOf(); after > 3<<20 || before < 11<<20 {
		t.Errorf("%d bytes, before %d", after, before)
	}
	log, err := a.VolumeLog(t.Context(), "v")
	if err != nil {
		t.Fatal(err)
	}
	m.sweep()
	for _, h := range log {
		for _, name := range f.names[:5] {
			if got := text(t, a, fmt.Sprintf("v@%d:folder/%s", h.Number, name)); got != f.data[name] {
				t.Errorf("head %d: %s is another", h.Number, name)
			}
		}
	}
	fresh := m.home(t, 2)
	link, _ := a.VolumeLink(t.Context(), "v", "read")
	if _, err := fresh.VolumeAdd(t.Context(), link, "v"); err != nil {
		t.Fatal(err)
	}
	if got := text(t, fresh, "v:folder/f04"); got != f.data["f04"] {
		t.Error("another home reads another")
	}
}

func (n *Node) removeText(ctx context.Context, place string) error {
	_, err := n.Remove(ctx, place)
	return err
}

// What a lost home has put is removed by its link from the home that has taken
// its volume over; what else has the same in it stays.
func TestRemoveByLinkWhatAnotherHomePut(t *testing.T) {
	m := newMemNet(t, 405, 5, 0)
	a := m.home(t, 1)
	twin := strings.Repeat("twin", 5000)
	tree, err := a.PutTree(t.Context(), PutRequest{Size: -1, Name: "tree"}, aTree(3, 100), nil)
	if err != nil {
		t.Fatal(err)
	}
	file := into(t, a, "", "file", strings.Repeat("file", 5000))
	if again, err := a.Link(t.Context(), file.Place, false); err != nil || again != file.Link {
		t.Fatalf("got link %s, %v, want that of the put", again, err) // a part of the history now
	}
	into(t, a, "", "twin", twin)
	into(t, a, "mine:also", "twin", twin)
	write, err := a.VolumeLink(t.Context(), Mine, "write")
	if err != nil {
		t.Fatal(err)
	}
	b := m.home(t, 2)
	if res, err := b.VolumeAdd(t.Context(), write, Mine); err != nil || res.Lost != 0 {
		t.Fatalf("add: %+v, %v", res, err)
	}
	for _, link := range []string{file.Link, tree.Link} {
		res, err := b.Remove(t.Context(), link)
		if err != nil || res.Packs == 0 || res.Kept != 0 || res.Partial {
			t.Errorf("remove: %+v, %v", res, err)
		}
		if _, _, err := get(t.Context(), m.home(t, 3), link); CodeOf(err) != NotFound {
			t.Errorf("what was removed: got %v, want that it is not found", err)
		}
	}
	if got := names(t, b, "mine:"); strings.Count(got, "twin") != 2 || strings.Contains(got, "file") || strings.Contains(got, "large") {
		t.Errorf("got %q", got)
	}
	if text(t, b, "mine:also/twin") != twin {
		t.Error("what has nothing to do with it is another")
	}
}

// The links of what a lost home has put go on to work when the home that has taken
// its volume over prunes that.
func TestLinksOutliveTheHomeThatPut(t *testing.T) {
	m := newMemNet(t, 407, 5, 0)
	a := m.home(t, 1)
	want := map[string]string{} // by link
	for i, content := range []string{"tiny", strings.Repeat("small", 5000), string(random(78, 3<<20)), ""} {
		want[into(t, a, "", fmt.Sprintf("f%d", i), content).Link] = content
	}
	files := &folder{names: []string{"x"}, data: map[string]string{"x": strings.Repeat("x", 90_000)}}
	tree, err := a.PutTree(t.Context(), PutRequest{Size: -1}, files, nil)
	if err != nil {
		t.Fatal(err)
	}
	want[tree.Link+"/x"] = files.data["x"]
	large, err := a.PutTree(t.Context(), PutRequest{Size: -1, Name: "tree"}, aTree(3, 100), nil)
	if err != nil {
		t.Fatal(err)
	}
	write, err := a.VolumeLink(t.Context(), Mine, "write")
	if err != nil {
		t.Fatal(err)
	}
	b, c := m.home(t, 2), m.home(t, 3)
	if res, err := b.VolumeAdd(t.Context(), write, Mine); err != nil || res.Lost != 0 {
		t.Fatalf("add: %+v, %v", res, err)
	}
	if _, err := b.VolumePrune(t.Context(), Mine, PruneRequest{Policy: volume.Policy{Last: 1}, Now: true}); err != nil {
		t.Fatal(err)
	}
	for link, content := range want {
		if text(t, c, link) != content {
			t.Errorf("%s: another content", link)
		}
		if res, err := b.Remove(t.Context(), strings.TrimSuffix(link, "/x")); err != nil || res.Packs == 0 {
			t.Errorf("remove: %+v, %v", res, err)
		}
	}
	names(t, c, large.Link) // fails where a list is missing
}
