// Package store keeps what a peer holds for others: blocks, the manifests
// they are checked against, tombstones, who else holds the packs, and heads of
// volumes. It lies in two Badger databases in one folder and is the one door to
// Badger. All that would be missed is synced to the disk before it is
// acknowledged; who holds packs ([Store.UpdateHolders]), hints and the DHT's
// records are not: a crash may lose what was written of them last.
//
// A shard is stored in three steps: [Store.Begin] reserves its space,
// [Writer.Write] takes its blocks one after the other, [Writer.Commit] returns
// when all of it is on the disk, synced. A shard is there whole or not at all:
// what a crash left unfinished is gone when the store is opened again.
//
// A shard that belongs to a put is provisional: it goes away
// Options.ProvisionalTTL after the put's last sign of life ([Store.Touch]),
// unless [Store.SetHolders] says that all of the put is durable.
//
// Of the states of a pack the newer holds, as pack.State.Newer defines it. A
// deletion is a state too, and is kept as a tombstone for 180 days.
//
// [Store.ReadBlock] checks each block against its manifest before it gives it
// out. [Store.Run] drops what has expired and gives space back to the disk;
// reads and writes go on meanwhile.
//
// All methods are safe for concurrent use; a Writer belongs to one goroutine.
// docs/format.md has the layout of the databases.
package store

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/p2pfs/p2pfs/pack"
)

var (
	// ErrFull is wrapped by refusals for want of space: the capacity or the
	// file system is used up.
	ErrFull = errors.New("no space left in the store")
	// ErrOld is wrapped by refusals of a state older than the one known.
	ErrOld = errors.New("a newer state is known")
	// ErrHave says that the store holds that very shard already.
	ErrHave = errors.New("shard is held already")
	// ErrCoding is wrapped by refusals of a state that codes the pack
	// otherwise than the shards held: those need new shards, not a new state.
	ErrCoding = errors.New("the state has another coding than the shard held")
	// ErrDenied is wrapped when who asks may not do what it asks for, or not
	// more of it.
	ErrDenied = errors.New("not allowed")
	// ErrNotFound is wrapped when what is asked for is not in the store.
	ErrNotFound = errors.New("not in the store")
	// ErrCorrupt is wrapped when what is stored is damaged.
	ErrCorrupt = pack.ErrCorrupt
	// ErrVersion is wrapped when the store was made by a newer version.
	ErrVersion = pack.ErrVersion
	// ErrLocked is wrapped when another process has the store open.
	ErrLocked = errors.New("in use by another process")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("store is closed")
)

// Options say how a store works. The zero value is good.
type Options struct {
	Capacity int64            // most bytes to hold; 0: no limit but the disk
	InMemory bool             // nothing on disk, all gone at Close
	Memory   *Memory          // the same, but what is in it outlives Close
	Now      func() time.Time // the clock; nil: time.Now
	Log      *slog.Logger     // nil: no log
	Seal     [32]byte         // the key that names and links in the catalog are sealed with

	ProvisionalTTL time.Duration // how long a silent put's shards are kept; 0: 24 hours
	SweepEvery     time.Duration // how often Run sweeps; 0: 2 minutes
	ReclaimEvery   time.Duration // how often Run looks for space to give back; 0: a minute

	// Dropped, if not nil, is called when the last shard of a pack has gone.
	// The pack is locked meanwhile: it must not call the store.
	Dropped func(id pack.ID)

	noSync  bool                            // writes are not synced: tests only
	free    func() (bytes int64, err error) // free space of the file system: tests only
	size    int64                           // length of a value log file: tests only
	graves  int                             // in place of maxGraves: tests only
	volumes int                             // in place of maxVolumes: tests only
}

// Constants of the store's upkeep.
const (
	tombstoneTTL = 180 * 24 * time.Hour
	defaultTTL   = 24 * time.Hour
	// What has expired is to be given back to the disk within 5 minutes:
	// swept, and then reclaimed.
	defaultSweep   = 2 * time.Minute
	defaultReclaim = time.Minute
)

// Usage is how full a store is.
type Usage struct {
	Held     int64 // bytes held or reserved, overhead included
	Capacity int64 // most bytes to hold; 0: no limit but the disk
	Free     int64 // bytes that may still be stored
	Shards   int   // shards held
}

// Store is an open store.
type Store struct {
	dir     string
	boot    uint64
	opt     Options
	log     *slog.Logger
	cache   *manifests
	roots   atomic.Pointer[cipher.AEAD] // seals the catalog's roots
	records *badger.DB                  // what may be lost: who holds packs, hints, the DHT's records

	packs      [64]sync.Mutex // a pack's record is read and written under one of them
	reclaiming sync.Mutex     // held by who reopens the database or collects its garbage
	owning     sync.Mutex     // held by who writes the catalog
	buffered   atomic.Int64   // bytes of blocks waiting to be written
	syncFailed atomic.Bool    // a sync failed: nothing can be promised any more
	strays     atomic.Bool    // there may be lists of holders of packs that are not held

	door sync.RWMutex // held for reading while db is used, for writing to replace it
	db   *badger.DB   // nil when closed

	digging sync.Mutex
	graves  graves

	heading [64]sync.Mutex // a volume's heads are changed under one of them
	volumes volumes

	mu        sync.Mutex
	held      int64  // bytes held or reserved
	unwritten int64  // the part of held that is reserved and not written yet
	dead      int64  // bytes deleted that the disk has not got back
	shards    int    // shards held
	slot      uint64 // the last slot given to a shard
	puts      map[PutID]*put
}

