package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/volume"
	"github.com/p2pfs/p2pfs/wire"
)

// untrue keeps heads in its own way.
type untrue struct {
	wire.Handler

	tell func(owner pack.Owner) [][]byte // nil: what it keeps
	take func(b []byte) error            // nil: it keeps it
}

func (u untrue) Heads(ctx context.Context, from string, owner pack.Owner) ([][]byte, error) {
	if u.tell == nil {
		return u.Handler.Heads(ctx, from, owner)
	}
	return u.tell(owner), nil
}

func (u untrue) PutHead(ctx context.Context, from string, b []byte) error {
	if u.take == nil {
		return u.Handler.PutHead(ctx, from, b)
	}
	return u.take(b)
}

// lies has a node keep heads as l says.
func (n *memNode) lies(l untrue) {
	f := func(h wire.Handler) wire.Handler { return untrue{h, l.tell, l.take} }
	n.late.Store(&f)
}

// forgets takes every head and keeps none.
func forgets([]byte) error { return nil }

// attentive is a clock by which all that answer are heard: those that are slow
// too.
type attentive struct{ realClock }

func (attentive) After(d time.Duration) (<-chan time.Time, func()) {
	if d == headLinger {
		d = time.Minute
	}
	return realClock{}.After(d)
}

// reader gives a home that has not seen the volume before, and hears all.
func (m *memNet) reader(t *testing.T, seed byte, link string) *Node {
	t.Helper()
	n := m.home(t, seed)
	n.engine.clock = attentive{}
	if _, err := n.VolumeAdd(t.Context(), link, "v"); err != nil {
		t.Fatal(err)
	}
	return n
}

