package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/dgraph-io/badger/v4"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
)

// Datastore gives a place for the records of the DHT, apart from those of other
// prefixes. Writes are durable after Sync; a crash may lose what came later.
// Closing it does nothing: the store is closed as a whole.
func (s *Store) Datastore(prefix string) ds.Batching {
	return &datastore{s, append(append([]byte{keyDatum}, prefix...), 0)}
}

type datastore struct {
	s      *Store
	prefix []byte
}

var _ ds.Batching = (*datastore)(nil)

func (d *datastore) key(k ds.Key) []byte {
	return append(bytes.Clone(d.prefix), k.String()...)
}

// read runs fn on the value of k, which is valid in fn only.
func (d *datastore) read(k ds.Key, fn func(*badger.Item) error) error {
	err := d.s.viewRecords(func(txn *badger.Txn) error {
		item, err := txn.Get(d.key(k))
		if err != nil {
			return err
		}
		return fn(item)
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		return ds.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("record %s: %w", k, err)
	}
	return nil
}

// A value is stored behind a byte that makes it never empty.
func value(item *badger.Item) (b []byte, err error) {
	err = item.Value(func(v []byte) error {
		if len(v) == 0 {
			return fmt.Errorf("unreadable value: %w", ErrCorrupt)
		}
		b = bytes.Clone(v[1:])
		return nil
	})
	return b, err
}

func (d *datastore) Get(_ context.Context, k ds.Key) (b []byte, err error) {
	err = d.read(k, func(item *badger.Item) error {
		b, err = value(item)
		return err
	})
	return b, err
}

func (d *datastore) Has(_ context.Context, k ds.Key) (bool, error) {
	err := d.read(k, func(*badger.Item) error { return nil })
	if errors.Is(err, ds.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (d *datastore) GetSize(_ context.Context, k ds.Key) (n int, err error) {
	err = d.read(k, func(item *badger.Item) error {
		b, err := value(item)
		n = len(b)
		return err
	})
	if err != nil {
		return -1, err
	}
	return n, nil
}

func (d *datastore) Put(_ context.Context, k ds.Key, b []byte) error {
	return d.s.updateRecords(func(txn *badger.Txn) error {
		return txn.Set(d.key(k), append([]byte{1}, b...))
	})
}

func (d *datastore) Delete(_ context.Context, k ds.Key) error {
	return d.s.updateRecords(func(txn *badger.Txn) error { return txn.Delete(d.key(k)) })
}

func (d *datastore) Sync(context.Context, ds.Key) error {
	d.s.door.RLock()
	defer d.s.door.RUnlock()
	if d.s.db == nil {
		return ErrClosed
	}
	return d.s.records.Sync()
}

func (d *datastore) Close() error { return nil }

// Query reads a page at a time: no transaction stays open while the caller
// works.
func (d *datastore) Query(ctx context.Context, q query.Query) (query.Results, error) {
	prefix := bytes.Clone(d.prefix)
	if p := path.Clean("/" + q.Prefix); p != "/" {
		prefix = append(prefix, p+"/"...)
	}
	from := prefix
	var entries []query.Result
	more := true
	next := func() (query.Result, bool) {
		if err := ctx.Err(); err != nil {
			return query.Result{Error: err}, false
		}
		if len(entries) == 0 && more {
			var err error
			entries, from, err = d.page(q, prefix, from)
			if err != nil {
				more = false
				return query.Result{Error: err}, true
			}
			more = len(entries) == page
		}
		if len(entries) == 0 {
			return query.Result{}, false
		}
		e := entries[0]
		entries = entries[1:]
		return e, true
	}
	rest := q
	rest.Prefix = "" // done here
	return query.NaiveQueryApply(rest, query.ResultsFromIterator(q, query.Iterator{Next: next})), nil
}

func (d *datastore) page(q query.Query, prefix, from []byte) (rs []query.Result, next []byte, err error) {
	next = from
	err = d.s.viewRecords(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
		defer it.Close()
		for it.Seek(from); it.Valid() && len(rs) < page; it.Next() {
			item := it.Item()
			key := item.KeyCopy(nil)
			e := query.Entry{Key: string(key[len(d.prefix):])}
			if !q.KeysOnly || q.ReturnsSizes || len(q.Filters) > 0 || len(q.Orders) > 0 {
				b, err := value(item)
				if err != nil {
					return err
				}
				e.Size = len(b)
				if !q.KeysOnly {
					e.Value = b
				}
			}
			rs = append(rs, query.Result{Entry: e})
			next = append(key, 0)
		}
		return nil
	})
	return rs, next, err
}

func (d *datastore) Batch(context.Context) (ds.Batch, error) {
	return &batch{d: d, ops: map[string][]byte{}}, nil
}

// batch gathers writes; nil deletes.
type batch struct {
	d   *datastore
	ops map[string][]byte
}

func (b *batch) Put(_ context.Context, k ds.Key, v []byte) error {
	b.ops[string(b.d.key(k))] = append([]byte{1}, v...)
	return nil
}

func (b *batch) Delete(_ context.Context, k ds.Key) error {
	b.ops[string(b.d.key(k))] = nil
	return nil
}

func (b *batch) Commit(context.Context) error {
	err := b.d.s.batchRecords(func(wb *badger.WriteBatch) error {
		for key, val := range b.ops {
			var err error
			if val == nil {
				err = wb.Delete([]byte(key))
			} else {
				err = wb.Set([]byte(key), slices.Clip(val))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		clear(b.ops)
	}
	return err
}
