package node

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/dht"
	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/volume"
	"github.com/p2pfs/p2pfs/wire"
)

// held counts the shards on all nodes.
func (m *memNet) held() (shards int) {
	for _, n := range m.nodes {
		shards += n.store.Usage().Shards
	}
	return shards
}

// sweep drops on all nodes what is over by their clocks.
func (m *memNet) sweep() {
	m.t.Helper()
	for _, n := range m.nodes {
		if err := n.store.Sweep(m.t.Context()); err != nil {
			m.t.Fatal(err)
		}
	}
}

func TestRemoveDeletesOnAllHolders(t *testing.T) {
	m := newMemNet(t, 201, 7, 0)
	c := m.client()
	client := c.node()
	data := random(40, 40<<20)
	res := put(t, client, "f", data, nil)
	var roots []store.Root
	for r, err := range c.store.Roots(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, r)
	}
	if len(roots) != 1 || roots[0].Link != res.Link || roots[0].Name != "f" || roots[0].Bytes != int64(len(data)) {
		t.Errorf("catalog: got %+v", roots)
	}
	got, err := client.Remove(t.Context(), res.Link)
	if err != nil || got.Packs != res.Packs || got.Kept != 0 || got.Untold != 0 || got.Partial || got.Bytes < int64(len(data)) ||
		got.Holders != 5*res.Packs {
		t.Errorf("got %+v, %v, want %d packs on 5 holders each", got, err, res.Packs)
	}
	if n := m.held(); n != 0 {
		t.Errorf("%d shards are left", n)
	}
	for range c.store.Roots(t.Context()) {
		t.Error("the root is still in the catalog")
	}
	for range c.store.Owned(t.Context()) {
		t.Error("a pack is still in the catalog")
	}
	if _, _, err := get(t.Context(), m.client().node(), res.Link); CodeOf(err) != NotFound {
		t.Errorf("get: got %v, want code %d", err, NotFound)
	}
}

func TestRemoveKeepsWhatAnotherPutRefersTo(t *testing.T) {
	m := newMemNet(t, 202, 5, 0)
	client := m.client().node()
	data := random(41, 3<<20)
	a, b := put(t, client, "a", data, nil), put(t, client, "b", data, nil) // the same data pack
	got, err := client.Remove(t.Context(), a.Link)
	if err != nil || got.Packs != 1 || got.Kept != 1 {
		t.Errorf("got %+v, %v, want one deleted and one kept", got, err)
	}
	if back, _, err := get(t.Context(), m.client().node(), b.Link); err != nil || !bytes.Equal(back, data) {
		t.Errorf("get of the other: %v", err)
	}
	if got, err := client.Remove(t.Context(), b.Link); err != nil || got.Packs != 2 || got.Kept != 0 {
		t.Errorf("got %+v, %v, want both deleted", got, err)
	}
	if n := m.held(); n != 0 {
		t.Errorf("%d shards are left", n)
	}
}

