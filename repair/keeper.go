package repair

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/wire"
)

// Defaults of what a Config leaves open.
const (
	// DefaultProbe is how often a co-holder is asked whether it is there: so
	// that one that has gone is suspected within a minute.
	DefaultProbe = 20 * time.Second

	// DefaultGrace is how long a peer may be away before its shards count as
	// lost: a reboot, an update, a night in which a laptop sleeps are no
	// losses. docs/repair.md has what other values cost.
	DefaultGrace = time.Hour

	// DefaultAudit is how long it takes on average until a shard is audited by
	// somebody.
	DefaultAudit = 4 * 24 * time.Hour

	// scrubRate is how fast a node reads its own shards over to find those
	// that rot, in bytes a second: 1 TiB in 12 days.
	scrubRate = 1 << 20
)

// Config says how a keeper works. What has no default is needed.
type Config struct {
	Self    string // this peer's ID
	Network pack.Network
	Zone    string // where this peer stands, in its operator's words

	Net   Network
	Dir   Directory
	Shelf Shelf
	Clock Clock
	Rand  *rand.Rand   // the keeper's own
	Log   *slog.Logger // events, a line each

	Probe, Grace, AuditEvery time.Duration // 0: the defaults
	Rate                     int64         // bytes a second that repairs may move; 0: no bound

	// Parallel is how many peers are asked side by side; 0: 32. With 1 all
	// goes one after the other, in an order that follows from Rand alone.
	Parallel int

	// Threshold stands in for the function of that name, for the curves of
	// docs/repair.md; nil: Threshold.
	Threshold func(k, m int) int

	// Name writes a peer's ID for people; nil: in hex.
	Name func(peer string) string

	// Off switches parts off, for tests that show what they are for.
	Off struct{ Repair, Audit bool }
}

// Stats counts what a keeper has done since it was made.
type Stats struct {
	Probes, Audits, AuditsFailed          atomic.Int64
	Repairs                               atomic.Int64 // running now
	Repaired, RepairsFailed               atomic.Int64 // packs
	Rebuilt, Dropped, HandedOver          atomic.Int64 // shards
	RepairBytesRead, RepairBytesSent      atomic.Int64
	AuditBytesRead, ScrubBytesRead, Moved atomic.Int64
}

// Keeper watches over the packs of which its peer holds shards. Its methods
// may be called by several goroutines.
type Keeper struct {
	Config
	Stats Stats

	each  func(ctx context.Context, n int, fn func(i int)) // runs fn for 0 … n-1, Parallel at a time
	began time.Time
	stale bool          // the peer was away for longer than staleAfter
	dirty chan struct{} // something has changed that a review should look at

	mu      sync.Mutex
	peers   map[string]*watched
	due     map[pack.ID]*due
	twins   map[pack.ID]time.Time // packs of which this peer holds a shard that another one has too, since when
	unseen  []unseen              // holders of which no sample was ever taken
	doubles map[pack.ID]time.Time // packs of which two others hold the same shard, since when
	rotten  []pack.ID             // packs of which the own shard is damaged
	newer   map[pack.ID]string    // packs that a peer says are coded anew
	busy    map[pack.ID]bool      // being repaired

	unfinished map[pack.ID]bool // of which some missing shards have been placed, or none could be
	summary    Summary
	scrub      pack.ID // scrubbed next
	audited    pack.ID // audited next; zero: from a random one on
	leaving    bool
	budget     budget
}

// watched is what is known of a co-holder.
type watched struct {
	packs  int        // shared, by the last review
	facts  wire.Facts // it said last
	asked  time.Time  // when it was last probed
	heard  time.Time  // when it last answered; zero: never since the start
	away   time.Time  // since when it has not; zero: it has
	mute   time.Time  // since when it answers probes and gives out no blocks; zero: it does
	silent int        // reads that it left unanswered, one after the other
	gone   bool       // away, or mute, beyond the grace; said in the log
	sync   bool       // is to be asked for all shared packs
	ask    map[pack.ID]struct{}
	reread pack.ID // the pack that a read was left unanswered of
}

// due is a pack that wants repair.
type due struct {
	since   time.Time
	urgent  time.Time // since when it is urgent, if it is
	next    time.Time // not before; after a failure
	tries   int
	verdict Verdict
	rank    int  // how many present holders are closer to it
	noPlace bool // nobody was found to take a shard
}

// unseen is a holder of a pack of which no sample was taken.
type unseen struct {
	id   pack.ID
	peer string
}

// Bounds on what peers can make a keeper remember.
const (
	maxWatched = 8192 // peers
	maxAsk     = 8192 // packs to ask one peer about
	maxQueue   = 4096 // packs due, twins, newer: more are found by the next review
)

// New makes a keeper. It does nothing by itself.
func New(c Config) *Keeper {
	if c.Probe == 0 {
		c.Probe = DefaultProbe
	}
	if c.Grace == 0 {
		c.Grace = DefaultGrace
	}
	if c.AuditEvery == 0 {
		c.AuditEvery = DefaultAudit
	}
	if c.Parallel == 0 {
		c.Parallel = 32
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{
		Config: c, began: c.Clock.Now(), dirty: make(chan struct{}, 1),
		peers: make(map[string]*watched), due: make(map[pack.ID]*due),
		twins: make(map[pack.ID]time.Time), doubles: make(map[pack.ID]time.Time), newer: make(map[pack.ID]string), busy: make(map[pack.ID]bool), unfinished: make(map[pack.ID]bool),
	}
	k.budget = budget{clock: c.Clock, rate: c.Rate}
	k.each = k.sideBySide
	k.load()
	k.touch()
	return k
}

// sideBySide runs fn for every i below n, Parallel of them at a time.
func (k *Keeper) sideBySide(ctx context.Context, n int, fn func(i int)) {
	if k.Parallel == 1 || n == 1 {
		for i := range n {
			if ctx.Err() != nil {
				return
			}
			fn(i)
		}
		return
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, k.Parallel)
	for i := range n {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			wg.Wait()
			return
		}
		wg.Go(func() {
			defer func() { <-slots }()
			fn(i)
		})
	}
	wg.Wait()
}

