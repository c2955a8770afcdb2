package node

import (
	"context"
	"fmt"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/volume"
	"github.com/p2pfs/p2pfs/wire"
)

// added gives a home of its own that has a volume by its link.
func (m *memNet) added(t *testing.T, seed byte, link, name string) *Node {
	t.Helper()
	n := m.home(t, seed)
	if _, err := n.VolumeAdd(t.Context(), link, name); err != nil {
		t.Fatal(err)
	}
	return n
}

// created gives a home with a volume, and the links to it.
func (m *memNet) created(t *testing.T, seed byte, name string) (n *Node, write, read string) {
	t.Helper()
	n = m.home(t, seed)
	if _, err := n.VolumeCreate(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	return n, rightTo(t, n, name, "write"), rightTo(t, n, name, "read")
}

func rightTo(t *testing.T, n *Node, name, right string) string {
	t.Helper()
	link, err := n.VolumeLink(t.Context(), name, right)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// begun begins a commit to a volume: that of the head that is there now.
func begun(t *testing.T, n *Node, name string) *commit {
	t.Helper()
	v, err := n.vol(name)
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.begin(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// put ends a commit with a file put into the volume.
func (c *commit) put(t *testing.T, name, content string) error {
	t.Helper()
	defer c.end()
	p := c.n.engine.newPutter(t.Context(), c.keys.Owner, nil, 0)
	defer p.end()
	ref, e, packs, err := volume.WriteFile(t.Context(), p, c.keys, volume.Info{Name: path.Base(name), Size: int64(len(content))}, strings.NewReader(content), volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := volume.NewDraft(c.w.root)
	if err := d.Put(t.Context(), name, volume.Made(c.w.src, ref, e), c.now); err != nil {
		t.Fatal(err)
	}
	return c.commitBy(t.Context(), p, d, true, &change{packs: packs})
}

func TestManyWritersAtOnceLoseNothing(t *testing.T) {
	const writers = 5
	m := newMemNet(t, 501, 5, 0)
	a, write, _ := m.created(t, 1, "v")
	into(t, a, "v:", "base", "0")
	var homes []*Node
	var commits []*commit
	for i := range writers {
		homes = append(homes, m.added(t, byte(10+i), write, "v"))
		commits = append(commits, begun(t, homes[i], "v"))
	}
	want := "base"
	for i, c := range commits {
		name := fmt.Sprintf("f%d", i)
		if err := c.put(t, name, strings.Repeat(name, 1000)); err != nil {
			t.Fatal(err)
		}
		want += " " + name
	}
	if got := names(t, a, "v:"); got != want {
		t.Errorf("before they are merged: got %q, want %q", got, want)
	}
	into(t, homes[2], "v:", "later", "x") // which merges them first
	want += " later"
	for _, n := range append(homes, a) {
		if got := names(t, n, "v:"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for i := range writers {
		name := fmt.Sprintf("f%d", i)
		if got := text(t, a, "v:"+name); got != strings.Repeat(name, 1000) {
			t.Errorf("%s: got %d bytes", name, len(got))
		}
	}
	// The merges follow each other, and nothing is left to be merged.
	log, err := a.VolumeLog(t.Context(), "v")
	if err != nil || len(log) != 2+writers+(writers-1)+1 || !log[0].Current || log[1].Current {
		t.Errorf("log: %+v, %v", log, err)
	}
}

// A head that too few have taken is one that others may build on: who made it
// must not make another in its place, which they would take for that one.
func TestAHeadThatFewHaveTakenIsNotForgotten(t *testing.T) {
	m := newMemNet(t, 502, 5, 0)
	w, write, _ := m.created(t, 1, "v")
	x := m.added(t, 2, write, "v")
	few := m.nodes[0]
	refuse(m.nodes[1:], true)
	if err := begun(t, w, "v").put(t, "first", "1"); CodeOf(err) != NoPeers {
		t.Fatalf("got %v", err)
	}
	refuse(m.nodes[1:], false)
	few.down.Store(true)
	again := begun(t, w, "v")
	few.down.Store(false)
	for _, err := range []error{begun(t, x, "v").put(t, "other", "2"), again.put(t, "second", "3")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []*Node{w, x, m.added(t, 3, write, "v")} {
		if got := names(t, n, "v:"); got != "first other second" {
			t.Errorf("got %q", got)
		}
	}
}

// heads is asked for heads first.
type heads struct {
	wire.Handler

	asked func(from string, owner pack.Owner, answer func() ([][]byte, error)) ([][]byte, error)
}

func (h heads) Heads(ctx context.Context, from string, owner pack.Owner) ([][]byte, error) {
	return h.asked(from, owner, func() ([][]byte, error) { return h.Handler.Heads(ctx, from, owner) })
}

func TestASlowLookForgetsNothing(t *testing.T) {
	m := newMemNet(t, 503, 5, 0)
	a, _, _ := m.created(t, 1, "v")
	v := must(a.vol("v"))
	var slow atomic.Int64
	slow.Store(int64(len(m.nodes)) - 1) // the first look
	asked, end := make(chan struct{}, len(m.nodes)), make(chan struct{})
	for _, n := range m.holders() {
		n.wrap = func(h wire.Handler) wire.Handler {
			return heads{h, func(_ string, _ pack.Owner, answer func() ([][]byte, error)) ([][]byte, error) {
				list, err := answer()
				if slow.Add(-1) >= 0 {
					asked <- struct{}{}
					<-end
				}
				return list, err
			}}
		}
	}
	looked := make(chan error)
	go func() {
		_, err := a.VolumeLog(t.Context(), "v")
		looked <- err
	}()
	for range 5 {
		<-asked
	}
	into(t, a, "v:", "f", "new")
	close(end)
	if err := <-looked; err != nil {
		t.Fatal(err)
	}
	if seen := a.seenTips(v.owner); len(seen) != 1 || seen[0].Number != 2 {
		t.Errorf("the newest head seen is number %d, want 2", seen[0].Number)
	}
	for _, n := range m.holders() { // nobody is there to say it again
		n.down.Store(true)
	}
	if info, err := a.Volumes(t.Context()); err != nil || info[1].Number != 2 {
		t.Errorf("got %+v, %v", info, err)
	}
}

func TestAVolumeIsAddedAgain(t *testing.T) {
	m := newMemNet(t, 504, 5, 0)
	a, write, read := m.created(t, 1, "v")
	into(t, a, "v:", "f", strings.Repeat("content", 1000))
	verify := rightTo(t, a, "v", "verify")
	b := m.home(t, 2)
	// Nobody has what the file is in, at first.
	st, err := a.engine.store.OwnedPack(dataPack(t, a, "v:f"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range m.holders() {
		n.wrap = func(h wire.Handler) wire.Handler { return without{h, st.ID} }
	}
	for i, c := range []struct {
		link, right string
		lost        int
		code        Code
	}{
		{verify, "verify", 0, OK}, {read, "read", 0, OK}, {verify, "read", 0, Failed}, {read, "read", 0, OK},
		{write, "write", 1, OK}, {write, "write", 0, OK}, {read, "write", 0, Failed},
	} {
		if i == 5 {
			for _, n := range m.holders() {
				n.wrap = nil
			}
		}
		res, err := b.VolumeAdd(t.Context(), c.link, "v")
		if CodeOf(err) != c.code || res.Lost != c.lost {
			t.Errorf("%d: got %+v, %v, want %d lost and outcome %d", i, res, err, c.lost, c.code)
		}
		if v := must(b.vol("v")); v.right() != c.right {
			t.Errorf("%d: got the right to %s, want %s", i, v.right(), c.right)
		}
	}
	if _, err := b.engine.store.OwnedPack(st.ID); err != nil {
		t.Errorf("what was lost at first: %v", err)
	}
}

// without has nothing of one pack.
type without struct {
	wire.Handler

	id pack.ID
}

func (h without) Have(ctx context.Context, from string, ids []pack.ID) ([]wire.Holding, error) {
	out, err := h.Handler.Have(ctx, from, ids)
	for i, id := range ids {
		if err == nil && id == h.id {
			out[i] = wire.Holding{}
		}
	}
	return out, err
}

// dataPack gives the pack that the content at a place is in.
func dataPack(t *testing.T, n *Node, place string) pack.ID {
	t.Helper()
	src, err := n.sourcePacks(t.Context(), place)
	if err != nil || len(src.ids) != 1 {
		t.Fatalf("packs of %s: %v, %v", place, src.ids, err)
	}
	return src.ids[0]
}

// A link leads to what was there at one moment, whatever others do meanwhile.
func TestALinkIsWholeWhateverComesBetween(t *testing.T) {
	m := newMemNet(t, 505, 5, 0)
	a, write, _ := m.created(t, 1, "v")
	if _, err := a.PutTree(t.Context(), PutRequest{Size: -1, Target: "v:"}, aTree(1, 300), nil); err != nil {
		t.Fatal(err)
	}
	others := []*commit{begun(t, m.added(t, 2, write, "v"), "v"), begun(t, m.added(t, 3, write, "v"), "v")}
	var asked atomic.Int64
	var once sync.Once
	between := func() {
		for i, c := range others {
			if err := c.put(t, fmt.Sprintf("photos/000/by %d", i), "x"); err != nil {
				t.Error(err)
			}
		}
	}
	for _, n := range m.holders() {
		n.wrap = func(h wire.Handler) wire.Handler {
			return heads{h, func(from string, _ pack.Owner, answer func() ([][]byte, error)) ([][]byte, error) {
				if from == string(a.engine.self) && asked.Add(1) > 5 { // not its first look
					once.Do(between)
				}
				return answer()
			}}
		}
	}
	link, err := a.Link(t.Context(), "v:photos/000", false)
	if err != nil {
		t.Fatal(err)
	}
	once.Do(between)
	got := new(items)
	if err := m.client().node().GetTree(t.Context(), GetRequest{Source: link}, got, nil); err != nil || len(got.list) != 301 {
		t.Errorf("got %d entries, %v", len(got.list), err)
	}
}

// forget has nodes forget the heads of a volume.
func forget(t *testing.T, owner pack.Owner, nodes ...*memNode) {
	t.Helper()
	for _, n := range nodes {
		if _, err := n.store.UpdateHeads(owner, "", func([][]byte) ([][]byte, error) { return nil, nil }); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAHeadThatNobodyKeepsIsGivenAgainByWhoKnowsIt(t *testing.T) {
	m := newMemNet(t, 506, 5, 0)
	a, write, read := m.created(t, 1, "v")
	into(t, a, "v:", "f", "content")
	v := must(a.vol("v"))
	for _, c := range []struct {
		name string
		do   func(n *Node) error
	}{
		{"tidy", func(n *Node) error { return n.tidy(t.Context()) }},
		{"a change that is none", func(n *Node) error { return n.Move(t.Context(), "v:f", "v:f") }},
	} {
		forget(t, v.owner, m.holders()...)
		if _, err := m.home(t, 2).VolumeAdd(t.Context(), read, "v"); CodeOf(err) != NotFound {
			t.Errorf("%s: nobody knows it: %v", c.name, err)
		}
		if err := c.do(a); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := text(t, m.added(t, 3, write, "v"), "v:f"); got != "content" {
			t.Errorf("%s: got %q", c.name, got)
		}
		if w, err := a.look(t.Context(), v); err != nil || len(w.unkept) > 0 || w.heads[0].Number != 2 {
			t.Errorf("%s: got %+v, %v", c.name, w, err)
		}
	}
}

// What two homes merge at the same time is one and the same pack.
func TestTwoMergeTheSameAtOnce(t *testing.T) {
	m := newMemNet(t, 521, 12, 0)
	a, write, _ := m.created(t, 1, "v")
	b := m.added(t, 2, write, "v")
	for round := range 4 {
		ca, cb := begun(t, a, "v"), begun(t, b, "v")
		for i, c := range []*commit{ca, cb} {
			if err := c.put(t, fmt.Sprintf("%d of %d", round, i), "x"); err != nil {
				t.Fatal(err)
			}
		}
		var wg sync.WaitGroup
		for i, n := range []*Node{a, b} {
			wg.Go(func() {
				if err := n.Mkdir(t.Context(), fmt.Sprintf("v:dir %d of %d", round, i), false); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		wg.Wait()
	}
	if got := names(t, a, "v:"); strings.Count(got, "of") != 16 || got != names(t, b, "v:") {
		t.Errorf("got %q", got)
	}
}

// What two homes put into one volume at the same time is in it twice, though what
// they store is the same packs: one state of each stays, and who signed the other
// takes part in it.
func TestTwoPutTheSameAtOnce(t *testing.T) {
	m := newMemNet(t, 522, 12, 0)
	a, write, _ := m.created(t, 1, "v")
	b := m.added(t, 2, write, "v")
	for round := range 4 {
		data := string(random(uint64(900+round), 300<<10))
		var wg sync.WaitGroup
		for i, n := range []*Node{a, b} {
			wg.Go(func() {
				res, err := n.Put(t.Context(), PutRequest{Name: "f", Mode: 0o644, Size: int64(len(data)), Target: fmt.Sprintf("v:%d/%d", round, i)}, strings.NewReader(data), nil)
				if err != nil || res.Partial || res.Stored != res.N {
					t.Errorf("round %d, home %d: %+v, %v", round, i, res, err)
				}
			})
		}
		wg.Wait()
		for i := range 2 {
			if text(t, a, fmt.Sprintf("v:%d/%d/f", round, i)) != data {
				t.Errorf("round %d, home %d: another content", round, i)
			}
		}
	}
	st, err := b.Stat(t.Context(), "v:")
	if err != nil || st.Live != st.N {
		t.Errorf("got %+v, %v", st, err)
	}
}
