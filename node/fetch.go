package node

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/volume"
	"github.com/p2pfs/p2pfs/wire"
)

const (
	// hedgeAfter is how long a holder may be silent before the rows it owes
	// are restored from others. On loopback with all cores busy a block takes
	// up to 100 ms; over a slow line a holder that moves at all is not slow.
	hedgeAfter = 500 * time.Millisecond

	// crawlAfter is how long a holder that moves may take for one block before
	// others are asked all the same: 25 KiB/s.
	crawlAfter = 10 * time.Second

	// hedgeTick is how often silence is looked for.
	hedgeTick = 100 * time.Millisecond

	// badBlocks is how many blocks a holder may give wrong before it is asked
	// for no more of a pack: a disk that rots has a few, a liar all.
	badBlocks = 3
)

// source reads ranges of packs from their holders: it is a volume.Source.
type source struct{ e *engine }

// Lists gives the lists of directories that the node remembers.
func (s source) Lists() *volume.Lists { return s.e.lists }

// Open begins to fetch the bytes [off, off+n) of a pack.
func (s source) Open(ctx context.Context, id pack.ID, off, n int) (volume.Range, error) {
	if off < 0 || n < 1 || off+n > pack.MaxLen {
		return nil, fmt.Errorf("pack %s: range %d+%d: %w", id.Short(), off, n, pack.ErrCorrupt)
	}
	ctx, cancel := context.WithCancel(ctx)
	f := &fetch{
		e: s.e, id: id, off: off, n: n, cancel: cancel,
		wake: make(chan struct{}, 1), changed: make(chan struct{}), done: make(chan struct{}),
	}
	go func() {
		defer close(f.done)
		if err := f.run(ctx); err != nil {
			f.fail(err)
		}
	}()
	return f, nil
}

// cell is the state of the block of one shard in one row.
type cell uint8

const (
	idle    cell = iota
	pending      // a task is to bring it
	slow         // so it is, but its holder has gone silent
	arrived      // it is here and verified
)

// fetch brings a range of one pack. One goroutine (run) decides what to ask
// of whom; one a holder asked (read) receives, verifies and puts the blocks in
// their place. Every needed row is done when its needed data blocks are here
// or restored from any k′ blocks of the row.
type fetch struct {
	e      *engine
	id     pack.ID
	off, n int // what was asked for
	cancel context.CancelFunc
	wake   chan struct{} // something happened that run should look at
	done   chan struct{} // run has returned

	first, last int // data blocks needed, inclusive; set before tasks exist

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when blocks arrive or err is set
	err     error
	k       *known // written by run alone
	coded   error  // not nil: the parity was seen to be bad
	buf     []byte // the data blocks first … last; nil until located and after Close
	base    int    // where buf begins in the pack
	have    []bool // of the data blocks first … last
	rows    map[int]*row
	tasks   map[*task]struct{}
	failed  map[holding]bool // do not ask again
	bad     map[badCell]bool // blocks that a holder gave wrong, or could not give
}

// row is the state of one needed row.
type row struct {
	cells []cell
	spare map[int]*[maxBlock]byte // blocks that are not needed themselves
	need  []int                   // shards whose blocks are needed
	done  bool
}

// badCell is a block that a holder has not, or not right.
type badCell struct {
	holding

	row int
}

// holding is a shard on a peer.
type holding struct {
	shard int
	peer  peer.ID
}

// task reads a run of rows of a shard from its holder.
type task struct {
	holding

	k          *known // what it was planned by
	row, count int
	next       int          // row expected next
	since      time.Time    // when the last block came
	moved      atomic.Int64 // when the last byte came, in Unix nanoseconds
	slow       bool
	cancel     context.CancelFunc
}

// rows are those that the task has still to bring.
func (t *task) rows() iter.Seq[int] {
	return func(yield func(int) bool) {
		for r := t.next; r < t.row+t.count; r++ {
			if !yield(r) {
				return
			}
		}
	}
}

// moving notes when bytes come.
type moving struct {
	stream

	clock clock
	t     *task
}

func (m moving) Read(b []byte) (int, error) {
	n, err := m.stream.Read(b)
	if n > 0 {
		m.t.moved.Store(m.clock.Now().UnixNano())
	}
	return n, err
}

