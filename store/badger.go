package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

const (
	// valueLogSize is at which length a new value log file is begun, in
	// bytes: docs/format.md says why.
	valueLogSize = 256 << 20
	// diskReserve is how many bytes of the file system are never used. Badger
	// writes through a memory map, where a full disk kills the process; and
	// giving space back needs up to one value log file first.
	diskReserve = valueLogSize
	// valueThreshold is from which length on values lie in the value log, not
	// in the index.
	valueThreshold = 1 << 10
	// groupLen is how many bytes of blocks are written in one transaction,
	// more or less.
	groupLen = 4 << 20

	versionFile = "VERSION"
	versionText = "p2pfs store "
	version     = 1
)

func (s *Store) blocksDir() string  { return filepath.Join(s.dir, "blocks") }
func (s *Store) recordsDir() string { return filepath.Join(s.dir, "records") }

// logSize is at which length a new value log file is begun, in bytes. It is made
// twice as long.
func (s *Store) logSize() int64 {
	if s.opt.size != 0 {
		return s.opt.size
	}
	return valueLogSize
}

// smallOptions are what both databases share: little memory, no caches (the
// system's page cache does that), no background statistics.
func (s *Store) smallOptions(dir string) badger.Options {
	o := badger.DefaultOptions(dir).
		WithLogger(logger{s}).
		WithCompression(options.None).
		WithBlockCacheSize(0).WithIndexCacheSize(0).
		WithNumMemtables(2).WithNumLevelZeroTables(2).WithNumLevelZeroTablesStall(4).
		WithNumCompactors(2).
		WithBaseTableSize(2 << 20).WithBaseLevelSize(10 << 20).
		WithMetricsEnabled(false).WithDetectConflicts(false)
	if s.opt.InMemory {
		o = o.WithInMemory(true).WithDir("").WithValueDir("")
	}
	return o
}

// openBlocks opens the database of all that must not be lost.
func (s *Store) openBlocks() (*badger.DB, error) {
	o := s.smallOptions(s.blocksDir()).
		WithSyncWrites(!s.opt.noSync).
		WithMemTableSize(8 << 20).
		WithValueThreshold(valueThreshold).
		WithValueLogFileSize(s.logSize()).
		WithVerifyValueChecksum(true). // else a damaged header can panic or hang
		WithChecksumVerificationMode(options.OnBlockRead).
		WithCompactL0OnClose(true) // makes deletes count: see Reclaim
	if s.opt.InMemory {
		// A group of blocks must fit 15 % of a memtable, a value the threshold.
		o = o.WithMemTableSize(48 << 20).WithValueThreshold(1 << 20)
	}
	if m := s.opt.Memory; m != nil {
		return m.open(&m.blocks, o)
	}
	return openBadger(o)
}

// openRecords opens the database of what may be lost in a crash.
func (s *Store) openRecords() (*badger.DB, error) {
	o := s.smallOptions(s.recordsDir()).
		WithSyncWrites(false).
		WithMemTableSize(4 << 20).
		WithValueThreshold(256 << 10).
		WithValueLogFileSize(1 << 20)
	if m := s.opt.Memory; m != nil {
		return m.open(&m.records, o)
	}
	return openBadger(o)
}

// emptyLogs is how many logs may be without a byte when a database is opened: a
// process is killed once, while it makes a memtable's log and one for values.
const emptyLogs = 4

func openBadger(o badger.Options) (*badger.DB, error) {
	db, err := badger.Open(o)
	// Where a process was killed after it had made a log's file and before that
	// had a length, Badger makes a whole log of it, and then takes it for an error
	// that it was new; the next time it finds a log. (v4.9.6: z.NewFile, in
	// openMemTables and valueLog.open. Only its text comes through.)
	for try := 0; try < emptyLogs && err != nil && strings.Contains(err.Error(), "Create a new file"); try++ {
		db, err = badger.Open(o)
	}
	switch {
	case err == nil:
		return db, nil
	case strings.Contains(err.Error(), "Another process is using this Badger database"):
		return nil, ErrLocked
	case strings.Contains(err.Error(), "manifest has unsupported version"):
		return nil, fmt.Errorf("%w: %w", ErrVersion, err)
	}
	return nil, err
}

// checkVersion refuses a store of a newer version, and writes the version
// into a new one.
func checkVersion(path string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return writeFile(path, fmt.Appendf(nil, "%s%d\n", versionText, version))
	}
	if err != nil {
		return err
	}
	text, ok := strings.CutPrefix(strings.TrimSuffix(string(b), "\n"), versionText)
	v, err := strconv.Atoi(text)
	switch {
	case !ok || err != nil || v < 1:
		return fmt.Errorf("%s: %w: not the version of a store: %.40q", versionFile, ErrCorrupt, b)
	case v > version:
		return fmt.Errorf("store of version %d: %w", v, ErrVersion)
	}
	return nil
}

// writeFile makes a file whole or not at all, synced.
func writeFile(path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}

// view runs fn in a transaction that reads.
func (s *Store) view(fn func(*badger.Txn) error) error {
	s.door.RLock()
	defer s.door.RUnlock()
	if s.db == nil {
		return ErrClosed
	}
	return s.db.View(fn)
}

// update runs fn in a transaction that writes. All of it is durable when
// update returns nil. Badger copies nothing: keys and values must stay as they
// are until then.
func (s *Store) update(fn func(*badger.Txn) error) error {
	s.door.RLock()
	defer s.door.RUnlock()
	if s.db == nil {
		return ErrClosed
	}
	if s.syncFailed.Load() {
		return errSync
	}
	err := s.db.Update(fn)
	if err == nil && s.syncFailed.Load() {
		return errSync
	}
	return full(err)
}

var errSync = errors.New("the disk failed to sync: open the store again to know what it holds")

// full makes an error of a full disk wrap ErrFull.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || err != nil && strings.Contains(err.Error(), "no space left on device") {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// get gives a copy of the value of key, or ErrNotFound.
func get(txn *badger.Txn, key []byte) ([]byte, error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	b, err := item.ValueCopy(nil)
	if err != nil {
		return nil, err
	}
	if len(b) == 0 { // no value here is empty: Badger logs what is wrong and does not return it
		return nil, fmt.Errorf("unreadable value: %w", ErrCorrupt)
	}
	return b, nil
}

// logger gives what Badger has to say to slog. Badger only logs when the sync
// of a value log fails, and goes on as if it had not: logger notes it.
type logger struct{ s *Store }

func (l logger) Errorf(format string, args ...any) {
	if strings.Contains(format, "curlf sync") {
		l.s.syncFailed.Store(true)
	}
	l.print(slog.LevelError, format, args)
}
func (l logger) Warningf(format string, args ...any) { l.print(slog.LevelWarn, format, args) }
func (l logger) Infof(format string, args ...any)    { l.print(slog.LevelDebug-1, format, args) }
func (l logger) Debugf(string, ...any)               {}

func (l logger) print(level slog.Level, format string, args []any) {
	if l.s.log.Enabled(context.Background(), level) {
		l.s.log.Log(context.Background(), level, "badger", "says", string(bytes.TrimSpace(fmt.Appendf(nil, format, args...))))
	}
}
