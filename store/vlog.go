package store

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// Badger reads a value log file from end to end in two cases, and in both
// takes the first damaged byte for the end: the last file when it opens, which
// it then cuts off there, and a file whose garbage it collects, which it then
// deletes. All good blocks behind a damaged one would be gone. So the store
// never lets Badger do either to a file that it has not read itself: this file
// knows Badger's value log (memtable.go, structs.go of v4) just well enough.
//
//	header, 20 bytes: key ID 8 (0: not encrypted), random 12
//	entries: meta 1 (0), user meta 1 (0), uvarints len(key), len(value),
//	  expiry (0), key, value, CRC-32C 4 of all before
//	key: the store's key, 8 bytes of 2^64-1 - version, big-endian

const (
	logHeaderLen = 20
	logVersion   = 8       // bytes behind a key
	maxLogKey    = 1 << 10 // longer than any key of the store
	maxLogValue  = 1 << 20 // longer than any value of the store
	// maxResync is how far behind a damaged entry the next good one is looked
	// for, in bytes.
	maxResync = 8 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// logEntry is where a value lies in a file.
type logEntry struct {
	key     []byte // of the store
	version uint64
	off     int64
}

// logScan is what reading a value log file shows.
type logScan struct {
	end    int64      // behind the last good entry
	good   int        // good entries
	damage int64      // where the first damage is, if good entries follow it; else 0
	behind []logEntry // the good entries behind the first damage
}

// scanLog reads a value log file from end to end.
func scanLog(path string) (sc logScan, err error) {
	f, err := os.Open(path)
	if err != nil {
		return logScan{}, err
	}
	defer f.Close()
	buf := make([]byte, 512<<10)
	var damage int64
	sc.end = logHeaderLen
	for off := sc.end; ; {
		e, n, err := entryAt(f, off, &buf)
		if err != nil && !errors.Is(err, errEntry) {
			return logScan{}, err
		}
		if err != nil {
			if damage == 0 {
				damage = off
			}
			if off, err = resync(f, off+1, &buf); err != nil {
				return logScan{}, err
			}
			if off == 0 {
				return sc, nil
			}
			continue
		}
		if damage != 0 {
			sc.damage = damage
			sc.behind = append(sc.behind, e)
		}
		sc.good++
		off += n
		sc.end = off
	}
}

// errEntry says that there is no good entry.
var errEntry = errors.New("no entry")

// entryAt reads the entry at off, of n bytes. Its key is a copy.
func entryAt(r io.ReaderAt, off int64, buf *[]byte) (e logEntry, n int64, err error) {
	const head = 2 + 3*binary.MaxVarintLen64
	b := (*buf)[:head]
	got, err := r.ReadAt(b, off)
	if err != nil && err != io.EOF {
		return logEntry{}, 0, err
	}
	h, keyLen, valLen, ok := parseHead(b[:got])
	if !ok {
		return logEntry{}, 0, errEntry
	}
	size := h + keyLen + valLen + crc32.Size
	if size > len(*buf) {
		*buf = make([]byte, size)
	}
	b = (*buf)[:size]
	if _, err := r.ReadAt(b, off); err == io.EOF {
		return logEntry{}, 0, errEntry
	} else if err != nil {
		return logEntry{}, 0, err
	}
	body := b[:size-crc32.Size]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(b[len(body):]) {
		return logEntry{}, 0, errEntry
	}
	key := b[h : h+keyLen]
	at := keyLen - logVersion
	return logEntry{slices.Clone(key[:at]), math.MaxUint64 - binary.BigEndian.Uint64(key[at:]), off}, int64(size), nil
}

// parseHead reads what comes before the key.
func parseHead(b []byte) (n, keyLen, valLen int, ok bool) {
	if len(b) < 5 || b[0] != 0 || b[1] != 0 {
		return 0, 0, 0, false
	}
	n = 2
	var v [3]uint64
	for i := range v {
		x, k := binary.Uvarint(b[n:])
		if k <= 0 {
			return 0, 0, 0, false
		}
		v[i] = x
		n += k
	}
	if v[0] <= logVersion || v[0] > maxLogKey || v[1] == 0 || v[1] > maxLogValue || v[2] != 0 {
		return 0, 0, 0, false
	}
	return n, int(v[0]), int(v[1]), true
}

// resync gives the offset of the next good entry from off on, or 0.
func resync(r io.ReaderAt, off int64, buf *[]byte) (int64, error) {
	const step, overlap = 1 << 20, 32
	window := make([]byte, step+overlap)
	for start := off; start < off+maxResync; start += step {
		n, err := r.ReadAt(window, start)
		if err != nil && err != io.EOF {
			return 0, err
		}
		for i := range min(n, step) {
			if window[i] != 0 {
				continue
			}
			if _, _, _, ok := parseHead(window[i:n]); !ok {
				continue
			}
			if _, _, err := entryAt(r, start+int64(i), buf); err == nil {
				return start + int64(i), nil
			} else if !errors.Is(err, errEntry) {
				return 0, err
			}
		}
		if n < len(window) {
			break
		}
	}
	return 0, nil
}

// logFiles lists the value log files in ascending order.
func logFiles(dir string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.vlog"))
	slices.Sort(names)
	return names, err
}

// prepareLog readies the value log of a database that is closed, cleanly or
// not. After a crash the last file still has the length it was made with: its
// end is cut off when space is reclaimed next, not while somebody waits for
// the store to open.
func prepareLog(dir string) error {
	names, err := logFiles(dir)
	if err != nil {
		return err
	}
	for i := len(names) - 1; i >= 0; i-- {
		fi, err := os.Stat(names[i])
		if err != nil {
			return err
		}
		if fi.Size() > 0 {
			break
		}
		// A power cut leaves such a file, and Badger refuses it.
		if err := os.Remove(names[i]); err != nil {
			return err
		}
	}
	return sealLog(dir)
}

// tails finds the files that a crash has left longer than what is in them, and
// their true lengths.
func (s *Store) tails() (map[string]int64, error) {
	names, err := logFiles(s.blocksDir())
	if err != nil {
		return nil, err
	}
	ends := map[string]int64{}
	for _, name := range names[:max(len(names)-1, 0)] {
		fi, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		if fi.Size() < 2*s.logSize() {
			continue
		}
		sc, err := scanLog(name)
		if err != nil {
			return nil, err
		}
		if sc.end < fi.Size() {
			ends[name] = sc.end
		}
	}
	return ends, nil
}

// sealLog puts an empty file behind the last one that is not: just what
// opening and closing Badger would leave. Badger then has nothing to read when
// it opens.
func sealLog(dir string) error {
	names, err := logFiles(dir)
	if err != nil || len(names) == 0 {
		return err
	}
	last := names[len(names)-1]
	if fi, err := os.Stat(last); err != nil || fi.Size() <= logHeaderLen {
		return err
	}
	fid, err := logID(last)
	if err != nil {
		return err
	}
	header := make([]byte, logHeaderLen)
	if _, err := rand.Read(header[8:]); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, fmt.Sprintf("%06d.vlog", fid+1)), header)
}