// Bytes gives the bytes [off, off+n) of the pack, which must lie within what
// was opened, as soon as they are there. The view is valid until Close.
func (f *fetch) Bytes(ctx context.Context, off, n int) ([]byte, error) {
	if off < f.off || n < 0 || off+n > f.off+f.n {
		return nil, fmt.Errorf("pack %s: bytes %d+%d outside of the opened range", f.id.Short(), off, n)
	}
	for {
		f.mu.Lock()
		switch {
		case f.buf != nil && f.covered(off, n):
			b := f.buf[off-f.base : off-f.base+n : off-f.base+n]
			f.mu.Unlock()
			return b, nil
		case f.err != nil:
			err := f.err
			f.mu.Unlock()
			return nil, err
		}
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// covered says whether the bytes are here. The caller holds mu.
func (f *fetch) covered(off, n int) bool {
	bs := f.k.geometry.BlockSize
	for b := off / bs; b*bs < off+n; b++ {
		if !f.have[b-f.first] {
			return false
		}
	}
	return true
}

// Close ends the fetch and frees its buffers.
func (f *fetch) Close() {
	f.cancel()
	<-f.done
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = errors.New("read of a closed range")
	}
	if f.buf != nil {
		f.e.buffers.put(f.buf)
		f.buf = nil
	}
}

// fail ends the fetch with err for all who wait.
func (f *fetch) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
	f.signal()
}

// signal wakes all who wait in Bytes. The caller holds mu.
func (f *fetch) signal() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// poke makes run look again.
func (f *fetch) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run locates the pack and keeps enough tasks going until every needed block
// is here. All tasks have ended when it returns.
func (f *fetch) run(ctx context.Context) error {
	k, err := f.e.locate(ctx, f.id, effort{})
	if err != nil {
		return err
	}
	if f.off+f.n > k.geometry.Len {
		return fmt.Errorf("pack %s: bytes %d+%d of %d: %w", f.id.Short(), f.off, f.n, k.geometry.Len, pack.ErrCorrupt)
	}
	f.begin(k)

	var wg sync.WaitGroup
	defer func() {
		f.cancel()
		wg.Wait()
		f.mu.Lock()
		for _, r := range f.rows {
			f.freeSpare(r)
		}
		f.mu.Unlock()
	}()
	stage, recoded := 0, 0 // searches made; times that another coding was found
	var search chan *known
	for {
		starts, wanting, finished := f.plan()
		if err := f.restore(); err != nil {
			return err
		}
		if finished || f.finished() {
			return nil
		}
		for _, t := range starts {
			tctx, cancel := context.WithCancel(ctx)
			f.mu.Lock()
			t.cancel = cancel
			f.tasks[t] = struct{}{}
			f.mu.Unlock()
			wg.Go(func() {
				defer cancel()
				f.read(tctx, t)
			})
		}
		if wanting && search == nil {
			// Rows lack holders: look for others than those that failed, and
			// when that was not enough, ask everybody.
			var how effort
			switch {
			case stage == 0:
				how.failed = f.useless()
			case stage == 1 && f.idle():
				how.all = true
			case stage == 2 && f.idle():
				return f.short()
			}
			if how.all || how.failed != nil {
				stage++
				search = make(chan *known, 1)
				wg.Go(func() {
					k, err := f.e.locate(ctx, f.id, how)
					if err != nil {
						k = nil
					}
					search <- k
				})
			}
		}
		tick, stop := f.e.clock.After(hedgeTick)
		select {
		case <-f.wake:
		case <-tick:
			f.markSlow()
		case k := <-search:
			search = nil
			switch {
			case k == nil:
			case k.geometry == f.k.geometry && slices.Equal(k.manifest.State.Parity, f.k.manifest.State.Parity):
				f.mu.Lock()
				f.k = k
				f.mu.Unlock()
			case k.geometry.Len == f.k.geometry.Len && recoded < 2:
				recoded++
				stage = 0
				f.recode(k)
			}
		case <-ctx.Done():
			stop()
			return ctx.Err()
		}
		stop()
	}
}

// useless gives the holders that failed or have gone silent.
func (f *fetch) useless() map[holding]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := maps.Clone(f.failed)
	for c := range f.bad {
		out[c.holding] = true
	}
	for t := range f.tasks {
		if t.slow {
			out[t.holding] = true
		}
	}
	return out
}

// recode goes on with another coding of the pack, in which its holders have
// it now: the data blocks that are here are those of any coding.
func (f *fetch) recode(k *known) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for t := range f.tasks {
		t.cancel()
	}
	for _, r := range f.rows {
		f.freeSpare(r)
	}
	f.k = k
	f.layout()
}

