package dht

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"
)

// table is a network in which every lookup is perfect.
type table []peer.ID

func newTable(n int) table {
	t := make(table, n)
	for i := range t {
		t[i] = peer.ID(fmt.Sprintf("peer %d", i))
	}
	return t
}

func (t table) sorted(place kb.ID) []peer.ID { return kb.SortClosestPeers(slices.Clone(t), place) }

// TestWalkYieldsAllInOrder: whatever the size of the network, all peers, each
// once, the nearest first, and not many more lookups than needed.
func TestWalkYieldsAllInOrder(t *testing.T) {
	for _, n := range []int{0, 1, 19, 20, 21, 40, 100, 1000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			peers := newTable(n)
			for i := range 3 {
				var id ID
				binary.BigEndian.PutUint32(id[:], uint32(i))
				lookups := 0
				var got []peer.ID
				w := walk{
					ctx: t.Context(),
					lookup: func(_ context.Context, key string) ([]peer.ID, error) {
						lookups++
						s := peers.sorted(kb.ConvertKey(key))
						return s[:min(len(s), Width)], nil
					},
					target:  place(id),
					yielded: map[peer.ID]bool{},
					yield:   func(p peer.ID, err error) bool { got = append(got, p); return err == nil },
				}
				w.subtree(string(key(id)), w.target, 0)
				if want := peers.sorted(place(id)); !slices.Equal(got, want) {
					t.Fatalf("got %d peers in some order, want %d", len(got), len(want))
				}
				if most := 4 + n/4; lookups > most {
					t.Errorf("%d lookups, want at most %d", lookups, most)
				}
			}
		})
	}
}

// TestWalkAddsWhatIsKnown: peers that lookups do not tell of come at their
// place.
func TestWalkAddsWhatIsKnown(t *testing.T) {
	peers := newTable(100)
	var got []peer.ID
	w := walk{
		ctx: t.Context(),
		lookup: func(_ context.Context, key string) ([]peer.ID, error) {
			return peers[10:].sorted(kb.ConvertKey(key))[:Width], nil
		},
		known:   peers[:12],
		target:  place(ID{1}),
		yielded: map[peer.ID]bool{},
		yield:   func(p peer.ID, err error) bool { got = append(got, p); return err == nil },
	}
	w.subtree(string(key(ID{1})), w.target, 0)
	if want := peers.sorted(place(ID{1})); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWalkEndsWithItsReader(t *testing.T) {
	peers := newTable(100)
	n := 0
	w := walk{
		ctx: t.Context(),
		lookup: func(_ context.Context, key string) ([]peer.ID, error) {
			return peers.sorted(kb.ConvertKey(key))[:Width], nil
		},
		target:  place(ID{1}),
		yielded: map[peer.ID]bool{},
		yield:   func(peer.ID, error) bool { n++; return n < 30 },
	}
	if w.subtree(string(key(ID{1})), w.target, 0) || n != 30 {
		t.Errorf("went on to %d", n)
	}
}

func TestPreimagesHitTheirPlace(t *testing.T) {
	for i := range 20 {
		p := place(ID{byte(i)})
		for _, bits := range []int{1, 8, 13} {
			if got := kb.CommonPrefixLen(kb.ConvertKey(preimage(p, bits)), p); got < bits {
				t.Errorf("%d bits in common, want %d", got, bits)
			}
		}
	}
}

func TestCompareIsTheDistance(t *testing.T) {
	peers := newTable(30)
	for i := range 10 {
		id := ID{byte(i)}
		s := peers.sorted(place(id))
		for j := range s[1:] {
			if Compare(id, s[j], s[j+1]) >= 0 || Compare(id, s[j+1], s[j]) <= 0 || Compare(id, s[j], s[j]) != 0 {
				t.Fatalf("%s and %s are out of order", s[j], s[j+1])
			}
			a, b := Distance(id, s[j]), Distance(id, s[j+1])
			if slices.Compare(a[:], b[:]) >= 0 {
				t.Fatal("distances are out of order")
			}
		}
	}
}

// TestKeyOfAPack pins the mapping that all nodes must agree on.
func TestKeyOfAPack(t *testing.T) {
	id := ID{0: 0xaa, 31: 0xbb}
	if got, want := fmt.Sprintf("%x", []byte(key(id))), "1e20aa000000000000000000000000000000000000000000000000000000000000bb"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := fmt.Sprintf("%x", []byte(place(id))), "ae30b201fb9f2393745b9908316a356f576afea8ce333a16da13b310f9018845"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
