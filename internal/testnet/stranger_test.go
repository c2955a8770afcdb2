//go:build unix

package testnet_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/internal/testnet"
)

// Two networks on one machine know nothing of each other: a link of one is
// refused in the other, and says why.
func TestLinkOfAnotherNetwork(t *testing.T) {
	t.Parallel()
	a, b := testnet.New(t, 1, testnet.Options{}), testnet.New(t, 1, testnet.Options{})
	path := file(t, "file", 30, 1<<20)
	link := put(t, &a.Nodes[0].Home, path)
	refused(t, &b.Nodes[0].Home, 15, link, "network")
	refused(t, b.Client(), 15, link, "network")
	get(t, &a.Nodes[0].Home, link, path) // so that the refusal is the network's
}

// An invite that has expired lets nobody in; the same words while it is fresh
// do. (What a stranger meets on the wire is tested where the gate is.)
func TestExpiredInvite(t *testing.T) {
	t.Parallel()
	net := testnet.New(t, 1, testnet.Options{})
	n := net.Nodes[0]
	const life = 3 * time.Second
	made := time.Now()
	invite := n.Run(t, "invite", "--expires", life.String()).MustLine()
	net.Stranger().Run(t, "join", invite)
	<-time.After(time.Until(made.Add(life + time.Second)))
	r := net.Stranger().Want(t, 15, "join", invite)
	says(t, r.Err, "expired")

	r = net.Stranger().Want(t, 2, "join", "p2pfs-nonsense")
	says(t, r.Err, "invite")
}

// Who was expelled by the founder gets nothing any more, from anyone, and
// nobody takes anything from it.
func TestExpelled(t *testing.T) {
	t.Parallel()
	net := testnet.New(t, 4, testnet.Options{})
	path := file(t, "file", 31, 2<<20)
	link := put(t, &net.Nodes[0].Home, path, "--redundancy", "1+2")
	out := net.Nodes[3]
	id := out.Status().ID
	net.Nodes[1].Want(t, 15, "expel", id) // not the founder
	net.Nodes[0].Run(t, "expel", id)
	for _, n := range net.Nodes[:3] {
		testnet.Wait(t, n.Name+" to drop the expelled", func() bool {
			var peers []struct {
				ID        string
				Connected bool
			}
			n.Run(t, "peers", "--json").JSON(&peers)
			for _, p := range peers {
				if p.ID == id && p.Connected {
					return false
				}
			}
			return true
		})
	}
	testnet.Wait(t, "the expelled to have no peers", func() bool { return out.Status().Peers == 0 })
	get(t, &net.Nodes[2].Home, link, path)

	// Nobody has forgotten after a restart, and the expelled knows it too.
	net.Nodes[2].Stop()
	out.Stop()
	net.Nodes[2].Start()
	out.Want(t, 15, "node")
	out.Want(t, 15, "get", link, "-o", filepath.Join(t.TempDir(), "out"))
	out.Want(t, 15, "put", file(t, "more", 32, 1<<20))
	get(t, &net.Nodes[2].Home, link, path)
}

// ^C ends a put in order: exit code 130, no link, nothing half.
func TestInterruptedCommands(t *testing.T) {
	t.Parallel()
	net := testnet.New(t, 2, testnet.Options{})
	for _, h := range []*testnet.Home{&net.Nodes[0].Home, net.Client()} {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := h.Command(ctx, "put", "-")
		code, out := interrupted(t, cmd)
		cancel()
		if code != 130 || out != "" {
			t.Errorf("%s: interrupted put: got exit code %d and stdout %q, want 130 and none", h.Name, code, out)
		}
	}
	path := file(t, "file", 33, 1<<20)
	link := put(t, &net.Nodes[0].Home, path)
	dir := t.TempDir()
	net.Nodes[1].Run(t, "get", link, "-o", filepath.Join(dir, "x")) // all still works
}
