//go:build linux

package testnet_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/internal/testnet"
)

// A network falls apart into halves that hear nothing of each other. Both go
// on to serve what they have enough of, and to repair. When they meet again
// all is as it was.
func TestPartitionHeals(t *testing.T) {
	near, far, cut, mend := halves(t)
	host := func(i int) []string {
		if i%2 == 0 {
			return near
		}
		return far
	}
	net := testnet.New(t, 12, testnet.Options{
		Flags: healing,
		Host:  host,
		Setup: func(i int) []string {
			addr := fmt.Sprintf("/ip4/10.77.0.%d", 1+i%2)
			return []string{"--listen", fmt.Sprintf("%s/tcp/%d", addr, 4100+i), "--listen", fmt.Sprintf("%s/udp/%d/quic-v1", addr, 4100+i)}
		},
	})
	path := file(t, "file", 74, size(8<<20, 256<<20))
	client := net.Stranger()
	client.Wrap = near
	client.Run(t, "join", net.Invite())
	link := put(t, client, path, "--redundancy", "4+6")
	missed := len(net.Nodes) // by whoever holds a shard, as one half has 6 of its pack at most
	for _, p := range full(t, net, link).Worst {
		missed = min(missed, p.N-len(net.Nodes)/2)
	}

	sides := [2]*testnet.Node{net.Nodes[0], net.Nodes[1]}
	cut()
	for side, n := range sides {
		testnet.WaitEvery(t, 500*time.Millisecond, "the half of "+n.Name+" to know that the other is away", func() bool {
			for i := side; i < len(net.Nodes); i += len(sides) {
				if net.Nodes[i].Status().Suspected >= missed {
					return true
				}
			}
			return false
		})
		h := health(t, &n.Home, link)
		t.Logf("%s, cut off: at least %d missed, %d live of the weakest pack, survives %d", n.Name, missed, h.Live, h.Survives)
		if h.Live > 6 {
			t.Errorf("%s: got %d live shards on 6 nodes", n.Name, h.Live)
		}
		get(t, &n.Home, link, path)
	}
	mend()
	net.Acquaint()
	full(t, net, link)
	for _, n := range sides {
		get(t, &n.Home, link, path)
	}
	judged(t, net, link)
}

// halves makes two network namespaces with an address for nodes in each,
// 10.77.0.1 and 10.77.0.2, and gives the words that run a command in each. cut
// lets all packets between them vanish, silently, mend ends that.
func halves(t *testing.T) (near, far []string, cut, mend func()) {
	t.Helper()
	ip, names := namespaces(t, "half")
	must := func(format string, args ...any) {
		t.Helper()
		if err := ip(fmt.Sprintf(format, args...)); err != nil {
			t.Fatal(err)
		}
	}
	must("link add lan netns %s type veth peer name lan netns %s", names[0], names[1])
	for i, name := range names {
		must("-n %s link set lo up", name)
		// On lo: it stays where it is whatever becomes of the cable.
		must("-n %s addr add 10.77.0.%d/32 dev lo", name, i+1)
		must("-n %s addr add 10.78.0.%d/30 dev lan", name, i+1)
		must("-n %s link set lan up", name)
		must("-n %s route add 10.77.0.%d/32 via 10.78.0.%d src 10.77.0.%d", name, 2-i, 2-i, i+1)
	}
	cut = func() {
		t.Helper()
		for i, name := range names { // to a machine that is not there
			must("-n %s neigh replace 10.78.0.%d lladdr 02:00:00:00:00:99 dev lan nud permanent", name, 2-i)
		}
	}
	mend = func() {
		t.Helper()
		for i, name := range names {
			must("-n %s neigh del 10.78.0.%d dev lan", name, 2-i)
		}
	}
	return inside(names[0]), inside(names[1]), cut, mend
}
