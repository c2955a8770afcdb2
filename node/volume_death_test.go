package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/repair"
	"github.com/p2pfs/p2pfs/volume"
)

// killed is the dialer of a node that dies at a call: that one comes to nothing,
// or is done and its answer not heard of any more, and all after it reach nobody.
type killed struct {
	dialer

	at    int64 // the call; 0: it lives
	heard bool  // the call is done
	calls atomic.Int64
}

func (d *killed) Open(ctx context.Context, p peer.ID) (stream, error) {
	n := d.calls.Add(1)
	if d.at == 0 || n < d.at {
		return d.dialer.Open(ctx, p)
	}
	if n > d.at || !d.heard {
		return nil, errors.New("dead")
	}
	s, err := d.dialer.Open(ctx, p)
	return &unheard{stream: s}, err
}

// unheard is a stream whose answers come and are not heard.
type unheard struct{ stream }

func (s *unheard) Read(b []byte) (int, error) {
	if _, err := s.stream.Read(make([]byte, len(b))); err != nil {
		return 0, err
	}
	return 0, errors.New("dead")
}

// again gives the node of a home that has been started anew.
func (m *memNet) again(n *Node) *Node {
	m.t.Helper()
	node := m.find(n.engine.self)
	old := node.engine
	node.engine = &engine{
		self: old.self, holder: old.holder, network: old.network, zone: old.zone, clock: realClock{}, store: old.store,
		peers: newPeerTable(), packs: newPackTable(), buffers: new(buffers), log: old.log, stall: old.stall,
		rand: rand.New(rand.NewPCG(m.rand.Uint64(), 1)), dial: memDialer{m, node}, dir: memDirectory{m, node},
	}
	node.server = newServer(node.engine, nil)
	node.keeper = newKeeper(node.engine, repair.Config{})
	out := &Node{engine: node.engine, store: node.store, log: node.log, seed: n.seed, home: n.home}
	if err := out.loadVolumes(); err != nil {
		m.t.Fatal(err)
	}
	return out
}

// content gives all that is at a source, by path: what is in files, and "/" of
// directories.
func content(ctx context.Context, n *Node, source string) (map[string]string, error) {
	got := new(items)
	if err := n.GetTree(ctx, GetRequest{Source: source}, got, nil); err != nil {
		return nil, err
	}
	all := make(map[string]string)
	for i, item := range got.list {
		switch {
		case item.Path == "":
		case item.Entry.Kind == volume.DirEntry:
			all[item.Path] = "/"
		default:
			all[item.Path] = sum(got.data[i])
		}
	}
	return all, nil
}

// a death is an operation on a volume in which its home dies.
type death struct {
	name  string
	begin func(t *testing.T, n *Node) // what was before, in the volume v
	do    func(ctx context.Context, n *Node) error
	done  func(err error) bool // whether it is an answer of one that has been done already; nil: there is none
	past  bool                 // the history is whole all the time
	lean  bool                 // in the end there is nothing that the volume does not need
	step  int                  // of calls, when short
}

// inVolume is where the deaths happen: the home's own volume under another name.
const inVolume = "theirs"

var deaths = []death{
	{
		name: "put", past: true, step: 17,
		begin: func(t *testing.T, n *Node) { into(t, n, Mine+":dir", "old", strings.Repeat("old", 9000)) },
		do: func(ctx context.Context, n *Node) error {
			b := random(60, 40<<10)
			_, err := n.Put(ctx, PutRequest{Name: "new", Mode: 0o644, Size: int64(len(b)), Target: Mine + ":dir"}, strings.NewReader(string(b)), nil)
			return err
		},
	},
	{
		name: "mv", past: true, step: 11,
		begin: func(t *testing.T, n *Node) { into(t, n, Mine+":dir", "old", strings.Repeat("old", 9000)) },
		do:    func(ctx context.Context, n *Node) error { return n.Move(ctx, Mine+":dir/old", Mine+":new") },
		done:  func(err error) bool { return errors.Is(err, volume.ErrNotFound) },
	},
	{
		name: "prune", past: true, lean: true, step: 23,
		begin: func(t *testing.T, n *Node) {
			for i := range 4 {
				into(t, n, Mine+":", "f", strings.Repeat(fmt.Sprint(i), 9000))
			}
		},
		do: func(ctx context.Context, n *Node) error {
			res, err := n.VolumePrune(ctx, Mine, PruneRequest{Policy: volume.Policy{Last: 2}, Now: true})
			if err == nil && res.Partial {
				err = errors.New("partial")
			}
			return err
		},
	},
	{
		name: "rm LINK", step: 19,
		begin: func(t *testing.T, n *Node) {
			into(t, n, "", "kept", strings.Repeat("kept", 9000))
			into(t, n, "", "f", strings.Repeat("gone", 9000))
		},
		do: func(ctx context.Context, n *Node) error {
			res, err := n.Remove(ctx, n.linkNamed("f"))
			if err == nil && res.Partial {
				err = errors.New("partial")
			}
			return err
		},
		done: func(err error) bool { return CodeOf(err) == Usage }, // there is no such link
	},
}

// linkNamed gives the link to what was put by a name, "" where it is not in the
// catalog.
func (n *Node) linkNamed(name string) string {
	for r, err := range n.store.Roots(context.Background()) {
		if err == nil && r.Name == name {
			return r.Link
		}
	}
	return ""
}

