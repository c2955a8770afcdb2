package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/volume"
	"github.com/p2pfs/p2pfs/wire"
)

// A removal by a link leaves heads in the history that refer to what is gone.
func TestWhatWasRemovedByItsLinkIsInNobodysWay(t *testing.T) {
	m := newMemNet(t, 511, 5, 0)
	a := m.home(t, 1)
	// So many entries that their list is in a chunk of its own.
	tree, err := a.PutTree(t.Context(), PutRequest{Size: -1}, aTree(3, 100), nil)
	if err != nil {
		t.Fatal(err)
	}
	file := into(t, a, "", "file", strings.Repeat("file", 1000))
	kept := into(t, a, "", "kept", strings.Repeat("kept", 1000))
	for _, link := range []string{tree.Link, file.Link} {
		if res, err := a.Remove(t.Context(), link); err != nil || res.Packs == 0 {
			t.Errorf("remove: %+v, %v", res, err)
		}
	}
	for range 2 {
		if _, err := a.VolumePrune(t.Context(), Mine, PruneRequest{Now: true}); err != nil {
			t.Errorf("prune: %v", err)
		}
	}
	b := m.added(t, 2, rightTo(t, a, Mine, "write"), "theirs")
	for _, n := range []*Node{a, b} {
		name := map[*Node]string{a: Mine, b: "theirs"}[n]
		if got := names(t, n, name+":put"); strings.Count(got, "/") != 1 || !strings.Contains(got, "/kept") {
			t.Errorf("got %q", got)
		}
		if got := text(t, n, name+":"+strings.TrimPrefix(kept.Place, Mine+":")); got != strings.Repeat("kept", 1000) {
			t.Errorf("got %d bytes", len(got))
		}
	}
}

func TestAnEmptyVolumeCanBeEmptied(t *testing.T) {
	m := newMemNet(t, 512, 5, 0)
	a, write, read := m.created(t, 1, "v")
	b := m.added(t, 2, write, "v")
	for range 2 { // the first empty tree has no history, nor has an emptied one
		if res, err := b.empty(t.Context(), must(b.vol("v"))); err != nil || res.Partial {
			t.Fatalf("got %+v, %v", res, err)
		}
		c := m.added(t, 3, read, "v")
		for _, n := range []*Node{a, b, c} {
			if got := names(t, n, "v:"); got != "" {
				t.Errorf("got %q", got)
			}
		}
	}
	into(t, a, "v:", "f", "anew")
	if got := text(t, b, "v:f"); got != "anew" {
		t.Errorf("got %q", got)
	}
}

func must[T any](x T, err error) T {
	if err != nil {
		panic(err)
	}
	return x
}

// refuser takes no heads.
type refuser struct{ wire.Handler }

func (refuser) PutHead(context.Context, string, []byte) error {
	return wire.Refuse(wire.Full, "no space left")
}

// refuse makes nodes take no heads any more, or again.
func refuse(nodes []*memNode, yes bool) {
	for _, n := range nodes {
		if n.wrap = nil; yes {
			n.wrap = func(h wire.Handler) wire.Handler { return refuser{h} }
		}
	}
}

func TestNothingIsDeletedThatAVolumeStillHas(t *testing.T) {
	m := newMemNet(t, 513, 5, 0)
	a := m.home(t, 1)
	res := into(t, a, "", "f", "content")
	b := m.added(t, 2, rightTo(t, a, Mine, "write"), "theirs")
	refuse(m.nodes[1:4], true)
	if _, err := a.Remove(t.Context(), res.Link); CodeOf(err) != NoPeers {
		t.Errorf("remove: got %v", err)
	}
	c := m.added(t, 3, rightTo(t, a, Mine, "write"), "theirs")
	for _, n := range []*Node{a, b, c} {
		if got := text(t, n, res.Link); got != "content" {
			t.Errorf("got %q", got)
		}
	}
	refuse(m.nodes[1:4], false)
	if _, err := a.Remove(t.Context(), res.Link); err != nil {
		t.Errorf("remove: got %v", err)
	}
	for _, n := range []*Node{b, c} {
		if got := names(t, n, "theirs:put"); strings.Contains(got, "/f") {
			t.Errorf("got %q", got)
		}
	}
	if _, _, err := get(t.Context(), m.home(t, 4), res.Link); CodeOf(err) != NotFound {
		t.Errorf("what was removed: got %v", err)
	}
}

