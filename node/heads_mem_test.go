package node

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/dht"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/volume"
	"github.com/p2pfs/p2pfs/wire"
)

// slowDirectory still names the peers that have just gone, but those that are out.
type slowDirectory struct {
	memDirectory

	out func(n *memNode) bool // nil: none is
}

func (d slowDirectory) Walk(_ context.Context, id [32]byte) iter.Seq2[peer.ID, error] {
	var all []peer.ID
	for _, n := range d.net.holders() {
		if d.out == nil || !d.out(n) {
			all = append(all, n.self)
		}
	}
	slices.SortFunc(all, func(a, b peer.ID) int { return dht.Compare(id, a, b) })
	return func(yield func(peer.ID, error) bool) {
		for _, p := range all {
			if !yield(p, nil) {
				return
			}
		}
	}
}

func (d slowDirectory) Closest(ctx context.Context, id [32]byte, n int) ([]peer.ID, error) {
	out := first(d.Walk(ctx, id), n)
	return out, nil
}

func TestEnoughAnswersHaveOneOfThoseThatTookAHead(t *testing.T) {
	for n := 1; n <= headKeepers; n++ {
		for present := range n + 1 {
			if took := quorum(n, present); took+enough(n) <= n {
				t.Errorf("%d of %d answers need not have one of %d", enough(n), n, took)
			}
		}
	}
}

// A head counts although a holder was away, which comes back and answers first.
func TestWhoWasAwayDoesNotHideANewHead(t *testing.T) {
	m := newMemNet(t, 521, 3, 0)
	a, write, _ := m.created(t, 1, "v")
	b := m.added(t, 2, write, "v")
	for _, n := range m.nodes {
		n.dir = slowDirectory{memDirectory: memDirectory{m, n}}
	}
	away := m.holders()[1]
	away.down.Store(true)
	into(t, a, "v:", "f", "new")
	away.down.Store(false)
	for _, n := range m.holders() {
		if n != away {
			n.far.Store(int64(2 * headLinger))
		}
	}
	if got := names(t, b, "v:"); got != "f" {
		t.Errorf("got %q", got)
	}
}

func TestMoreTipsThanAreKeptAreRefusedAndNoneIsLost(t *testing.T) {
	m := newMemNet(t, 522, 3, 0)
	a, write, _ := m.created(t, 1, "v")
	var commits []*commit
	for i := range volume.MaxTips + 2 {
		commits = append(commits, begun(t, m.added(t, byte(2+i), write, "v"), "v"))
	}
	want, refused := "", 0
	for i, c := range commits {
		name := fmt.Sprintf("%02d", i)
		switch err := c.put(t, name, name); {
		case err == nil:
			want += " " + name
		case CodeOf(err) == NoPeers:
			refused++
		default:
			t.Fatal(err)
		}
	}
	if refused != 2 {
		t.Errorf("%d of %d heads refused, want 2", refused, len(commits))
	}
	for range 2 { // as they are, and merged
		if got := names(t, a, "v:"); got != strings.TrimSpace(want) {
			t.Errorf("got %q, want %q", got, want)
		}
		into(t, a, "v:", "merged", "x")
		want += " merged"
	}
	again := commits[len(commits)-1]
	into(t, again.n, "v:", "now", "x")
	if got := names(t, a, "v:"); !strings.HasSuffix(got, "now") {
		t.Errorf("got %q", got)
	}
}

// passAround has holders pass on the heads of a volume, so often that each of the
// keepers has its turn.
func (m *memNet) passAround(ctx context.Context, owner pack.Owner, first uint64) {
	for _, n := range m.holders() {
		for round := range uint64(3 * headKeepers) {
			if !n.down.Load() {
				_ = n.passOn(ctx, owner, first+round) // of some it says that they are away
			}
		}
	}
}

// crowd is a volume that several homes write and read while its holders come and
// go.
type crowd struct {
	m       *memNet
	owner   pack.Owner
	writers []*Node
	readers []*Node
	out     []atomic.Bool // of the nodes: not there yet, or gone for good

	mu    sync.Mutex
	rand  *rand.Rand                       // of what comes and goes
	heads map[volume.HeadHash]*volume.Head // all that were ever given to a holder
	acked []*volume.Head                   // those that were acknowledged
	files map[string]string                // what acknowledged puts wrote, by name; "": taken away
	gone  map[int]bool                     // nodes that do not come back
	errs  []error                          // of changes
	maybe map[string]bool                  // names of what was not acknowledged
}

// noted notes the heads that holders are given.
type noted struct {
	wire.Handler

	note func(h *volume.Head)
}

func (n noted) PutHead(ctx context.Context, from string, b []byte) error {
	if h, err := volume.DecodeHead(b); err == nil {
		n.note(h)
	}
	return n.Handler.PutHead(ctx, from, b)
}