// begin sets up the state for a located pack.
func (f *fetch) begin(k *known) {
	g := k.geometry
	f.mu.Lock()
	defer f.mu.Unlock()
	f.k = k
	f.first, f.last = f.off/g.BlockSize, (f.off+f.n-1)/g.BlockSize
	f.base = f.first * g.BlockSize
	f.buf = f.e.buffers.get(min((f.last+1)*g.BlockSize, g.Len) - f.base)
	f.have = make([]bool, f.last-f.first+1)
	f.layout()
}

// layout sets up the rows by the pack's coding. The caller holds mu.
func (f *fetch) layout() {
	g := f.k.geometry
	f.rows = make(map[int]*row)
	f.tasks = make(map[*task]struct{})
	f.failed = make(map[holding]bool)
	f.bad = make(map[badCell]bool)
	for b := f.first; b <= f.last; b++ {
		shard, r := g.Place(b)
		w := f.rows[r]
		if w == nil {
			w = &row{cells: make([]cell, g.N()), spare: make(map[int]*[maxBlock]byte)}
			f.rows[r] = w
			for s := range g.K {
				if g.Block(s, r) < 0 {
					w.cells[s] = arrived // known zeros
				}
			}
		}
		w.need = append(w.need, shard)
		if f.have[b-f.first] {
			w.cells[shard] = arrived
		}
	}
	for _, w := range f.rows {
		w.done = !slices.ContainsFunc(w.need, func(s int) bool { return w.cells[s] != arrived })
	}
}

// plan decides what to ask of whom. wanting: some row has too few holders
// left to be sure of it.
func (f *fetch) plan() (starts []*task, wanting, finished bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.k.geometry
	assigned := make(map[holding][]int)
	finished = true
	numbers := make([]int, 0, len(f.rows))
	for r := range f.rows {
		numbers = append(numbers, r)
	}
	slices.Sort(numbers)
	for _, r := range numbers {
		w := f.rows[r]
		if w.done {
			continue
		}
		finished = false
		sure := true // every needed block is here or on its way
		for _, s := range w.need {
			if w.cells[s] == idle {
				if h, ok := f.holderOf(s, r, false); ok {
					w.cells[s] = pending
					assigned[h] = append(assigned[h], r)
				} else {
					sure = false
				}
			} else if w.cells[s] == slow {
				sure = false
			}
		}
		if sure {
			continue
		}
		good := 0
		for _, c := range w.cells {
			if c == pending || c == arrived {
				good++
			}
		}
		if f.coded != nil {
			good = 0 // nothing can be restored: only the blocks themselves count
		}
		for _, h := range f.preference(r) {
			if good >= g.K || f.coded != nil {
				break
			}
			if w.cells[h.shard] == idle && g.CellLen(h.shard, r) > 0 {
				w.cells[h.shard] = pending
				assigned[h] = append(assigned[h], r)
				good++
			}
		}
		if good < g.K {
			wanting = true
			// Better a holder that failed others a moment ago than none.
			for _, s := range w.need {
				if w.cells[s] == idle {
					if h, ok := f.holderOf(s, r, true); ok {
						w.cells[s] = pending
						assigned[h] = append(assigned[h], r)
					}
				}
			}
		}
	}
	now := f.e.clock.Now()
	for h, rows := range assigned {
		for len(rows) > 0 { // runs of rows that follow each other
			n := 1
			for n < len(rows) && rows[n] == rows[0]+n {
				n++
			}
			starts = append(starts, &task{holding: h, k: f.k, row: rows[0], count: n, next: rows[0], since: now})
			rows = rows[n:]
		}
	}
	return starts, wanting, finished
}

// holderOf gives a holder of a shard to ask for a row: not one that failed a
// moment ago, unless desperate. The caller holds mu.
func (f *fetch) holderOf(shard, r int, desperate bool) (holding, bool) {
	now := f.e.clock.Now()
	usable := func(h holding) bool { return !f.failed[h] && !f.bad[badCell{h, r}] }
	for _, p := range f.k.holders[shard] {
		if h := (holding{shard, p}); p == f.e.self && usable(h) {
			return h, true
		}
	}
	for _, p := range f.k.holders[shard] {
		if h := (holding{shard, p}); usable(h) && (desperate || !f.e.peers.avoid(p, now)) {
			return h, true
		}
	}
	return holding{}, false
}

