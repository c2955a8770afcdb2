package node

import (
	"bytes"
	"context"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/wire"
)

// The store keeps as many heads, and as long ones, as the protocol carries.
func TestTheLargestHeadsAreKeptAndTold(t *testing.T) {
	m := newMemNet(t, 71, 1, 0)
	owner := pack.Owner{1}
	var want [][]byte
	for i := range wire.MaxTips {
		want = append(want, bytes.Repeat([]byte{byte(i)}, wire.MaxHead))
	}
	_, err := m.nodes[0].store.UpdateHeads(owner, "someone", func([][]byte) ([][]byte, error) { return want, nil })
	if err != nil {
		t.Fatal(err)
	}
	ask := func(n *memNode, owner pack.Owner) [][]byte {
		t.Helper()
		a, b := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- wire.Serve(context.Background(), b, "reader", wire.Version, n.server) }()
		got, err := wire.Heads(a, owner)
		if err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		return got
	}
	if diff := cmp.Diff(want, ask(m.nodes[0], owner)); diff != "" {
		t.Errorf("got other heads (-want +got):\n%s", diff)
	}
	if got := ask(m.nodes[0], pack.Owner{2}); len(got) != 0 {
		t.Errorf("of another volume: got %x", got)
	}
	if got := ask(m.client(), owner); len(got) != 0 {
		t.Errorf("of a client: got %x", got)
	}
}