// A holder that is alone finds that it holds shards itself, and tells itself that
// their packs are deleted: that must not be all that a removal does.
func TestAHolderThatIsAloneRemovesNothing(t *testing.T) {
	m := newMemNet(t, 514, 9, 0)
	content := strings.Repeat("content", 1000)
	var a *Node
	var res PutResult
	for i, n := range m.nodes { // one that does not hold what the link leads to
		a = n.homeOf(volume.Seed{byte(i), 7})
		res = into(t, a, "", "f", content)
		if _, err := n.store.Manifest(must(volume.ParseLink(res.Link)).Root.Pack); err != nil {
			break
		}
	}
	b := m.added(t, 2, rightTo(t, a, Mine, "write"), "theirs")
	line := a.engine.dial
	a.engine.dial, a.engine.packs = &killed{dialer: line, at: 1}, newPackTable()
	if got, err := a.Remove(t.Context(), res.Link); err == nil {
		t.Errorf("got %+v", got)
	}
	a.engine.dial = line
	if got := text(t, b, res.Link); got != content {
		t.Errorf("got %d bytes", len(got))
	}
	if _, err := a.Remove(t.Context(), res.Link); err != nil {
		t.Error(err)
	}
	if got := names(t, b, "theirs:put"); strings.Contains(got, "/f") {
		t.Errorf("got %q", got)
	}
}

