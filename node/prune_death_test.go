package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/volume"
)

// frozen is the dialer of a node whose process ends with a call, when it has been
// answered. Unlike one that is killed, which goes on and reaches
// nobody, it does nothing any more from then on, in its store neither.
type frozen struct {
	dialer

	at    int64 // the call; 0: it lives
	calls atomic.Int64
	kinds func(n int64, kind byte) // is told what kind of request each call is; nil: nobody is
	once  sync.Once
	over  chan struct{} // closed when it has ended
	leave chan struct{} // closed when what has stopped may go away
}

func (d *frozen) Open(ctx context.Context, p peer.ID) (stream, error) {
	n := d.calls.Add(1)
	select {
	case <-d.over:
		return nil, d.stop()
	default:
	}
	s, err := d.dialer.Open(ctx, p)
	return &frozenStream{stream: s, by: d, n: n}, err
}

func (d *frozen) end() { d.once.Do(func() { close(d.over) }) }

// stop is where all stops.
func (d *frozen) stop() error {
	<-d.leave
	return errors.New("the process has ended")
}

type frozenStream struct {
	stream

	by    *frozen
	n     int64
	wrote bool
}

func (s *frozenStream) Write(b []byte) (int, error) {
	if !s.wrote && s.by.kinds != nil {
		s.by.kinds(s.n, b[0])
	}
	s.wrote = true
	return s.stream.Write(b)
}

func (s *frozenStream) Close() error {
	err := s.stream.Close()
	if s.n == s.by.at {
		s.by.end()
	}
	select {
	case <-s.by.over:
		return s.by.stop()
	default:
		return err
	}
}

// netHasty is a clock that is ahead as its network is and whose waits are short.
type netHasty struct {
	hasty

	net *memNet
}

func (c netHasty) Now() time.Time { return netClock{net: c.net}.Now() }

const (
	pruned  = "v"            // the volume
	dayLong = 25 * time.Hour // what was never confirmed is dropped by then
)

// a pruning is a prune in which its home dies.
type pruning struct {
	name  string
	begin func(t *testing.T, m *memNet, n *Node) // what was before
	q     PruneRequest
	heads int // that there are then
}

// change puts another file of one name into the volume so many times.
func changes(t *testing.T, n *Node, times int) {
	for i := range times {
		into(t, n, pruned+":", "f", strings.Repeat(fmt.Sprint(i), 9000))
	}
}

var prunings = []pruning{
	{
		name: "a rule", q: PruneRequest{Policy: volume.Policy{Last: 2}}, heads: 3,
		begin: func(t *testing.T, _ *memNet, n *Node) { changes(t, n, 4) },
	},
	{
		name: "after 48 hours", heads: 4,
		begin: func(t *testing.T, m *memNet, n *Node) {
			changes(t, n, 4)
			if res, err := n.VolumePrune(t.Context(), pruned, PruneRequest{Policy: volume.Policy{Last: 2}}); err != nil || res.Dying == 0 {
				t.Fatalf("prune: %+v, %v", res, err)
			}
			m.ahead.Add(int64(DyingFor + time.Hour))
		},
	},
	{
		name: "at once", q: PruneRequest{Policy: volume.Policy{Last: 2}, Now: true}, heads: 3,
		begin: func(t *testing.T, _ *memNet, n *Node) { changes(t, n, 4) },
	},
	{
		name: "what is left of packs", q: PruneRequest{Policy: volume.Policy{Last: 2}, Now: true}, heads: 4,
		begin: func(t *testing.T, _ *memNet, n *Node) {
			f := &folder{data: make(map[string]string)}
			for i := range 8 {
				f.names = append(f.names, fmt.Sprint(i))
				f.data[f.names[i]] = string(random(uint64(i), 60<<10))
			}
			if _, err := n.PutTree(t.Context(), PutRequest{Target: pruned + ":", Size: -1}, f, nil); err != nil {
				t.Fatal(err)
			}
			for _, name := range f.names[1:] {
				if err := n.removeText(t.Context(), pruned+":folder/"+name); err != nil {
					t.Fatal(err)
				}
			}
			changes(t, n, 1)
		},
	},
}

// prunedNet is a volume in a network of few holders, that one home is to prune.
type prunedNet struct {
	*memNet

	home *Node
	line *frozen
	link string
	seed byte
}