func newCrowd(t *testing.T, seed uint64, holders, spare, writers, readers int) *crowd {
	c := &crowd{
		m: newMemNet(t, seed, holders+spare, 0), rand: rand.New(rand.NewPCG(seed, 2)), heads: make(map[volume.HeadHash]*volume.Head),
		gone: make(map[int]bool), files: make(map[string]string), maybe: make(map[string]bool), out: make([]atomic.Bool, holders+spare),
	}
	out := func(n *memNode) bool { return c.out[slices.Index(c.m.nodes, n)].Load() }
	settle := func(n *memNode) {
		n.dir = slowDirectory{memDirectory{c.m, n}, out}
		n.clock = hasty{}
	}
	for i, n := range c.m.nodes {
		settle(n)
		c.out[i].Store(i >= holders)
		n.down.Store(i >= holders)
		n.wrap = func(h wire.Handler) wire.Handler {
			return noted{h, func(h *volume.Head) {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.heads[h.Hash()] = h
			}}
		}
	}
	first, write, read := c.m.created(t, 1, "v")
	c.owner = must(first.vol("v")).owner
	c.writers = append(c.writers, first)
	for i := range writers - 1 {
		c.writers = append(c.writers, c.m.added(t, byte(10+i), write, "v"))
	}
	for i := range readers {
		c.readers = append(c.readers, c.m.added(t, byte(20+i), read, "v"))
	}
	for _, n := range c.m.nodes[holders+spare:] {
		settle(n)
	}
	return c
}

// step lets a holder go down, come up, or be replaced by one that has nothing. Of
// those that are to be there at most down are down at a time.
func (c *crowd) step(ctx context.Context, down int, round uint64) {
	c.mu.Lock()
	dice := c.rand.IntN(10)
	some := func(list []int) int { return list[c.rand.IntN(len(list))] }
	var up, away, spare []int
	for i, n := range c.m.holders() {
		switch {
		case !c.out[i].Load() && n.down.Load():
			away = append(away, i)
		case !c.out[i].Load():
			up = append(up, i)
		case !c.gone[i]:
			spare = append(spare, i)
		}
	}
	replaced := false
	switch {
	case dice < 4 && len(away) < down:
		c.m.nodes[some(up)].down.Store(true)
	case dice < 8 && len(away) > 0:
		c.m.nodes[some(away)].down.Store(false)
	case dice >= 8 && len(away) > 0 && len(spare) > 0:
		old := some(away)
		c.gone[old], replaced = true, true
		c.out[old].Store(true)
		c.out[spare[0]].Store(false)
		c.m.nodes[spare[0]].down.Store(false)
	}
	c.mu.Unlock()
	if replaced { // as those who stay do while nothing else happens
		c.m.passAround(ctx, c.owner, round)
	}
}

// calm has all holders up that are still to be there.
func (c *crowd) calm(ctx context.Context) {
	for i, n := range c.m.holders() {
		n.down.Store(c.out[i].Load())
	}
}

// acknowledged notes what a change of a writer that gave no error has made: its
// cached view is that of its own last head.
func (c *crowd) acknowledged(n *Node, edit func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked = append(c.acked, n.volumes.cached(c.owner).heads[0])
	edit()
}

// write makes changes in a volume: files of names that nobody else uses, some of
// them moved or taken away again.
func (c *crowd) write(ctx context.Context, who, times int, r *rand.Rand, each func()) {
	n := c.writers[who]
	var own []string
	for i := range times {
		name := fmt.Sprintf("w%d.%d", who, i)
		text := strings.Repeat(name+" ", 1+r.IntN(2)*700)
		var err error
		switch dice := r.IntN(6); {
		case dice == 0 && len(own) > 0:
			at := r.IntN(len(own))
			old := own[at]
			if err = n.Move(ctx, "v:"+old, "v:"+name); err == nil {
				c.acknowledged(n, func() { c.files[name], c.files[old] = c.files[old], "" })
				own[at] = name
				break
			}
			own = slices.Delete(own, at, at+1)
			c.unknown(name, old)
		case dice == 1 && len(own) > 0:
			at := r.IntN(len(own))
			old := own[at]
			own = slices.Delete(own, at, at+1)
			if _, err = n.Remove(ctx, "v:"+old); err == nil {
				c.acknowledged(n, func() { c.files[old] = "" })
				break
			}
			c.unknown(old)
		default:
			_, err = n.Put(ctx, PutRequest{Name: name, Mode: 0o644, Size: -1, Target: "v:"}, strings.NewReader(text), nil)
			if err == nil {
				c.acknowledged(n, func() { c.files[name] = text })
				own = append(own, name)
				break
			}
			c.unknown(name)
		}
		if err != nil {
			c.mu.Lock()
			c.errs = append(c.errs, err)
			c.mu.Unlock()
		}
		each()
	}
}

// unknown notes names of which it is not known whether they are there.
func (c *crowd) unknown(names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		c.maybe[name] = true
		delete(c.files, name)
	}
}