// put is what is known of a put that has provisional shards.
type put struct {
	alive  int64 // last sign of life, Unix milliseconds
	shards int   // provisional shards
}

// Open opens the store in dir, which is made if it is not there. One process
// at a time may have it open.
func Open(dir string, o Options) (*Store, error) {
	s, err := open(dir, o)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	return s, nil
}

func open(dir string, o Options) (_ *Store, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.ProvisionalTTL = orDefault(o.ProvisionalTTL, defaultTTL)
	o.SweepEvery = orDefault(o.SweepEvery, defaultSweep)
	o.ReclaimEvery = orDefault(o.ReclaimEvery, defaultReclaim)
	if o.free == nil {
		o.free = func() (int64, error) { return freeSpace(dir) }
	}
	o.InMemory = o.InMemory || o.Memory != nil
	if o.InMemory {
		o.free = func() (int64, error) { return math.MaxInt64, nil }
	}
	s := &Store{
		dir:   dir,
		boot:  rand.Uint64(),
		opt:   o,
		log:   o.Log,
		cache: newManifests(manifestCache),
		puts:  map[PutID]*put{},
	}
	aead, err := rootCipher(o.Seal)
	if s.roots.Store(&aead); err != nil {
		return nil, err
	}
	s.strays.Store(true)
	if !o.InMemory {
		if err := os.MkdirAll(s.blocksDir(), 0o700); err != nil {
			return nil, err
		}
		if err := checkVersion(filepath.Join(dir, versionFile)); err != nil {
			return nil, err
		}
	}
	// This one stays open, so its lock keeps others out from now on.
	if s.records, err = s.openRecords(); err != nil {
		return nil, err
	}
	if !o.InMemory {
		err = prepareLog(s.blocksDir())
	}
	if err == nil {
		s.db, err = s.openBlocks()
	}
	if err != nil {
		return nil, errors.Join(err, s.shut(s.records))
	}
	if err := s.recover(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

// Boot is a number made anew each time the store is opened: who sees another one
// knows that it was closed, or crashed, in between.
func (s *Store) Boot() uint64 { return s.boot }

// Close closes the store. Writers that are still open fail.
func (s *Store) Close() error {
	s.reclaiming.Lock()
	defer s.reclaiming.Unlock()
	s.door.Lock()
	defer s.door.Unlock()
	if s.db == nil {
		return nil
	}
	err := errors.Join(s.shut(s.db), s.shut(s.records))
	s.db = nil
	if err == nil && !s.opt.InMemory {
		err = sealLog(s.blocksDir())
	}
	if err != nil {
		return fmt.Errorf("close store %s: %w", s.dir, err)
	}
	return nil
}

// Usage says how full the store is.
func (s *Store) Usage() Usage {
	free, err := s.opt.free()
	if err != nil {
		free = 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u := Usage{Held: s.held, Capacity: s.opt.Capacity, Shards: s.shards}
	u.Free = free - diskReserve - s.unwritten
	if u.Capacity > 0 {
		u.Free = min(u.Free, u.Capacity-u.Held)
	}
	u.Free = max(u.Free, 0)
	return u
}

// reserve takes cost bytes, of which data are to be written as blocks.
func (s *Store) reserve(cost, data int64) error {
	free, err := s.opt.free()
	if err != nil {
		return fmt.Errorf("free space of %s: %w", s.dir, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opt.Capacity > 0 && s.held+cost > s.opt.Capacity {
		return fmt.Errorf("%w: %d of %d bytes held, %d more asked for", ErrFull, s.held, s.opt.Capacity, cost)
	}
	if free-s.unwritten-cost < diskReserve {
		return fmt.Errorf("%w: %d bytes free on the file system, of which %d are kept free", ErrFull, free, diskReserve)
	}
	s.held += cost
	s.unwritten += data
	return nil
}

// account changes the counters.
func (s *Store) account(held, unwritten, dead int64, shards int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held += held
	s.unwritten += unwritten
	s.dead += dead
	s.shards += shards
}

// lock locks the record of a pack and gives the function that unlocks it.
func (s *Store) lock(id pack.ID) (unlock func()) {
	m := &s.packs[s.stripe(id)]
	m.Lock()
	return m.Unlock
}

// stripe says which of the locks a pack has, many packs sharing one.
func (s *Store) stripe(id pack.ID) int { return int(id[0]) % len(s.packs) }

// lockAll locks the records of packs, each lock once and always in the same
// order: who else takes more than one does so here.
func (s *Store) lockAll(ids []pack.ID) (unlock func()) {
	var taken [len(s.packs)]bool
	for _, id := range ids {
		taken[s.stripe(id)] = true
	}
	for i := range taken {
		if taken[i] {
			s.packs[i].Lock()
		}
	}
	return func() {
		for i := range taken {
			if taken[i] {
				s.packs[i].Unlock()
			}
		}
	}
}

// nowMs is the time in Unix milliseconds.
func (s *Store) nowMs() int64 { return s.opt.Now().UnixMilli() }