func (p *pruning) net(t *testing.T, holder bool) *prunedNet {
	leave := make(chan struct{})
	t.Cleanup(func() { close(leave) }) // after the stores have been closed
	n := &prunedNet{memNet: newMemNet(t, 721, 4, 0), seed: 10}
	for _, h := range n.nodes {
		h.clock = netHasty{net: n.memNet}
	}
	n.home = n.memNet.home(t, 1)
	if holder {
		n.home = n.add(true, 0, "").homeOf(n.home.seed)
		n.home.home = HomeAt(t.TempDir())
	}
	n.home.engine.clock = netHasty{net: n.memNet}
	if _, err := n.home.VolumeCreate(t.Context(), pruned); err != nil {
		t.Fatal(err)
	}
	n.link = rightTo(t, n.home, pruned, "write")
	p.begin(t, n.memNet, n.home)
	n.line = &frozen{dialer: n.home.engine.dial, over: make(chan struct{}), leave: leave}
	n.home.engine.dial = n.line
	return n
}

// fresh gives a home that sees the volume for the first time.
func (n *prunedNet) fresh(t *testing.T) *Node {
	t.Helper()
	n.seed++
	f := n.memNet.home(t, n.seed)
	f.engine.clock = netHasty{net: n.memNet}
	if _, err := f.VolumeAdd(t.Context(), n.link, pruned); err != nil {
		t.Fatal(err)
	}
	return f
}

// whole checks, as a home sees the volume, that the tree and all of the past can be
// read, and that no pack is deleted that it has. It gives what is read, by head.
func (n *prunedNet) whole(t *testing.T, h *Node, when string) map[string]map[string]string {
	t.Helper()
	out := make(map[string]map[string]string)
	read := func(source string) {
		tree, err := content(t.Context(), h, source)
		if err != nil {
			t.Errorf("%s: %s %v", when, source, err)
		}
		out[source] = tree
	}
	read(pruned + ":")
	log, err := h.VolumeLog(t.Context(), pruned)
	if err != nil {
		t.Errorf("%s: log: %v", when, err)
	}
	for _, x := range log {
		read(fmt.Sprintf("%s@%d-%s:", pruned, x.Number, x.Hash))
	}
	ids, err := h.packsOfVol(t.Context(), must(h.vol(pruned)))
	if err != nil {
		t.Errorf("%s: packs: %v", when, err)
	}
	for _, holder := range n.holders() {
		for _, id := range ids {
			if _, err := holder.store.Tombstone(id); err == nil {
				t.Errorf("%s: pack %s, which the volume has, is deleted", when, id.Short())
			}
		}
	}
	return out
}