// logID is the number of a value log file.
func logID(path string) (uint64, error) {
	return strconv.ParseUint(strings.TrimSuffix(filepath.Base(path), ".vlog"), 10, 32)
}

// garbage estimates how many bytes of the value log are dead, from its length
// alone.
func (s *Store) garbage() (int64, error) {
	if s.opt.InMemory {
		return 0, nil
	}
	names, err := logFiles(s.blocksDir())
	if err != nil {
		return 0, err
	}
	var size int64
	for _, name := range names[:max(len(names)-1, 0)] { // the last has just been made
		fi, err := os.Stat(name)
		if err != nil {
			return 0, err
		}
		size += min(fi.Size(), s.logSize()) // after a crash it is longer than what is in it
	}
	return max(size-s.held, 0), nil
}

// rescue prepares the value log for being collected: of files that Badger may
// choose and that are damaged, it moves what is good behind the damage.
func (s *Store) rescue(checked map[string]bool) error {
	dead, err := discarded(s.blocksDir())
	if err != nil {
		return err
	}
	names, err := logFiles(s.blocksDir())
	if err != nil {
		return err
	}
	for _, name := range names[:max(len(names)-1, 0)] {
		fid, err := logID(name)
		if err != nil {
			return err
		}
		fi, err := os.Stat(name)
		if err != nil {
			return err
		}
		if checked[name] || float64(dead[fid]) < discardRatio*float64(fi.Size()) {
			continue
		}
		checked[name] = true
		sc, err := scanLog(name)
		if err != nil {
			return err
		}
		if sc.good == 0 && fi.Size() > logHeaderLen {
			return fmt.Errorf("value log %s is not understood: %w", filepath.Base(name), ErrCorrupt)
		}
		if sc.damage == 0 {
			continue
		}
		s.log.Error("damaged value log", "file", name, "offset", sc.damage)
		if err := s.moveValues(sc.behind); err != nil {
			return err
		}
	}
	return nil
}

// discarded gives how many bytes of each value log file Badger knows to be
// dead: discard.go of v4. Entries of 16 bytes, the file's number and the
// bytes, up to the number 0.
func discarded(dir string) (map[uint64]uint64, error) {
	b, err := os.ReadFile(filepath.Join(dir, "DISCARD"))
	if err != nil {
		return nil, err
	}
	dead := map[uint64]uint64{}
	for ; len(b) >= 16; b = b[16:] {
		fid := binary.BigEndian.Uint64(b)
		if fid == 0 {
			break
		}
		dead[fid] = binary.BigEndian.Uint64(b[8:])
	}
	return dead, nil
}

// moveValues writes the values that are still alive again, to the end of the
// value log. Nothing else uses the database meanwhile, so that nothing deleted
// comes back.
func (s *Store) moveValues(entries []logEntry) error {
	s.door.Lock()
	defer s.door.Unlock()
	if s.db == nil {
		return ErrClosed
	}
	for _, e := range entries {
		err := s.db.Update(func(txn *badger.Txn) error {
			item, err := txn.Get(e.key)
			if errors.Is(err, badger.ErrKeyNotFound) {
				return nil
			}
			if err != nil || item.Version() != e.version {
				return err
			}
			b, err := item.ValueCopy(nil)
			if err != nil || len(b) == 0 {
				return err
			}
			return txn.Set(e.key, b)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