// preference gives one holder a shard in the order in which to ask when a row
// must be restored: those that answer first, data before parity (which needs
// no coding), then those that failed a moment ago. The caller holds mu.
func (f *fetch) preference(r int) []holding {
	var well, poor []holding
	for s := range f.k.geometry.N() {
		if h, ok := f.holderOf(s, r, false); ok {
			well = append(well, h)
		} else if h, ok := f.holderOf(s, r, true); ok {
			poor = append(poor, h)
		}
	}
	return append(well, poor...)
}

// finished says whether every row is done.
func (f *fetch) finished() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rows {
		if !r.done {
			return false
		}
	}
	return true
}

// idle says whether no task is running.
func (f *fetch) idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.tasks) == 0
}

// short is the error of a pack that cannot be restored: what the row with the
// fewest blocks within reach says.
func (f *fetch) short() error {
	f.e.packs.forget(f.id) // next time, look anew
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.coded != nil {
		return f.coded
	}
	g := f.k.geometry
	have := g.K
	for r, w := range f.rows {
		here := 0
		for s, c := range w.cells {
			if _, ok := f.holderOf(s, r, true); ok || c == arrived {
				here++
			}
		}
		if !w.done {
			have = min(have, here)
		}
	}
	return fail(Short, fmt.Sprintf("%d more of its %d holders must come back; try again when they are online", max(g.K-have, 1), g.N()),
		"pack %s: %d of %d needed shards reachable", f.id.Short(), have, g.K)
}

// markSlow finds holders that have gone silent.
func (f *fetch) markSlow() {
	now := f.e.clock.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for t := range f.tasks {
		silent := now.Sub(t.since)
		if silent < crawlAfter {
			silent = min(silent, now.Sub(time.Unix(0, t.moved.Load())))
		}
		if t.slow || t.peer == f.e.self || silent < hedgeAfter {
			continue
		}
		t.slow = true
		for r := range t.rows() {
			if w := f.rows[r]; w.cells[t.shard] == pending {
				w.cells[t.shard] = slow
			}
		}
		f.e.log.Info("holder is slow, asking others", "peer", t.peer, "pack", f.id, "shard", t.shard)
	}
}

// read runs a task to its end.
func (f *fetch) read(ctx context.Context, t *task) {
	g := t.k.geometry
	scratch := f.e.buffers.block()
	bad := 0
	take := func(r int, b []byte, err error) {
		if err == nil && digest.Of(b) != t.k.manifest.BlockHash(t.shard, r) {
			err = fmt.Errorf("wrong bytes: %w", pack.ErrCorrupt)
		}
		if err == nil {
			f.arrive(t, r, b)
			return
		}
		bad++
		f.e.log.Warn("holder gave a bad block, asking others", "peer", t.peer, "pack", f.id, "shard", t.shard, "row", r, "err", err)
		f.miss(t, r)
	}
	var err error
	if t.peer == f.e.self {
		for r := range t.rows() {
			if ctx.Err() != nil {
				break
			}
			b, rerr := f.e.store.ReadCoded(f.id, t.k.manifest.State.K, t.k.manifest.State.M, t.shard, r, scratch[:0])
			take(r, b, rerr)
		}
	} else {
		err = f.e.call(ctx, t.peer, f.e.stall, func(s stream) error {
			q := wire.ReadRequest{ID: f.id, K: g.K, M: g.M, Shard: t.shard, Row: t.row, Count: t.count}
			return wire.Read(moving{s, f.e.clock, t}, q,
				func(r int) int { return g.CellLen(t.shard, r) },
				func(r int) []byte { return scratch[:g.CellLen(t.shard, r)] },
				func(r int, b []byte, err error) {
					if bad < badBlocks {
						take(r, b, err)
					} else {
						s.Reset()
					}
				})
		})
	}
	f.e.buffers.putBlock(scratch)

	f.mu.Lock()
	if _, current := f.tasks[t]; current {
		delete(f.tasks, t)
		for r := range t.rows() {
			if w := f.rows[r]; w.cells[t.shard] == pending || w.cells[t.shard] == slow {
				w.cells[t.shard] = idle
			}
		}
		if (t.next < t.row+t.count || bad >= badBlocks) && ctx.Err() == nil {
			f.failed[t.holding] = true
		}
	}
	f.mu.Unlock()
	f.poke()
	if err != nil && ctx.Err() == nil && bad < badBlocks {
		f.e.log.Info("holder failed, asking others", "peer", t.peer, "pack", f.id, "shard", t.shard, "err", err)
	}
}