// A home that dies at any call leaves the tree as it was or as it is to be, whole,
// for all who look; and when it comes back it does the same again.
func TestACommitThatEndsAnywhereLeavesOneStateOrTheOther(t *testing.T) {
	for _, d := range deaths {
		t.Run(d.name, func(t *testing.T) {
			want := d.want(t)
			step := 1
			if testing.Short() {
				step = d.step
			}
			for i, over := 0, false; !over && !t.Failed(); i++ {
				for mode := range 4 {
					if testing.Short() && mode != i%4 {
						continue
					}
					at, heard, holder := 1+i*step, mode%2 == 0, mode >= 2
					t.Run(fmt.Sprintf("%d %v %v", at, heard, holder), func(t *testing.T) { over = d.dieAt(t, want, at, heard, holder) || over })
				}
			}
		})
	}
}

// dieAt is over where the home lives that long: one that holds shards and heads
// for others, too, or a client.
func (d *death) dieAt(t *testing.T, want map[string]string, at int, heard, holder bool) (over bool) {
	m := newMemNet(t, 541, 5, 0)
	a := m.home(t, 1)
	if holder {
		a = m.add(true, 0, "").homeOf(a.seed)
		a.home = HomeAt(t.TempDir())
	}
	d.begin(t, a)
	write := rightTo(t, a, Mine, "write")
	b := m.added(t, 2, write, inVolume)
	old := d.look(t, b, "before")

	line := &killed{dialer: a.engine.dial, at: int64(at), heard: heard}
	a.engine.dial, a.engine.clock = line, hasty{}
	err := d.do(t.Context(), a)
	if err == nil && line.calls.Load() < line.at {
		t.Logf("%s: %d calls", d.name, line.calls.Load())
		return true
	}
	when := fmt.Sprintf("dead (%v)", err)
	m.find(a.engine.self).down.Store(true)
	after := d.look(t, m.added(t, 3, write, inVolume), when)
	if diff := cmp.Diff(after, d.look(t, b, when)); diff != "" {
		t.Errorf("%s: two see different trees:\n%s", when, diff)
	}
	m.ahead.Store(int64(25 * time.Hour))
	m.sweep()
	if diff := cmp.Diff(after, d.look(t, m.added(t, 4, write, inVolume), when+", a day later")); diff != "" {
		t.Errorf("%s: a day later it is another tree:\n%s", when, diff)
	}

	m.find(a.engine.self).down.Store(false)
	a = m.again(a)
	if err := d.do(t.Context(), a); err != nil && (d.done == nil || !d.done(err)) {
		t.Errorf("%s: again: %v", when, err)
	}
	for _, n := range []*Node{a, b, m.added(t, 5, write, inVolume)} {
		if diff := cmp.Diff(want, d.look(t, n, when+", again")); diff != "" {
			t.Errorf("%s: again: another tree than it is to be:\n%s", when, diff)
		}
	}
	if !maps.Equal(after, old) && !maps.Equal(after, want) {
		t.Errorf("%s: neither the old nor the new tree: %v", when, slices.Sorted(maps.Keys(after)))
	}
	m.ahead.Store(int64(50 * time.Hour))
	m.sweep()
	d.look(t, b, when+", again, a day later")
	if d.lean {
		m.lean(t, a, when)
	}
	return false
}

// want gives the tree as it is to be, by one home that lives.
func (d *death) want(t *testing.T) map[string]string {
	t.Helper()
	whole := newMemNet(t, 542, 2, 0)
	n := whole.home(t, 1)
	d.begin(t, n)
	if err := d.do(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return d.look(t, n, "in peace")
}

// look gives the tree, all of it read, and with its history where that is to be
// whole.
func (d *death) look(t *testing.T, n *Node, when string) map[string]string {
	t.Helper()
	name := inVolume
	if _, err := n.vol(name); err != nil {
		name = Mine
	}
	tree, err := content(t.Context(), n, name+":")
	if err != nil {
		t.Errorf("%s: tree: %v", when, err)
	}
	if !d.past {
		return tree
	}
	log, err := n.VolumeLog(t.Context(), name)
	if err != nil {
		t.Errorf("%s: log: %v", when, err)
	}
	for _, h := range log {
		if _, err := content(t.Context(), n, fmt.Sprintf("%s@%d-%s:", name, h.Number, h.Hash)); err != nil {
			t.Errorf("%s: head %d: %v", when, h.Number, err)
		}
	}
	return tree
}

// lean checks that holders keep nothing that the home's own volume does not
// need, but for what one of them knows to be deleted: the others learn it from
// that one.
func (m *memNet) lean(t *testing.T, n *Node, when string) {
	t.Helper()
	ids, err := n.packsOfVol(t.Context(), must(n.vol(Mine)))
	if err != nil {
		t.Fatal(err)
	}
	over := make(map[pack.ID]bool)
	for _, h := range m.holders() {
		for p, err := range h.store.Packs(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if !p.Deleted && !slices.Contains(ids, p.ID) {
				over[p.ID] = true
			}
		}
	}
	for _, h := range m.holders() {
		maps.DeleteFunc(over, func(id pack.ID, _ bool) bool { _, err := h.store.Tombstone(id); return err == nil })
	}
	if len(over) > 0 {
		t.Errorf("%s: %d packs are kept that the volume does not need", when, len(over))
	}
}