// A link that a put into a volume has given is there as long as the head is with
// which it came, whatever else is let go of.
func TestALinkOfAPutStaysWithItsHead(t *testing.T) {
	m := newMemNet(t, 412, 5, 0)
	a, b := m.home(t, 1), m.home(t, 2)
	if _, err := a.VolumeCreate(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	var links []string
	for i := range 4 {
		content := fmt.Sprint(i)
		if i > 1 {
			content = strings.Repeat(content, 9000)
		}
		res := into(t, a, "v:dir", "f", content)
		links = append(links, res.Link)
		if res.Stored != res.N || res.Packs < 1 {
			t.Errorf("put: %+v", res)
		}
	}
	tree, err := a.PutTree(t.Context(), PutRequest{Target: "v:", Size: -1}, &folder{names: []string{"x", "y"}, data: map[string]string{"x": "X", "y": strings.Repeat("Y", 9000)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	prune := func(last int) {
		t.Helper()
		if _, err := a.VolumePrune(t.Context(), "v", PruneRequest{Policy: volume.Policy{Last: last}, Now: true}); err != nil {
			t.Fatal(err)
		}
	}
	prune(10)
	for i, link := range links {
		if got := text(t, b, link); got[:1] != fmt.Sprint(i) || len(got) != len(text(t, a, fmt.Sprintf("v@%d:dir/f", i+2))) {
			t.Errorf("link %d gives %d bytes that begin with %q", i, len(got), got[:1])
		}
		st, err := b.Stat(t.Context(), link)
		if err != nil || st.Live != st.N {
			t.Errorf("link %d: %+v, %v", i, st, err)
		}
	}
	if got := names(t, b, tree.Link); got != "x y" {
		t.Errorf("the tree has %q", got)
	}
	prune(2)
	c := m.home(t, 3)
	for i, link := range links[:3] {
		if _, _, err := get(t.Context(), c, link); CodeOf(err) != NotFound {
			t.Errorf("link %d, whose head was let go of: %v", i, err)
		}
	}
	if text(t, b, links[3]) != strings.Repeat("3", 9000) || text(t, b, tree.Link+"/y") != strings.Repeat("Y", 9000) {
		t.Error("a link whose head is kept leads to something else")
	}
}

// Such a link is no put of its own that could be removed: what it leads to is in the
// pack of a head, which has all of the volume in it.
func TestWhatIsInAVolumeIsNotRemovedByALink(t *testing.T) {
	m := newMemNet(t, 413, 5, 0)
	a := m.home(t, 1)
	into(t, a, "mine:dir", "other", strings.Repeat("other", 5000))
	res := into(t, a, "mine:dir", "f", strings.Repeat("f", 5000))
	plain := into(t, a, "", "plain", strings.Repeat("other", 5000))
	lost := m.home(t, 1) // the same home, which has lost its store
	for _, n := range []*Node{a, lost} {
		if r, err := n.Remove(t.Context(), res.Link); CodeOf(err) != Refused {
			t.Errorf("remove: %+v, %v", r, err)
		}
	}
	if text(t, m.home(t, 2), res.Link) != strings.Repeat("f", 5000) {
		t.Error("another content")
	}
	if _, err := lost.Remove(t.Context(), plain.Link); err != nil {
		t.Errorf("remove: %v", err)
	}
	if text(t, a, "mine:dir/other") != strings.Repeat("other", 5000) {
		t.Error("what was in the volume too is another")
	}
}

// meanwhile is a tree all of which is as it was, and something that happens while
// it is put.
type meanwhile struct {
	*folder
	do func()
}

func (f *meanwhile) Next(ctx context.Context) (Item, io.Reader, error) {
	item, r, err := f.folder.Next(ctx)
	item.Entry.MTime = time.Unix(1000, 0)
	if f.do != nil && f.at == 2 {
		f.do()
	}
	if f.do != nil {
		r = nil
	}
	return item, r, err
}

// A put on top of what goes away while it runs says so.
func TestAPutOnTopOfWhatIsPrunedMeanwhile(t *testing.T) {
	m := newMemNet(t, 414, 5, 0)
	a := m.home(t, 1)
	if _, err := a.VolumeCreate(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	tree := func(do func()) *meanwhile {
		return &meanwhile{&folder{names: []string{"x", "y"}, data: map[string]string{"x": strings.Repeat("x", 9000), "y": strings.Repeat("y", 9000)}}, do}
	}
	if _, err := a.PutTree(t.Context(), PutRequest{Target: "v:", Size: -1}, tree(nil), nil); err != nil {
		t.Fatal(err)
	}
	q := PutRequest{Target: "v:", Name: "folder", Size: -1}
	var err error
	if q.Parent, err = a.Parent(t.Context(), q); err != nil || q.Parent == "" {
		t.Fatalf("parent: %q, %v", q.Parent, err)
	}
	if res, err := a.PutTree(t.Context(), q, tree(func() {}), nil); err != nil || res.Partial {
		t.Fatalf("put: %+v, %v", res, err)
	}
	if q.Parent, err = a.Parent(t.Context(), q); err != nil || q.Parent == "" {
		t.Fatalf("parent: %q, %v", q.Parent, err)
	}
	_, err = a.PutTree(t.Context(), q, tree(func() {
		if _, err := a.Remove(t.Context(), "v:folder"); err != nil {
			t.Error(err)
		}
		into(t, a, "v:", "x", "x")
		if _, err := a.VolumePrune(t.Context(), "v", PruneRequest{Policy: volume.Policy{Last: 1}, Now: true}); err != nil {
			t.Error(err)
		}
	}), nil)
	if !errors.Is(err, errWent) {
		t.Errorf("got %v, want %v", err, errWent)
	}
	if got := names(t, a, "v:"); got != "x" {
		t.Errorf("got %q", got)
	}
	if _, err := a.PutTree(t.Context(), PutRequest{Target: "v:", Size: -1}, tree(nil), nil); err != nil {
		t.Fatal(err)
	}
	if text(t, a, "v:folder/y") != strings.Repeat("y", 9000) {
		t.Error("another content")
	}
}

// between does something before a node is told states of packs, or is given heads.
type between struct {
	wire.Handler

	state, head func(from string) // nil: nothing
}

func (h between) State(ctx context.Context, from string, st *pack.State) error {
	if h.state != nil {
		h.state(from)
	}
	return h.Handler.State(ctx, from, st)
}

func (h between) PutHead(ctx context.Context, from string, b []byte) error {
	if h.head != nil {
		h.head(from)
	}
	return h.Handler.PutHead(ctx, from, b)
}

// A pack that one home drops, for nothing has referred to it for 48 hours, and
// that another stores again at that very moment, stays: be it that the other has
// not made known yet that it needs it, or does so when the first has looked.
func TestWhatIsPutAgainWhileItIsDroppedStays(t *testing.T) {
	for _, now := range []bool{false, true} {
		for _, first := range []string{"the drop", "the put"} {
			if now && first == "the put" {
				continue // who does not wait is not waited for
			}
			t.Run(fmt.Sprintf("%s, at once %v", first, now), func(t *testing.T) {
				m := newMemNet(t, 531, 5, 0)
				a, write, _ := m.created(t, 1, "v")
				b := m.added(t, 2, write, "v")
				for _, n := range m.nodes {
					n.clock = netClock{net: m}
				}
				content := string(random(31, 300<<10))
				into(t, a, "v:", "f", content)
				id := dataPack(t, a, "v:f")
				if err := a.removeText(t.Context(), "v:f"); err != nil {
					t.Fatal(err)
				}
				if res, err := b.VolumePrune(t.Context(), "v", PruneRequest{Policy: volume.Policy{Last: 1}}); err != nil || res.Dying == 0 {
					t.Fatalf("prune: %+v, %v", res, err)
				}
				m.ahead.Add(int64(DyingFor + time.Hour))
				put := func() { into(t, a, "v:", "again", content) }
				prune := func() {
					if _, err := b.VolumePrune(t.Context(), "v", PruneRequest{Now: now}); err != nil {
						t.Error(err)
					}
				}
				var once sync.Once
				wrap := func(h wire.Handler) wire.Handler {
					if first == "the put" {
						return between{Handler: h, head: func(from string) {
							if from == string(a.engine.self) {
								once.Do(prune)
							}
						}}
					}
					return between{Handler: h, state: func(string) { once.Do(put) }}
				}
				for _, n := range m.holders() {
					n.late.Store(&wrap)
				}
				if first == "the put" {
					put()
				} else {
					prune()
				}
				once.Do(func() { t.Fatal("one has ended before the other began") })
				for _, n := range m.holders() {
					n.late.Store(nil)
				}
				if dataPack(t, a, "v:again") != id {
					t.Fatal("it is in another pack: the test is wrong")
				}
				m.sweep()
				c := m.added(t, 3, write, "v")
				for _, n := range []*Node{a, b, c} {
					if got := text(t, n, "v:again"); got != content {
						t.Errorf("got %d bytes", len(got))
					}
				}
				// What nobody needs in the end goes in the end.
				if err := a.removeText(t.Context(), "v:again"); err != nil {
					t.Fatal(err)
				}
				for range 3 {
					if _, err := b.VolumePrune(t.Context(), "v", PruneRequest{Policy: volume.Policy{Last: 1}}); err != nil {
						t.Fatal(err)
					}
					m.ahead.Add(int64(DyingFor + time.Hour))
				}
				m.sweep()
				for _, n := range m.holders() {
					if _, err := n.store.Manifest(id); err == nil {
						t.Error("in the end it is still there")
					}
				}
			})
		}
	}
}