// name is a peer for the log.
func (k *Keeper) name(p string) string {
	if k.Name == nil {
		return encodePeer(p)
	}
	return k.Name(p)
}

// random gives a number below n.
func (k *Keeper) random(n int) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.Rand.IntN(n)
}

// touch has the packs reviewed soon.
func (k *Keeper) touch() {
	select {
	case k.dirty <- struct{}{}:
	default:
	}
}

// ms is a time as lists of holders have it.
func ms(t time.Time) int64 { return t.UnixMilli() }

// saved is what outlives a restart: since when peers have been away.
type saved struct {
	At   int64            `json:"at"`   // when it was saved, in Unix milliseconds
	Away map[string]int64 `json:"away"` // by the peer's ID, in Unix milliseconds
}

const watchNote = "watch"

// staleAfter is how long a node may have been away before what it holds may
// have been deleted with nobody left to tell: half of what tombstones are kept.
const staleAfter = 90 * 24 * time.Hour

// load reads what Save wrote. A peer that was away then is away since then,
// unless it answers; of the others nothing is known before they are asked.
func (k *Keeper) load() {
	b, err := k.Shelf.Get(watchNote)
	if err != nil {
		return
	}
	var s saved
	if err := json.Unmarshal(b, &s); err != nil {
		k.Log.Warn("what was known of peers is damaged, starting anew", "err", err)
		return
	}
	if s.At != 0 && k.began.Sub(time.UnixMilli(s.At)) > staleAfter {
		k.stale = true
		k.Log.Warn("this node was away for long: it repairs only what others hold too", "since", time.UnixMilli(s.At))
	}
	for text, since := range s.Away {
		p, err := decodePeer(text)
		if err == nil && len(k.peers) < maxWatched {
			k.peers[p] = &watched{away: time.UnixMilli(since)}
		}
	}
}

// Save writes down since when peers have been away.
func (k *Keeper) Save() {
	s := saved{At: ms(k.Clock.Now()), Away: make(map[string]int64)}
	k.mu.Lock()
	for p, w := range k.peers {
		if !w.away.IsZero() && w.packs > 0 {
			s.Away[encodePeer(p)] = ms(w.away)
		}
	}
	k.mu.Unlock()
	b, err := json.Marshal(s)
	if err == nil {
		err = k.Shelf.Set(watchNote, b)
	}
	if err != nil && !errors.Is(err, store.ErrClosed) {
		k.Log.Warn("what is known of peers was not written down", "err", err)
	}
}

// peer gives what is known of a peer, beginning to watch it. mu is held. It
// gives nil where there are too many.
func (k *Keeper) peer(p string) *watched {
	w := k.peers[p]
	if w == nil && p != k.Self && len(k.peers) < maxWatched {
		w = new(watched)
		k.peers[p] = w
	}
	return w
}

// diagnose is Diagnose by the keeper's threshold.
func (k *Keeper) diagnose(data, parity int, seen []Sight) Verdict {
	if k.Threshold == nil {
		return Diagnose(data, parity, seen)
	}
	return diagnose(data, parity, k.Threshold(data, parity), seen)
}

// Presence says how present a peer is, as far as this one knows.
func (k *Keeper) Presence(peer string) Presence {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.presence(peer, k.Clock.Now())
}

// presence says how present a peer is. mu is held.
func (k *Keeper) presence(p string, now time.Time) Presence {
	if p == k.Self {
		return Present
	}
	w := k.peers[p]
	if w == nil {
		return Present // just heard of, and asked next
	}
	since := w.away
	if since.IsZero() {
		since = w.mute
	}
	switch {
	case since.IsZero():
		return Present
	case now.Sub(since) < k.Grace:
		return Absent
	}
	return Gone
}

// Peers counts the co-holders that are there, those that have not been heard
// of for less than the grace, and those that are gone.
func (k *Keeper) Peers() (present, absent, gone int) {
	now := k.Clock.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	for p, w := range k.peers {
		if w.packs == 0 {
			continue
		}
		switch k.presence(p, now) {
		case Present:
			present++
		case Absent:
			absent++
		default:
			gone++
		}
	}
	return present, absent, gone
}

// budget bounds the bytes that repairs move.
type budget struct {
	clock Clock
	rate  int64 // bytes a second; 0: no bound

	mu   sync.Mutex
	free time.Time // when the next byte may go
}

// wait waits until n bytes more may be moved.
func (b *budget) wait(ctx context.Context, n int) error {
	if b.rate <= 0 {
		return ctx.Err()
	}
	now := b.clock.Now()
	b.mu.Lock()
	if b.free.Before(now) {
		b.free = now
	}
	wait := b.free.Sub(now)
	b.free = b.free.Add(time.Duration(float64(n) / float64(b.rate) * float64(time.Second)))
	b.mu.Unlock()
	return sleep(ctx, b.clock, wait)
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, c Clock, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	ch, stop := c.After(d)
	defer stop()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
