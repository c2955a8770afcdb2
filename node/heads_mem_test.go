package node

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/dht"
	"github.com/p2pfs/p2pfs/volume"
)

// slowDirectory still names the peers that have just gone.
type slowDirectory struct{ memDirectory }

func (d slowDirectory) Walk(_ context.Context, id [32]byte) iter.Seq2[peer.ID, error] {
	var all []peer.ID
	for _, n := range d.net.holders() {
		all = append(all, n.self)
	}
	slices.SortFunc(all, func(a, b peer.ID) int { return dht.Compare(id, a, b) })
	return func(yield func(peer.ID, error) bool) {
		for _, p := range all {
			if !yield(p, nil) {
				return
			}
		}
	}
}

func (d slowDirectory) Closest(ctx context.Context, id [32]byte, n int) ([]peer.ID, error) {
	var out []peer.ID
	for p := range d.Walk(ctx, id) {
		if out = append(out, p); len(out) == n {
			break
		}
	}
	return out, nil
}

func TestEnoughAnswersHaveOneOfThoseThatTookAHead(t *testing.T) {
	for n := 1; n <= headKeepers; n++ {
		for present := range n + 1 {
			if took := quorum(n, present); took+enough(n) <= n {
				t.Errorf("%d of %d answers need not have one of %d", enough(n), n, took)
			}
		}
	}
}

// A head counts although a holder was away, which comes back and answers first.
func TestWhoWasAwayDoesNotHideANewHead(t *testing.T) {
	m := newMemNet(t, 521, 3, 0)
	a, write, _ := m.created(t, 1, "v")
	b := m.added(t, 2, write, "v")
	for _, n := range m.nodes {
		n.dir = slowDirectory{memDirectory{m, n}}
	}
	away := m.holders()[1]
	away.down.Store(true)
	into(t, a, "v:", "f", "new")
	away.down.Store(false)
	for _, n := range m.holders() {
		if n != away {
			n.far.Store(int64(2 * headLinger))
		}
	}
	if got := names(t, b, "v:"); got != "f" {
		t.Errorf("got %q", got)
	}
}

func TestMoreTipsThanAreKeptAreRefusedAndNoneIsLost(t *testing.T) {
	m := newMemNet(t, 522, 3, 0)
	a, write, _ := m.created(t, 1, "v")
	var commits []*commit
	for i := range volume.MaxTips + 2 {
		commits = append(commits, begun(t, m.added(t, byte(2+i), write, "v"), "v"))
	}
	want, refused := "", 0
	for i, c := range commits {
		name := fmt.Sprintf("%02d", i)
		switch err := c.put(t, name, name); {
		case err == nil:
			want += " " + name
		case CodeOf(err) == NoPeers:
			refused++
		default:
			t.Fatal(err)
		}
	}
	if refused != 2 {
		t.Errorf("%d of %d heads refused, want 2", refused, len(commits))
	}
	for range 2 { // as they are, and merged
		if got := names(t, a, "v:"); got != strings.TrimSpace(want) {
			t.Errorf("got %q, want %q", got, want)
		}
		into(t, a, "v:", "merged", "x")
		want += " merged"
	}
	again := commits[len(commits)-1]
	into(t, again.n, "v:", "now", "x")
	if got := names(t, a, "v:"); !strings.HasSuffix(got, "now") {
		t.Errorf("got %q", got)
	}
}
