package store

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/dgraph-io/badger/v4"
)

const (
	// leastDead is below how many bytes it is not worth giving space back.
	leastDead = 1 << 20
	// deadShare is which share of what is on the disk must be dead: a
	// twentieth.
	deadShare = 20
	// discardRatio is which part of a value log file must be dead for its
	// living rest to be copied.
	discardRatio = 0.3
)

// worthReclaiming tells whether enough was deleted since the last time.
func (s *Store) worthReclaiming() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.opt.InMemory && s.dead >= leastDead && s.dead >= (s.held+s.dead)/deadShare
}

// Reclaim gives the space of what was deleted back to the disk. Reads and
// writes go on, but for a moment at the beginning. It needs up to one value
// log file of free space, and stops before using more than that.
//
// Badger learns which values are dead when it compacts the keys that delete
// them, and few keys as these wait in memory for days. Closing the database
// compacts them, and makes the file that was written to the last one but one,
// so that its dead are collected too.
func (s *Store) Reclaim(ctx context.Context) error {
	if s.opt.InMemory {
		return nil
	}
	s.reclaiming.Lock()
	defer s.reclaiming.Unlock()
	s.mu.Lock()
	dead := s.dead
	s.mu.Unlock()
	err := s.roomToCollect()
	var ends map[string]int64
	if err == nil {
		ends, err = s.tails()
	}
	if err == nil {
		err = s.reopen(ends)
	}
	checked := map[string]bool{}
	for err == nil {
		if err = s.rescue(checked); err == nil {
			err = s.collect()
		}
		if ctx.Err() != nil {
			err = ctx.Err()
		}
	}
	if !errors.Is(err, badger.ErrNoRewrite) {
		return fmt.Errorf("reclaim space of store %s: %w", s.dir, err)
	}
	s.account(0, 0, -dead, 0)
	return nil
}

// reopen closes and opens the database, and meanwhile cuts off value log files
// at their ends. Nothing else uses it.
func (s *Store) reopen(ends map[string]int64) error {
	s.door.Lock()
	defer s.door.Unlock()
	if s.db == nil {
		return ErrClosed
	}
	err := s.db.Close()
	s.db = nil
	for name, end := range ends {
		if err == nil {
			err = os.Truncate(name, end)
		}
	}
	if err == nil {
		err = sealLog(s.blocksDir())
	}
	if err == nil {
		s.db, err = s.openBlocks()
	}
	if err != nil {
		return errors.Join(err, s.records.Close(), ErrClosed)
	}
	return nil
}

// collect collects one value log file, or returns badger.ErrNoRewrite.
func (s *Store) collect() error {
	s.door.RLock()
	defer s.door.RUnlock()
	if s.db == nil {
		return ErrClosed
	}
	if err := s.roomToCollect(); err != nil {
		return err
	}
	return s.db.RunValueLogGC(discardRatio)
}

// roomToCollect refuses to collect where the living rest of a value log file
// has no place.
func (s *Store) roomToCollect() error {
	free, err := s.opt.free()
	if err != nil {
		return err
	}
	if free < valueLogSize/2 {
		return fmt.Errorf("%w: %d bytes free on the file system, too few to free more", ErrFull, free)
	}
	return nil
}
