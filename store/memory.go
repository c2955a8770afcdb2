package store

import (
	"errors"
	"math"

	"github.com/dgraph-io/badger/v4"
)

// Memory stands for the disk of a store in memory: what one store leaves in it
// is there for the next that is opened on it. One at a time may be. The zero
// value is empty.
type Memory struct{ blocks, records *badger.DB }

// open opens one of the two databases. Nothing is compacted in it: Badger's
// workers look for something to compact twenty times a second each, which is
// two fifths of the work where half an hour passes in one minute.
func (m *Memory) open(db **badger.DB, o badger.Options) (_ *badger.DB, err error) {
	if *db == nil {
		*db, err = openBadger(o.WithNumCompactors(0).WithCompactL0OnClose(false).WithNumLevelZeroTablesStall(math.MaxInt))
	}
	return *db, err
}

// Close frees it, when the last store on it has been closed.
func (m *Memory) Close() error {
	var errs []error
	for _, db := range []*badger.DB{m.blocks, m.records} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	*m = Memory{}
	return errors.Join(errs...)
}

// shut closes a database of the store, unless that is to outlive it.
func (s *Store) shut(db *badger.DB) error {
	if s.opt.Memory != nil {
		return nil
	}
	return db.Close()
}