// trees gives what there is of trees in the past, in order and each once.
func trees(read map[string]map[string]string) []string {
	var out []string
	for _, tree := range read {
		var all []string
		for _, name := range slices.Sorted(maps.Keys(tree)) {
			all = append(all, name+"="+tree[name])
		}
		out = append(out, strings.Join(all, " "))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// lean checks that holders and the home's catalog have no packs but those that are
// needed.
func (n *prunedNet) lean(t *testing.T, needed map[pack.ID]bool, when string) {
	t.Helper()
	extra := func(who string, ids []pack.ID) {
		t.Helper()
		ids = slices.DeleteFunc(ids, func(id pack.ID) bool { return needed[id] })
		slices.SortFunc(ids, compareID)
		if ids = slices.Compact(ids); len(ids) > 0 {
			t.Errorf("%s: %s %d packs that are not needed", when, who, len(ids))
		}
	}
	extra("the catalog has", slices.Collect(keys(n.home.store.PacksOf(t.Context(), volumeRoot(must(n.home.vol(pruned)).owner)))))
	var held []pack.ID
	for _, h := range n.holders() {
		for p, err := range h.store.Packs(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if !p.Deleted {
				held = append(held, p.ID)
			}
		}
	}
	extra("holders have", held)
}

// listed gives the packs that the volume has.
func (n *prunedNet) listed(t *testing.T) map[pack.ID]bool {
	t.Helper()
	ids, err := n.home.packsOfVol(t.Context(), must(n.home.vol(pruned)))
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[pack.ID]bool)
	for _, id := range ids {
		out[id] = true
	}
	return out
}

// needed gives the packs that its heads refer to.
func (n *prunedNet) needed(t *testing.T) map[pack.ID]bool {
	t.Helper()
	w, err := n.home.look(t.Context(), must(n.home.vol(pruned)))
	if err != nil {
		t.Fatal(err)
	}
	m, err := n.home.mark(t.Context(), w, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := maps.Clone(m.Packs)
	for _, c := range w.contents {
		for _, r := range []pack.Ref{c.Root, c.History, c.Inventory} {
			out[r.Pack] = true
		}
	}
	return out
}

// A home that ends at any step of a prune leaves the head that there was or the
// one that there is to be, with all that these need; and its next prune ends the
// work, so that nothing is left to which nothing refers.
func TestAPruneThatEndsAnywhereIsEndedByTheNext(t *testing.T) {
	for _, p := range prunings {
		t.Run(p.name, func(t *testing.T) {
			// What there is to be, and where one kind of request follows another.
			n := p.net(t, false)
			before := n.whole(t, n.fresh(t), "before")
			var mu sync.Mutex
			kinds := make(map[int64]byte)
			n.line.kinds = func(i int64, kind byte) {
				mu.Lock()
				defer mu.Unlock()
				kinds[i] = kind
			}
			if _, err := n.home.VolumePrune(t.Context(), pruned, p.q); err != nil {
				t.Fatal(err)
			}
			n.line.kinds = nil
			calls := n.line.calls.Load()
			if p.q.Now {
				n.lean(t, n.needed(t), "after")
			}
			after := n.whole(t, n.fresh(t), "after")
			if got := len(after) - 1; got != p.heads {
				t.Errorf("got %d heads, want %d", got, p.heads)
			}
			for i := int64(1); i <= calls; i++ {
				if testing.Short() && !p.short(kinds, i) {
					continue
				}
				t.Run(fmt.Sprint(i), func(t *testing.T) { p.endAt(t, before, after, i, i%2 == 0) })
			}
		})
	}
}

// short tells whether a home ends after a call when the test is short: the last of
// those that do what cannot be taken back, and one of each that were to follow.
func (p *pruning) short(kinds map[int64]byte, i int64) bool {
	const holders, state, putHead = 0x05, 0x06, 0x0f // see docs/protocol.md
	switch kinds[i] {
	case holders, putHead:
		return kinds[i+1] != kinds[i]
	case state:
		return kinds[i-1] != kinds[i]
	}
	return false
}

func (p *pruning) endAt(t *testing.T, before, after map[string]map[string]string, at int64, holder bool) {
	n := p.net(t, holder)
	seen := n.fresh(t) // before
	n.whole(t, seen, "before")
	n.line.at = at
	done := make(chan error, 1)
	go func() {
		_, err := n.home.VolumePrune(t.Context(), pruned, p.q)
		done <- err
	}()
	when := fmt.Sprintf("ended at call %d", at)
	select {
	case err := <-done:
		when = fmt.Sprintf("not ended (%v)", err)
	case <-n.line.over:
	}
	n.find(n.home.engine.self).kill()
	check := func(when string) {
		t.Helper()
		read := n.whole(t, n.fresh(t), when)
		if diff := cmp.Diff(n.whole(t, seen, when), read); diff != "" {
			t.Errorf("%s: two see different pasts:\n%s", when, diff)
		}
		if got := trees(read); !slices.Equal(got, trees(before)) && !slices.Equal(got, trees(after)) {
			t.Errorf("%s: neither the old nor the new past: %q", when, slices.Sorted(maps.Keys(read)))
		}
	}
	check(when)
	n.ahead.Add(int64(dayLong))
	n.sweep()
	check(when + ", a day later")

	n.find(n.home.engine.self).down.Store(false)
	n.home = n.again(n.home)
	n.home.engine.clock = netHasty{net: n.memNet}
	for i := range 3 { // what was stored the last time begins to die with the first
		when := fmt.Sprintf("%s, prune %d after it", when, i+1)
		if _, err := n.home.VolumePrune(t.Context(), pruned, p.q); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		n.sweep()
		if got, want := trees(n.whole(t, n.home, when)), trees(after); !slices.Equal(got, want) {
			t.Errorf("%s: another past:\n%s", when, cmp.Diff(want, got))
		}
		n.ahead.Add(int64(DyingFor + time.Hour))
	}
	n.whole(t, seen, when+", and three prunes")
	n.lean(t, n.listed(t), when+", and three prunes")
	res, err := n.home.VolumePrune(t.Context(), pruned, PruneRequest{Policy: p.q.Policy, Now: true})
	if err != nil || res.Partial {
		t.Errorf("%s, in the end: %+v, %v", when, res, err)
	}
	n.sweep()
	n.whole(t, n.fresh(t), when+", in the end")
	n.lean(t, n.needed(t), when+", in the end")
	if diff := cmp.Diff(n.needed(t), n.listed(t)); diff != "" {
		t.Errorf("%s, in the end: it lists others than it needs (-needed +listed):\n%s", when, diff)
	}
}