// miss notes that a holder has a block not, or not right.
func (f *fetch) miss(t *task, r int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, current := f.tasks[t]; !current {
		return
	}
	t.next, t.since = r+1, f.e.clock.Now()
	f.bad[badCell{t.holding, r}] = true
	if w := f.rows[r]; w.cells[t.shard] == pending || w.cells[t.shard] == slow {
		w.cells[t.shard] = idle
	}
	f.poke()
}

// arrive puts a verified block in its place.
func (f *fetch) arrive(t *task, r int, b []byte) {
	now := f.e.clock.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, current := f.tasks[t]; !current {
		return // of a coding given up
	}
	t.next, t.since, t.slow = r+1, now, false
	w := f.rows[r]
	if w.done || w.cells[t.shard] == arrived {
		w.cells[t.shard] = arrived
		return
	}
	w.cells[t.shard] = arrived
	if slices.Contains(w.need, t.shard) {
		f.keep(f.k.geometry.Block(t.shard, r), b)
	} else {
		v := f.e.buffers.block()
		copy(v[:], b)
		w.spare[t.shard] = v
	}
	here, needed := 0, true
	for s, c := range w.cells {
		if c == arrived {
			here++
		} else if slices.Contains(w.need, s) {
			needed = false
		}
	}
	switch {
	case needed:
		f.finishRow(w)
		f.poke()
	case here >= f.k.geometry.K:
		f.poke() // run restores it
	}
}

// keep copies a needed data block to its place. The caller holds mu.
func (f *fetch) keep(block int, b []byte) {
	copy(f.buf[block*f.k.geometry.BlockSize-f.base:], b)
	f.have[block-f.first] = true
	f.signal()
}

// finishRow ends a row: what was still to come for it is not waited for. The
// caller holds mu.
func (f *fetch) finishRow(w *row) {
	w.done = true
	f.freeSpare(w)
	for t := range f.tasks {
		if !t.slow {
			continue
		}
		useful := false
		for r := range t.rows() {
			useful = useful || !f.rows[r].done
		}
		if !useful && t.cancel != nil {
			t.cancel()
		}
	}
}

func (f *fetch) freeSpare(w *row) {
	for s, v := range w.spare {
		f.e.buffers.putBlock(v)
		delete(w.spare, s)
	}
}

// restore computes the missing blocks of every row that has k′ blocks.
func (f *fetch) restore() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.k.geometry
	for r, w := range f.rows {
		if w.done || f.coded != nil {
			continue
		}
		here := 0
		for _, c := range w.cells {
			if c == arrived {
				here++
			}
		}
		if here < g.K {
			continue
		}
		cells := make([][]byte, g.N())
		want := make([]bool, g.N())
		for s, c := range w.cells {
			block := -1
			if s < g.K {
				block = g.Block(s, r)
			}
			needed := slices.Contains(w.need, s)
			switch {
			case c == arrived && needed:
				at := block*g.BlockSize - f.base
				cells[s] = f.buf[at : at+g.BlockLen(block)]
			case c == arrived && w.spare[s] != nil:
				cells[s] = w.spare[s][:g.CellLen(s, r)]
			case needed:
				want[s] = true
				at := block*g.BlockSize - f.base
				cells[s] = f.buf[at : at : at+g.BlockLen(block)]
			}
		}
		if err := erasure.RestoreRow(g, r, cells, want); err != nil {
			return fmt.Errorf("pack %s: row %d: %w", f.id.Short(), r, err)
		}
		for s, wanted := range want {
			if !wanted {
				continue
			}
			if digest.Of(cells[s]) != f.k.manifest.BlockHash(s, r) {
				f.e.log.Error("parity disagrees with the data that it was made of: the pack's state is bad", "pack", f.id, "row", r)
				f.coded = fail(Corrupt, "", "pack %s: row %d restored to wrong bytes: its owner signed bad parity", f.id.Short(), r)
				f.poke() // the data blocks still count
				return nil
			}
			w.cells[s] = arrived
			f.keep(g.Block(s, r), cells[s])
		}
		f.finishRow(w)
	}
	return nil
}