// Keepers that show what was so once, each of another time, and take what they
// are given and keep nothing of it, are believed by nobody as long as one other
// answers; by who has seen more, never.
func TestOldHeadsAreBelievedOnlyWhereNobodyShowsMore(t *testing.T) {
	m := newMemNet(t, 701, 7, 0)
	a, write, read := m.created(t, 1, "v")
	a.engine.clock = attentive{}
	owner := must(a.vol("v")).owner
	first := must(m.nodes[0].store.Heads(owner))
	seen := m.reader(t, 2, read)
	last := len(m.holders()) - 1
	for i, n := range m.holders() {
		old := fmt.Sprint(i)
		into(t, a, "v:", "f", old)
		was := must(n.store.Heads(owner))
		n.lies(untrue{tell: func(pack.Owner) [][]byte { return was }, take: forgets})
		into(t, a, "v:", "f", "new "+old)
		want := "new " + old
		if i == last {
			want = old // the newest that one of them shows
		}
		for _, r := range []*Node{m.reader(t, byte(10+i), read), seen} {
			if got := text(t, r, "v:f"); got != want {
				t.Errorf("%d of %d lie: got %q, want %q", i+1, last+1, got, want)
			}
		}
	}
	for _, n := range m.holders() {
		n.lies(untrue{tell: func(pack.Owner) [][]byte { return first }, take: forgets})
	}
	if got := text(t, seen, "v:f"); got != fmt.Sprint(last) {
		t.Errorf("who has seen more: got %q", got)
	}
	if got := names(t, m.reader(t, 3, read), "v:"); got != "" {
		t.Errorf("who has seen nothing: got %q, want the first head's tree", got)
	}
	b := m.reader(t, 4, write)
	into(t, b, "v:", "of b", "x") // on top of the first head

	// They keep what they had when they began.
	for _, n := range m.holders() {
		n.late.Store(nil)
	}
	for _, n := range []*Node{a, b} {
		if err := n.tidy(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for _, n := range []*Node{seen, m.reader(t, 5, read), a, b} {
		if got := names(t, n, "v:"); got != "f of b" {
			t.Errorf("in the end: got %q", got)
		}
		if got := text(t, n, "v:f"); got != fmt.Sprint("new ", last) {
			t.Errorf("in the end: got %q", got)
		}
	}
}

// What a majority has taken of which one forgets nothing is there, though all
// others are away who took it. What nobody has taken but those who forget is with
// who has made it, and comes back by it.
func TestKeepersThatForgetWhatTheyTook(t *testing.T) {
	m := newMemNet(t, 702, 7, 0)
	a, write, read := m.created(t, 1, "v")
	b := m.reader(t, 2, write)
	for _, n := range m.nodes {
		n.dir = slowDirectory{memDirectory: memDirectory{m, n}}
		n.clock = attentive{}
	}
	into(t, a, "v:", "f", "old")
	honest, liars := m.holders()[:4], m.holders()[4:]
	fresh := func(seed byte, want string) {
		t.Helper()
		n := m.home(t, seed)
		n.engine.clock, n.engine.dir = attentive{}, slowDirectory{memDirectory: memDirectory{m, m.find(n.engine.self)}}
		if _, err := n.VolumeAdd(t.Context(), read, "v"); err != nil {
			t.Fatal(err)
		}
		if got := names(t, n, "v:"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for _, n := range liars {
		n.lies(untrue{take: forgets})
	}
	for _, n := range honest[1:] {
		n.down.Store(true)
	}
	into(t, a, "v:", "g", "of three that forget and one that does not")
	fresh(10, "f g")
	for _, n := range honest[1:] {
		n.down.Store(false)
	}
	fresh(11, "f g")
	m.passAround(t.Context(), must(a.vol("v")).owner, 0)
	honest[0].down.Store(true) // the others of the four have it now
	fresh(12, "f g")
	honest[0].down.Store(false)

	honest[3].lies(untrue{take: forgets}) // a majority
	for _, n := range honest[:3] {
		n.down.Store(true)
	}
	into(t, a, "v:", "h", "of four that forget")
	for _, n := range honest[:3] {
		n.down.Store(false)
	}
	fresh(13, "f g")
	into(t, b, "v:", "i", "without h")
	if got := names(t, a, "v:"); got != "f g h i" {
		t.Errorf("who has made it: got %q", got)
	}
	if err := a.tidy(t.Context()); err != nil {
		t.Error(err)
	}
	fresh(14, "f g h i")
	into(t, b, "v:", "j", "merged")
	for _, n := range []*Node{a, b} {
		if got := names(t, n, "v:"); got != "f g h i j" {
			t.Errorf("got %q", got)
		}
	}
}

// renumbered gives an encoded head of one writer with another number, that its
// owner has not signed.
func renumbered(b []byte, number uint64) []byte {
	b = slices.Clone(b)
	binary.BigEndian.PutUint64(b[37:], number)
	parents := 53 + 1 + 32*int(b[53])
	binary.BigEndian.PutUint64(b[parents+1+8:], number)
	return b
}

// aHead gives a head of nothing, of the volume with those keys.
func aHead(t testing.TB, network pack.Network, keys *volume.Keys, parents ...*volume.Head) *volume.Head {
	t.Helper()
	ref := pack.Ref{Pack: pack.ID{1}, Len: 100, Size: 50}
	h, err := volume.NewHead(network, keys, parents, volume.Writer{1}, volume.HeadContent{Time: time.Unix(1700000000, 0), Peer: "peer", Root: ref, Inventory: ref}, zeros{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// zeros is a source of no randomness.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// falseHeads gives what is no head of a volume, made of one that is.
func falseHeads(t testing.TB, own *volume.Keys, b []byte) map[string][]byte {
	t.Helper()
	other := volume.Seed{9}.Keys()
	of := aHead(t, memNetwork, &other).Encode()
	copy(of[5:], b[5:37])
	broken := slices.Clone(b)
	broken[len(broken)-1] ^= 1
	sealed := slices.Clone(b)
	sealed[len(sealed)-200] ^= 1
	return map[string][]byte{
		"a broken signature":  broken,
		"another content":     sealed,
		"a huge number":       renumbered(b, 1<<63),
		"the last number":     renumbered(b, 1<<64-1),
		"number 0":            renumbered(b, 0),
		"another's signature": of,
		"cut short":           b[:len(b)-1],
		"something behind it": append(slices.Clone(b), 0),
		"rubbish":             random(77, len(b)),
		"much rubbish":        random(78, wire.MaxHead),
		"one byte":            {0},
		"another network's":   aHead(t, pack.Network{9}, own).Encode(),
	}
}

// What keepers show that is no head of the volume is of no consequence, as long
// as one of them shows the right one.
func TestFalseHeadsPoisonNothing(t *testing.T) {
	m := newMemNet(t, 703, 20, 0)
	a, _, read := m.created(t, 1, "v")
	into(t, a, "v:", "f", "content")
	owner := must(a.vol("v")).owner
	right := must(m.nodes[0].store.Heads(owner))
	lies := falseHeads(t, must(a.vol("v")).keys, right[0])
	other := volume.Seed{9}.Keys()
	lies["another volume's"] = aHead(t, memNetwork, &other).Encode()
	honest := m.nodes[len(lies):]
	var all [][]byte
	for i, name := range sortedKeys(lies) {
		all = append(all, lies[name])
		m.nodes[i].lies(untrue{tell: func(pack.Owner) [][]byte { return [][]byte{lies[name]} }})
	}
	slices.SortFunc(all, slices.Compare)
	for _, n := range honest[1:] {
		n.lies(untrue{tell: func(pack.Owner) [][]byte { return all }})
	}
	r := m.reader(t, 2, read)
	if got := text(t, r, "v:f"); got != "content" {
		t.Errorf("got %q", got)
	}
	if diff := cmp.Diff(right, r.lastSeen(owner).Heads); diff != "" {
		t.Errorf("other heads are remembered (-want +got):\n%s", diff)
	}
	m.passAround(t.Context(), owner, 0)
	if diff := cmp.Diff(right, must(honest[0].store.Heads(owner))); diff != "" {
		t.Errorf("other heads are kept (-want +got):\n%s", diff)
	}
	if got := slices.Collect(keys(honest[0].store.Volumes(t.Context()))); len(got) != 1 {
		t.Errorf("heads of %d volumes are kept", len(got))
	}
}

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// keys gives the first of each pair.
func keys[K, V any](seq iter.Seq2[K, V]) iter.Seq[K] {
	return func(yield func(K) bool) {
		for k := range seq {
			if !yield(k) {
				return
			}
		}
	}
}

// A keeper takes no head that is none, nor one that nobody of that volume has
// signed, whatever it keeps already.
func TestFalseHeadsAreNotTaken(t *testing.T) {
	m := newMemNet(t, 704, 3, 0)
	a, _, _ := m.created(t, 1, "v")
	into(t, a, "v:", "f", "content")
	owner := must(a.vol("v")).owner
	keeper := m.nodes[0]
	right := must(keeper.store.Heads(owner))
	volumes := len(slices.Collect(keys(keeper.store.Volumes(t.Context()))))
	evil := m.client()
	for name, b := range falseHeads(t, must(a.vol("v")).keys, right[0]) {
		err := evil.call(t.Context(), keeper.self, askTimeout, func(s stream) error { return wire.PutHead(s, b) })
		if _, ok := errors.AsType[*wire.Refusal](err); !ok {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	if diff := cmp.Diff(right, must(keeper.store.Heads(owner))); diff != "" {
		t.Errorf("other heads are kept (-want +got):\n%s", diff)
	}
	if got := len(slices.Collect(keys(keeper.store.Volumes(t.Context())))); got != volumes {
		t.Errorf("heads of %d volumes are kept, want %d", got, volumes)
	}
}

// rawly has some peers answer with bytes of their own.
type rawly struct {
	dialer

	say map[peer.ID]func(s net.Conn)
}

func (d rawly) Open(ctx context.Context, p peer.ID) (stream, error) {
	say := d.say[p]
	if say == nil {
		return d.dialer.Open(ctx, p)
	}
	a, b := net.Pipe()
	go func() {
		defer b.Close()
		go io.Copy(io.Discard, b)
		say(b)
	}()
	return memStream{a, nil}, nil
}

// forever writes a frame's beginning and then what next gives until nobody
// listens, and counts.
func forever(said *atomic.Int64, begin []byte, next func(i int) []byte) func(net.Conn) {
	return func(s net.Conn) {
		b := begin
		for i := 0; ; i++ {
			n, err := s.Write(b)
			if said.Add(int64(n)); err != nil {
				return
			}
			b = next(i)
		}
	}
}

// Answers that are too long are not read to their end, wherever it says how long
// they are, and no look at a volume waits for one that does not end.
func TestAnswersWithoutAnEndAreCutShort(t *testing.T) {
	m := newMemNet(t, 705, 9, 0)
	a, _, read := m.created(t, 1, "v")
	into(t, a, "v:", "f", "content")
	var said atomic.Int64
	block := make([]byte, 64<<10)
	zeros := func(int) []byte { return block }
	say := map[peer.ID]func(net.Conn){
		m.nodes[0].self: forever(&said, []byte{0x89, 0xff, 0xff, 0xff}, zeros),
		m.nodes[1].self: forever(&said, []byte{0x89, 0, 1, 0}, zeros), // none, and something behind it
		m.nodes[2].self: forever(&said, []byte{0xff, 0xff, 0xff, 0xff}, zeros),
		m.nodes[3].self: forever(&said, append([]byte{0x89, 1, 0, 0x21, 17}, make([]byte, 1<<16)...), zeros),
	}
	r := m.home(t, 2)
	r.engine.dial = rawly{r.engine.dial, say}
	if _, err := r.VolumeAdd(t.Context(), read, "v"); err != nil {
		t.Fatal(err)
	}
	said.Store(0)
	w, err := r.look(t.Context(), must(r.vol("v")))
	if err != nil || len(w.heads) != 1 || w.heads[0].Number != 2 {
		t.Errorf("got %+v, %v", w, err)
	}
	if got := said.Load(); got > 4*(66<<10) {
		t.Errorf("%d bytes were read of answers without an end", got)
	}
}

// hurried is a clock by which a second passes whenever somebody looks at it.
type hurried struct {
	realClock

	looks *atomic.Int64
}

func (c hurried) Now() time.Time {
	return time.Now().Add(time.Duration(c.looks.Add(1)) * time.Second)
}

// A keeper that answers byte by byte, each in time, keeps nobody from passing on
// the heads of volumes, nor from ending a commit.
func TestAnswersThatComeByteByByteAreNotWaitedFor(t *testing.T) {
	m := newMemNet(t, 706, 5, 0)
	a, _, _ := m.created(t, 1, "v")
	owner := must(a.vol("v")).owner
	right := must(m.nodes[0].store.Heads(owner))
	forget(t, owner, m.nodes[1])
	var said atomic.Int64
	slowly := func(begin ...byte) func(net.Conn) {
		return forever(&said, begin[:1], func(i int) []byte {
			if i++; i < len(begin) {
				return begin[i : i+1]
			}
			return []byte{0}
		})
	}
	answer, refusal := slowly(0x89, 1, 0, 0x21), slowly(0xff, 0, 1, 0) // and so many bytes to come
	for _, n := range []*memNode{m.nodes[0], m.find(a.engine.self)} {
		n.clock = hurried{looks: new(atomic.Int64)}
		n.dial = rawly{n.dial, map[peer.ID]func(net.Conn){m.nodes[3].self: answer, m.nodes[4].self: refusal}}
	}
	const rounds = 30 // its turn comes in some of them
	for round := range uint64(rounds) {
		_ = m.nodes[0].passOn(t.Context(), owner, round)
	}
	if diff := cmp.Diff(right, must(m.nodes[1].store.Heads(owner))); diff != "" {
		t.Errorf("not passed on (-want +got):\n%s", diff)
	}
	m.nodes[2].lies(untrue{take: func([]byte) error { return wire.Refuse(wire.Full, "no space left") }})
	h := must(volume.DecodeHead(right[0]))
	if err := a.engine.publish(t.Context(), h); CodeOf(err) != NoPeers {
		t.Errorf("publish: got %v, want that there are not enough", err)
	}
	if got := said.Load(); got > rounds*100 {
		t.Errorf("%d bytes were waited for", got)
	}
}

// A wall parts the nodes of a network: those of one side reach each other only,
// and only they are known there, or all of them are as before.
type wall struct {
	m     *memNet
	side  map[peer.ID]bool
	up    atomic.Bool
	stale bool // who is behind it is still named
}

// newWall puts nodes onto the far side.
func newWall(m *memNet, stale bool, far ...*memNode) *wall {
	w := &wall{m: m, side: make(map[peer.ID]bool), stale: stale}
	for _, n := range far {
		w.side[n.self] = true
	}
	for _, n := range m.nodes {
		n.dial = walledDialer{n.dial, w, w.side[n.self]}
		n.dir = walledDirectory{memDirectory{m, n}, w, w.side[n.self]}
	}
	return w
}

type walledDialer struct {
	dialer

	wall *wall
	side bool
}

func (d walledDialer) Open(ctx context.Context, p peer.ID) (stream, error) {
	if d.wall.up.Load() && d.wall.side[p] != d.side {
		return nil, errors.New("no route to peer")
	}
	return d.dialer.Open(ctx, p)
}

type walledDirectory struct {
	memDirectory

	wall *wall
	side bool
}

func (d walledDirectory) Walk(ctx context.Context, id [32]byte) iter.Seq2[peer.ID, error] {
	return func(yield func(peer.ID, error) bool) {
		for p, err := range d.memDirectory.Walk(ctx, id) {
			if d.wall.up.Load() && !d.wall.stale && d.wall.side[p] != d.side {
				continue
			}
			if !yield(p, err) {
				return
			}
		}
	}
}

func (d walledDirectory) Closest(ctx context.Context, id [32]byte, n int) ([]peer.ID, error) {
	out := first(d.Walk(ctx, id), n)
	if len(out) == 0 {
		return nil, errors.New("no peers")
	}
	return out, nil
}

// Two write the same volume on two sides of a wall. As long as all keepers are
// known to both, the side with fewer of them is told that nothing is
// acknowledged, and keeps what it has made; where each side takes its own for
// all, both are acknowledged. When the wall has gone all of it is there.
func TestAPartedVolumeLosesNothing(t *testing.T) {
	for _, c := range []struct {
		name   string
		stale  bool
		far    int  // holders beyond the wall
		quorum bool // what is written there is acknowledged
	}{
		{"fewer, who know of the others", true, 3, false},
		{"fewer, who know of nobody else", false, 3, true},
		{"nobody", false, 0, false},
		{"nobody, who knows of the others", true, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMemNet(t, 707, 9, 0)
			a, write, read := m.created(t, 1, "v")
			into(t, a, "v:", "same", "before")
			b, reader := m.added(t, 2, write, "v"), m.added(t, 3, read, "v")
			late := m.home(t, 4)
			w := newWall(m, c.stale, append(slices.Clone(m.nodes[9-c.far:9]), m.find(b.engine.self))...)
			for _, n := range m.nodes {
				n.clock = attentive{}
			}
			var acked []*volume.Head
			try := func(n *Node, name, content string, want bool) {
				t.Helper()
				_, err := n.Put(t.Context(), PutRequest{Name: name, Mode: 0o644, Size: int64(len(content)), Target: "v:"}, strings.NewReader(content), nil)
				if err == nil {
					acked = append(acked, n.volumes.cached(must(n.vol("v")).owner).heads[0])
				}
				if want != (err == nil) || err != nil && CodeOf(err) != NoPeers {
					t.Errorf("%s: got %v, want success %v", name, err, want)
				}
			}
			w.up.Store(true)
			for i := range 2 {
				try(a, fmt.Sprint("of a ", i), "a", true)
				try(b, fmt.Sprint("of b ", i), "b", c.quorum)
			}
			try(a, "same", "a's", true)
			try(b, "same", "b's", c.quorum)
			if got := text(t, reader, "v:same"); got != "a's" {
				t.Errorf("with the others: got %q", got)
			}
			w.up.Store(false)
			if c.far == 0 { // what could be stored nowhere was never more than a file
				for i := range 2 {
					try(b, fmt.Sprint("of b ", i), "b", true)
				}
			}
			if _, err := late.VolumeAdd(t.Context(), read, "v"); err != nil {
				t.Fatal(err)
			}
			check := func(when string) {
				t.Helper()
				for _, n := range []*Node{reader, late, b, a} {
					got, err := content(t.Context(), n, "v:")
					if err != nil {
						t.Fatal(err)
					}
					want := map[string]string{"same": sum([]byte("a's"))}
					for i := range 2 {
						want[fmt.Sprint("of a ", i)], want[fmt.Sprint("of b ", i)] = sum([]byte("a")), sum([]byte("b"))
					}
					for name, text := range got {
						if c.far > 0 && strings.HasPrefix(name, "same (conflict ") {
							delete(got, name)
							got["other"] = text
							want["other"] = sum([]byte("b's"))
						}
					}
					if c.far > 0 && got["same"] == sum([]byte("b's")) {
						got["same"], got["other"] = got["other"], got["same"]
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%s: another tree (-want +got):\n%s", when, diff)
					}
				}
			}
			check("as they are")
			if err := b.Mkdir(t.Context(), "v:end", false); err != nil {
				t.Fatal(err)
			}
			if _, err := a.Remove(t.Context(), "v:end"); err != nil {
				t.Fatal(err)
			}
			check("merged")
			v, err := late.look(t.Context(), must(late.vol("v")))
			if err != nil || len(v.heads) != 1 {
				t.Fatalf("got %d heads, %v", len(v.heads), err)
			}
			past := must(v.allPast(t.Context()))
			for _, h := range acked {
				if !v.heads[0].Follows(h) || !slices.ContainsFunc(past, func(p volume.Past) bool { return p.Hash == h.Hash() }) {
					t.Errorf("head %d was acknowledged and does not lead to the last one", h.Number)
				}
			}
		})
	}
}

// copied gives the same home on another machine: what a copy of it is, or who has
// stolen it.
func (m *memNet) copied(t *testing.T, n *Node, link string) *Node {
	t.Helper()
	twin := m.client()
	twin.self = n.engine.self
	out := twin.homeOf(n.seed)
	out.home = HomeAt(t.TempDir())
	if _, err := out.VolumeAdd(t.Context(), link, "v"); err != nil {
		t.Fatal(err)
	}
	return out
}

// Two that are one writer, for one is a copy of the other's home, make heads of
// one number: both are kept, and merged.
func TestTwoHeadsOfOneNumberByOneWriterAreBothKept(t *testing.T) {
	m := newMemNet(t, 708, 5, 0)
	a, write, read := m.created(t, 1, "v")
	into(t, a, "v:", "same", "before")
	twin := m.copied(t, a, write)
	owner := must(a.vol("v")).owner
	for round := range 3 {
		commits := []*commit{begun(t, a, "v"), begun(t, twin, "v")}
		var heads []*volume.Head
		for i, c := range commits {
			if err := c.put(t, fmt.Sprintf("%d of %d", round, i), "x"); err != nil {
				t.Fatal(err)
			}
			heads = append(heads, c.w.heads[0])
		}
		if heads[0].Number != heads[1].Number || heads[0].Writer != heads[1].Writer {
			t.Fatalf("heads %d and %d by writers %x and %x: the test is wrong", heads[0].Number, heads[1].Number, heads[0].Writer, heads[1].Writer)
		}
		m.passAround(t.Context(), owner, 0)
		for _, n := range m.holders() {
			if got := must(n.store.Heads(owner)); len(got) != 2 {
				t.Errorf("round %d: a keeper keeps %d heads, want both", round, len(got))
			}
		}
		want := (round + 1) * 2
		for _, n := range []*Node{m.reader(t, byte(10+round), read), a, twin} {
			if got := names(t, n, "v:"); strings.Count(got, " of ") != want {
				t.Errorf("round %d: got %q, want %d files", round, got, want)
			}
		}
	}
	for i, n := range []*Node{a, twin} {
		into(t, n, "v:", fmt.Sprint("end ", i), "x")
	}
	r := m.reader(t, 20, read)
	if got := names(t, r, "v:"); strings.Count(got, " of ") != 6 || !strings.Contains(got, "end 0") || !strings.Contains(got, "end 1") {
		t.Errorf("in the end: got %q", got)
	}
}

// A peer that gives a keeper heads of volumes that it makes up fills no more than
// the keeper's capacity; what is kept already is served, and changes.
func TestMadeUpVolumesAreInNobodysWay(t *testing.T) {
	const capacity = 1 << 20
	m := newMemNet(t, 709, 5, capacity)
	a, _, read := m.created(t, 1, "v")
	into(t, a, "v:", "f", "0")
	keeper, evil := m.nodes[0], m.client()
	refused := 0
	for i := 0; refused < 3; i++ {
		keys := volume.Seed{0xee, byte(i >> 8), byte(i)}.Keys()
		h := aHead(t, memNetwork, &keys)
		err := evil.call(t.Context(), keeper.self, askTimeout, func(s stream) error { return wire.PutHead(s, h.Encode()) })
		r, full := errors.AsType[*wire.Refusal](err)
		switch {
		case full && r.Code == wire.Full:
			refused++
		case err != nil:
			t.Fatal(err)
		case i > 2*capacity/700:
			t.Fatalf("%d volumes are kept", i)
		}
	}
	if u := keeper.store.Usage(); u.Held > capacity {
		t.Errorf("%d bytes are held, of %d", u.Held, capacity)
	}
	owner := must(a.vol("v")).owner
	for i := 1; i < 4; i++ {
		into(t, a, "v:", "f", fmt.Sprint(i))
		if diff := cmp.Diff(must(m.nodes[1].store.Heads(owner)), must(keeper.store.Heads(owner))); diff != "" {
			t.Errorf("the keeper keeps another head than others (-others +it):\n%s", diff)
		}
	}
	if got := text(t, m.reader(t, 2, read), "v:f"); got != "3" {
		t.Errorf("got %q", got)
	}
}
