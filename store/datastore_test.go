package store

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
)

func TestDatastoreKeepsRecords(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	d := s.Datastore("dht")
	ctx := t.Context()
	k := ds.NewKey("/a/b")
	_, err := d.Get(ctx, k)
	wantErr(t, err, ds.ErrNotFound)
	if n, err := d.GetSize(ctx, k); n != -1 || !errors.Is(err, ds.ErrNotFound) {
		t.Errorf("got size %d, %v", n, err)
	}
	if ok, err := d.Has(ctx, k); ok || err != nil {
		t.Errorf("got %v, %v", ok, err)
	}
	if err := d.Delete(ctx, k); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"value", ""} {
		if err := errors.Join(d.Put(ctx, k, []byte(want)), d.Sync(ctx, k)); err != nil {
			t.Fatal(err)
		}
		if got, err := d.Get(ctx, k); string(got) != want || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		if n, err := d.GetSize(ctx, k); n != len(want) || err != nil {
			t.Errorf("got size %d, %v", n, err)
		}
	}
	if ok, err := s.Datastore("dh").Has(ctx, k); ok || err != nil {
		t.Errorf("a key is seen under another prefix: %v, %v", ok, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	d = openStore(t, dir, Options{}).Datastore("dht")
	if ok, err := d.Has(ctx, k); !ok || err != nil {
		t.Errorf("after opening again: got %v, %v", ok, err)
	}
}

func TestDatastoreQueries(t *testing.T) {
	s := openStore(t, "", Options{InMemory: true})
	d := s.Datastore("dht")
	ctx := t.Context()
	b, err := d.Batch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const n = page + 20
	var all []string
	for i := range n {
		k := ds.NewKey(fmt.Sprintf("/p/%04d", i))
		all = append(all, k.String())
		if err := b.Put(ctx, k, []byte{byte(i), byte(i >> 8)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(b.Put(ctx, ds.NewKey("/pq"), []byte("x")), b.Commit(ctx)); err != nil {
		t.Fatal(err)
	}
	keys := func(q query.Query) []string {
		t.Helper()
		rs, err := d.Query(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		es, err := rs.Rest()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range es {
			got = append(got, e.Key)
			if (len(e.Value) > 0) == q.KeysOnly || q.ReturnsSizes && e.Size == 0 {
				t.Errorf("query %v: got %d bytes of value, size %d", q, len(e.Value), e.Size)
			}
		}
		return got
	}
	back := slices.Clone(all)
	slices.Reverse(back)
	for _, tc := range []struct {
		name string
		q    query.Query
		want []string
	}{
		{"prefix", query.Query{Prefix: "/p"}, all},
		{"keys only", query.Query{Prefix: "p/", KeysOnly: true}, all},
		{"unclean prefix", query.Query{Prefix: "//x/..//p/."}, all},
		{"prefix above the root", query.Query{Prefix: "/../."}, append(slices.Clone(all), "/pq")},
		{"sizes", query.Query{Prefix: "/p", KeysOnly: true, ReturnsSizes: true}, all},
		{"all", query.Query{}, append(slices.Clone(all), "/pq")},
		{"order", query.Query{Prefix: "/p", Orders: []query.Order{query.OrderByKeyDescending{}}}, back},
		{"limit and offset", query.Query{Prefix: "/p", Offset: 5, Limit: 3}, all[5:8]},
		{"filter", query.Query{Filters: []query.Filter{query.FilterKeyCompare{Op: query.Equal, Key: "/pq"}}}, []string{"/pq"}},
		{"nothing", query.Query{Prefix: "/none"}, nil},
	} {
		got := keys(tc.q)
		if len(tc.q.Orders) == 0 {
			slices.SortFunc(got, cmp.Compare[string])
		}
		if diff := gocmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
	if b, err = d.Batch(ctx); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Delete(ctx, ds.NewKey("/pq")), b.Commit(ctx)); err != nil {
		t.Fatal(err)
	}
	if got := keys(query.Query{}); len(got) != n {
		t.Errorf("got %d keys, want %d", len(got), n)
	}
}