// read looks at the volume whenever something has been done: it never goes back.
func (c *crowd) read(ctx context.Context, t *testing.T, n *Node, done <-chan struct{}) {
	var last uint64
	for range done {
		log, err := n.VolumeLog(ctx, "v")
		info, ierr := n.Volumes(ctx)
		if ierr != nil {
			t.Error(ierr)
		}
		number := info[len(info)-1].Number
		if err == nil { // else what it has seen of the heads counts
			number = log[0].Number
		}
		if number < last {
			t.Errorf("a reader went back from head %d to head %d", last, number)
		}
		last = number
	}
}

// settled merges what is to be merged, and checks that nothing acknowledged is
// lost.
func (c *crowd) settled(t *testing.T) {
	t.Helper()
	c.calm(t.Context())
	n := c.writers[0]
	if err := n.Mkdir(t.Context(), "v:end", true); err != nil {
		t.Fatal(err)
	}
	w, err := n.look(t.Context(), must(n.vol("v")))
	if err != nil || len(w.heads) != 1 {
		t.Fatalf("got %d tips, %v", len(w.heads), err)
	}
	final := w.heads[0]
	past, err := w.allPast(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	kept := make(map[volume.HeadHash]bool)
	for _, p := range past {
		kept[p.Hash] = true
	}
	before := map[volume.HeadHash]bool{final.Hash(): true}
	for queue := []*volume.Head{final}; len(queue) > 0; queue = queue[1:] {
		for _, p := range queue[0].Parents {
			if h := c.heads[p]; h == nil {
				t.Errorf("head %d follows one that was never given to anybody", queue[0].Number)
			} else if !before[p] {
				before[p] = true
				queue = append(queue, h)
			}
		}
	}
	for _, h := range c.acked {
		if !final.Follows(h) || !before[h.Hash()] || !kept[h.Hash()] {
			t.Errorf("head %d was acknowledged: the last head (%d) follows it %v, it is before that %v, in the history %v",
				h.Number, final.Number, final.Follows(h), before[h.Hash()], kept[h.Hash()])
		}
	}
	for _, n := range append(c.readers, c.writers...) {
		got, err := content(t.Context(), n, "v:")
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range c.files {
			if want := sum([]byte(text)); text != "" && got[name] != want || text == "" && got[name] != "" {
				t.Errorf("%s: got %.8q, want %.8q of %q", name, got[name], want, text[:min(len(text), 8)])
			}
			delete(got, name)
		}
		delete(got, "end")
		for name := range got {
			if !c.maybe[name] {
				t.Errorf("%s: nobody has put it there, or it was taken away", name)
			}
		}
	}
}

// A volume of three writers and two readers, whose 12 holders go down, 5 at a time
// at most, come up, and are replaced by others, of which there are 4.
func TestNothingAcknowledgedIsLostWhileHoldersComeAndGo(t *testing.T) {
	runs, times := 1, 9
	if !testing.Short() {
		runs, times = 15, 30
	}
	for run := range runs {
		t.Run(fmt.Sprint(run), func(t *testing.T) {
			c := newCrowd(t, uint64(560+run), 12, 4, 3, 2)
			steps := make(chan struct{}, len(c.writers)*times)
			ticks := make([]chan struct{}, len(c.readers))
			var writing, others sync.WaitGroup
			for i, n := range c.readers {
				ticks[i] = make(chan struct{}, 1)
				others.Go(func() { c.read(t.Context(), t, n, ticks[i]) })
			}
			for i := range c.writers {
				r := rand.New(rand.NewPCG(uint64(run), uint64(i)))
				writing.Go(func() {
					c.write(t.Context(), i, times, r, func() {
						steps <- struct{}{}
						for _, tick := range ticks {
							select {
							case tick <- struct{}{}:
							default: // it is looking
							}
						}
					})
				})
			}
			others.Go(func() {
				round := uint64(0)
				for range steps {
					c.step(t.Context(), 5, round)
					round++
				}
			})
			writing.Wait()
			close(steps)
			for _, tick := range ticks {
				close(tick)
			}
			others.Wait()
			t.Logf("%d changes acknowledged, %d failed, %d heads, %d holders replaced", len(c.acked), len(c.errs), len(c.heads), len(c.gone))
			for _, err := range c.errs {
				t.Logf("failed: %.150v", err)
			}
			c.settled(t)
			c.calmly(t)
		})
	}
}

// calmly checks that what one home has written others read, if nothing is wrong.
func (c *crowd) calmly(t *testing.T) {
	t.Helper()
	var last uint64
	for i := range 2 * len(c.writers) {
		res := into(t, c.writers[i%len(c.writers)], "v:calm", "f", fmt.Sprint(i))
		if res.Head != last+1 && i > 0 {
			t.Errorf("head %d after head %d", res.Head, last)
		}
		last = res.Head
		for _, n := range append(c.readers, c.writers...) {
			if got := text(t, n, "v:calm/f"); got != fmt.Sprint(i) {
				t.Errorf("got %q, want %d", got, i)
			}
		}
	}
}