func TestOnlyTheOwnerRemoves(t *testing.T) {
	m := newMemNet(t, 203, 5, 0)
	data := random(42, 1<<20)
	res := put(t, m.nodes[0].node(), "f", data, nil)
	other := m.client().homeOf(volume.Seed{99, 1})
	if _, err := other.Remove(t.Context(), res.Link); CodeOf(err) != Refused || HintOf(err) == "" {
		t.Errorf("got %v (code %d), want code %d", err, CodeOf(err), Refused)
	}
	verify, err := other.Link(t.Context(), res.Link, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.nodes[0].node().Remove(t.Context(), verify); CodeOf(err) != Refused {
		t.Errorf("a verify link: got %v, want code %d", err, Refused)
	}
	if _, _, err := get(t.Context(), m.client().node(), res.Link); err != nil {
		t.Errorf("get: %v", err)
	}
}

// A crash after the holders were told and before the catalog was written
// leaves no row; the owner's key is enough.
func TestRemoveWithoutTheCatalog(t *testing.T) {
	m := newMemNet(t, 204, 5, 0)
	first := m.client().node()
	res := put(t, first, "f", random(43, 5<<20), nil)
	again := m.client().alsoOf(first)
	got, err := again.Remove(t.Context(), res.Link)
	if err != nil || got.Packs != res.Packs || m.held() != 0 {
		t.Errorf("got %+v, %v, %d shards left", got, err, m.held())
	}
}

func TestRemoveIsRepeatedWhereNoHolderCouldBeTold(t *testing.T) {
	m := newMemNet(t, 205, 2, 0)
	client := m.client().node()
	res := put(t, client, "f", random(44, 1<<20), nil)
	holders := m.holders()
	far := m.add(true, 0, "")
	for _, n := range holders {
		n.down.Store(true)
	}
	got, err := client.Remove(t.Context(), res.Link)
	if err != nil || !got.Partial || got.Untold != res.Packs || got.Packs != 0 {
		t.Errorf("holders away: got %+v, %v", got, err)
	}
	// The peers closest know: a holder that comes back can be told by them.
	for h, err := range far.store.Packs(t.Context()) {
		if err != nil || !h.Deleted {
			t.Errorf("got %+v, %v, want tombstones", h, err)
		}
	}
	if u := far.store.Usage(); u.Held == 0 {
		t.Error("the closest peer was not told")
	}
	for _, n := range holders {
		n.down.Store(false)
	}
	got, err = client.Remove(t.Context(), res.Link)
	if err != nil || got.Partial || got.Packs != res.Packs || m.held() != 0 {
		t.Errorf("again: got %+v, %v, %d shards left", got, err, m.held())
	}
	// And once more, by what is remembered: nothing is in the catalog any more.
	if _, err := client.Remove(t.Context(), res.Link); CodeOf(err) != NotFound {
		t.Errorf("a third time: got %v, want code %d", err, NotFound)
	}
}

func TestAPutAfterARemoveRevives(t *testing.T) {
	m := newMemNet(t, 206, 5, 0)
	client := m.client().node()
	data := random(45, 2<<20)
	a := put(t, client, "f", data, nil)
	other := func() *Node { // another machine of the same owner, which knows nothing
		return m.client().alsoOf(client)
	}
	for i, n := range []*Node{client, other(), other()} {
		if got, err := other().Remove(t.Context(), a.Link); err != nil || got.Partial {
			t.Fatalf("%d: remove: %+v, %v", i, got, err)
		}
		if _, _, err := get(t.Context(), m.client().node(), a.Link); CodeOf(err) != NotFound {
			t.Fatalf("%d: get of what was removed: %v", i, err)
		}
		b := put(t, n, "f", data, nil)
		back, _, err := get(t.Context(), m.client().node(), b.Link)
		if err != nil || !bytes.Equal(back, data) || b.Link != a.Link || b.Partial {
			t.Errorf("%d: put after a remove: %+v, %v", i, b, err)
		}
	}
}

// A removal and a put of the same at once: the file is there in the end, or
// its packs are all gone.
func TestRemoveAndPutAtOnce(t *testing.T) {
	m := newMemNet(t, 207, 5, 0)
	c := m.client()
	client := c.node()
	data := random(46, 2<<20)
	link := put(t, client, "f", data, nil).Link
	for i := range 5 {
		done := make(chan error, 1)
		go func() {
			_, err := client.Remove(t.Context(), link)
			if CodeOf(err) == NotFound {
				err = nil
			}
			done <- err
		}()
		put(t, client, "f", data, nil)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		_, err := c.store.Root(rootOf(t, link))
		back, _, gerr := get(t.Context(), m.client().node(), link)
		switch {
		case err == nil && (gerr != nil || !bytes.Equal(back, data)):
			t.Errorf("%d: in the catalog, but: %v", i, gerr)
		case err != nil && CodeOf(gerr) != NotFound:
			t.Errorf("%d: not in the catalog (%v), but get says: %v", i, err, gerr)
		}
		put(t, client, "f", data, nil)
	}
}

func rootOf(t *testing.T, link string) store.RootID {
	t.Helper()
	l, err := volume.ParseLink(link)
	if err != nil {
		t.Fatal(err)
	}
	return store.RootOf(l.Root.Pack, l.Root.Off)
}

func TestTombstonesAreTakenByThoseClosest(t *testing.T) {
	m := newMemNet(t, 208, dht.Width+5, 0)
	p := newParcel(t, 12<<10, erasure.Scheme{K: 2, M: 1}, 10)
	near, err := m.nodes[0].dir.Closest(t.Context(), p.m.ID(), dht.Width)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range m.nodes {
		err := n.server.State(t.Context(), "owner", p.deleted(11))
		if slices.Contains(near, n.self) {
			if err != nil {
				t.Errorf("one of the closest: %v", err)
			}
			if err := n.server.State(t.Context(), "owner", p.deleted(12)); err != nil {
				t.Errorf("a later one: %v", err)
			}
			// An older state is not taken any more, a newer one is.
			if err := p.give(n.server, "putter", wire.StoreRequest{Put: [16]byte{1}}); !errors.Is(err, wire.ErrOld) {
				t.Errorf("older state: got %v, want %v", err, wire.ErrOld)
			}
		} else if !errors.Is(err, wire.ErrNotFound) || n.store.Usage().Held != 0 {
			t.Errorf("a farther one: got %v, want %v", err, wire.ErrNotFound)
		}
	}
}

func TestExpiredPacksAreNotStoredAgain(t *testing.T) {
	n := newMemNet(t, 209, 1, 0).nodes[0]
	p := newParcel(t, 12<<10, erasure.Scheme{K: 2, M: 1}, 10)
	p.m.State.Expires = uint64(time.Now().Add(-time.Second).UnixMilli())
	p.sign()
	if err := p.give(n.server, "putter", wire.StoreRequest{Put: [16]byte{1}}); !errors.Is(err, wire.ErrOld) {
		t.Errorf("got %v, want %v", err, wire.ErrOld)
	}
	p.m.State.Expires = uint64(time.Now().Add(time.Hour).UnixMilli())
	p.sign()
	if err := p.give(n.server, "putter", wire.StoreRequest{Put: [16]byte{1}}); err != nil {
		t.Errorf("not expired yet: %v", err)
	}
}

func TestExpiryEndsAndIsRenewed(t *testing.T) {
	for _, again := range []time.Duration{-1, 0, 3 * time.Hour} { // no, for good, longer
		t.Run(fmt.Sprint(again), func(t *testing.T) {
			m := newMemNet(t, 210, 5, 0)
			client := m.client().node()
			data := random(47, 2<<20)
			store := func(expires time.Duration) PutResult {
				res, err := client.Put(t.Context(), PutRequest{Name: "f", Size: -1, Expires: expires}, bytes.NewReader(data), nil)
				if err != nil {
					t.Fatal(err)
				}
				return res
			}
			res := store(time.Hour)
			if again >= 0 {
				// Others are closer to the packs by now: what was not chosen
				// again keeps its shard, and is to hear of it.
				for range 12 {
					m.add(true, 0, "")
				}
				store(again)
			}
			m.ahead.Store(int64(2 * time.Hour))
			m.sweep()
			back, _, err := get(t.Context(), m.client().node(), res.Link)
			if again < 0 {
				if CodeOf(err) != NotFound || m.held() != 0 {
					t.Errorf("after its expiry: got %v, %d shards", err, m.held())
				}
			} else if err != nil || !bytes.Equal(back, data) {
				t.Errorf("renewed: %v", err)
			}
		})
	}
}

// A peer that keeps a shard and is not chosen again hears of the longer expiry.
func TestRenewalReachesThoseNotChosenAgain(t *testing.T) {
	m := newMemNet(t, 211, 5, 0)
	client := m.client().node()
	data := random(48, 2<<20)
	give := &erasure.Scheme{K: 2, M: 3}
	for i, expires := range []time.Duration{time.Hour, 3 * time.Hour} {
		if i > 0 {
			for range 20 {
				m.add(true, 0, "")
			}
		}
		if _, err := client.Put(t.Context(), PutRequest{Name: "f", Size: -1, Expires: expires, Redundancy: give}, bytes.NewReader(data), nil); err != nil {
			t.Fatal(err)
		}
	}
	before := m.held()
	kept := 0
	for _, n := range m.nodes[:5] {
		kept += n.store.Usage().Shards
	}
	m.ahead.Store(int64(2 * time.Hour))
	m.sweep()
	if n := m.held(); n != before || kept == 0 {
		t.Errorf("%d of %d shards are left after the first expiry, %d of them on the first holders", n, before, kept)
	}
}

func TestVerifyLinksShowNothing(t *testing.T) {
	for _, size := range []int{0, 1, 4 << 10, 300 << 10, 40 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			m := newMemNet(t, 212, 5, 0)
			res := put(t, m.client().node(), "secret name", random(49, size), nil)
			reader := m.client().node()
			if same, err := reader.Link(t.Context(), res.Link, false); err != nil || same != res.Link {
				t.Errorf("link of a link: got %v, %v", same, err)
			}
			verify, err := reader.Link(t.Context(), res.Link, true)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := reader.Link(t.Context(), verify, true); err != nil || again != verify {
				t.Errorf("verify link of a verify link: got %v, %v", again, err)
			}
			v, err := volume.ParseLink(verify)
			if err != nil {
				t.Fatal(err)
			}
			l, err := volume.ParseLink(res.Link)
			if err != nil || v.Root.Key == l.Root.Key || v.Kind != volume.KindVerify || v.Root.Off == l.Root.Off {
				t.Errorf("got %+v for %+v", v, l)
			}
			st, err := m.client().node().Stat(t.Context(), verify)
			if err != nil || st.Kind != "verify" || st.Packs != res.Packs || st.Name != "" || st.K != res.K || st.N != res.N || st.Live != res.Stored {
				t.Errorf("stat: got %+v, %v, want what put says: %+v", st, err, res)
			}
			if _, _, err := get(t.Context(), reader, verify); CodeOf(err) != Refused || !errors.Is(err, volume.ErrKind) {
				t.Errorf("get: got %v (code %d), want code %d", err, CodeOf(err), Refused)
			}
			// The key of the inventory opens the inventory only, also where the
			// link is made to say that it is a file's.
			forged := volume.FileLink(memNetwork, v.Root).String()
			if _, _, err := get(t.Context(), reader, forged); CodeOf(err) != Corrupt || strings.Contains(err.Error(), "secret") {
				t.Errorf("a file link to the inventory: got %v, want code %d", err, Corrupt)
			}
			v.Root.Pack, v.Root.Off, v.Root.Len, v.Root.Size, v.Kind = l.Root.Pack, l.Root.Off, l.Root.Len, l.Root.Size, volume.KindFile
			if _, _, err := get(t.Context(), reader, v.String()); CodeOf(err) != Corrupt {
				t.Errorf("its key on the entry: got %v, want code %d", err, Corrupt)
			}
		})
	}
}

// sign signs the state of p anew.
func (p *parcel) sign() { p.m.State.Sign(testOwner()) }
