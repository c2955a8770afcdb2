package simnet

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/swarm"
)

// Node is a node of a world.
type Node struct {
	*node.Node // nil while it does not run

	Name  string
	Store *store.Store // what it holds; not while it does not run

	w     *World
	host  int
	rate  int // of its line, bits a second
	home  node.Home
	store store.Memory // what a crash leaves
	line  *link
	stop  func()
	ended chan error
}

// Grace is how long the nodes of a world wait for one that is away: short, so
// that half an hour shows what comes of it.
const Grace = 2 * time.Minute

// config is how the node runs on a line.
func (n *Node) config(l *link) node.Config {
	return node.Config{
		Settings: node.Settings{
			Listen: []string{fmt.Sprintf("/ip4/%s/udp/%d/quic-v1", ipOf(n.host), swarm.DefaultPort)},
			NoMDNS: true, NoPort: true,
		},
		Grace: Grace,
		Log:   slog.New(slog.NewTextHandler(n.w.log, nil)).With("node", n.Name),
		Swarm: l.under,
		Store: func(_ string, o store.Options) (_ *store.Store, err error) {
			o.Memory = &n.store
			n.Store, err = store.Open("", o)
			return n.Store, err
		},
	}
}

// Start starts the node, with what it holds, and waits until it is ready.
func (n *Node) Start() {
	n.w.t.Helper()
	n.w.cut(n, false)
	n.line = n.link()
	x, err := node.Open(n.home, n.config(n.line))
	if err != nil {
		n.w.t.Fatalf("start %s: %v", n.Name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.Node, n.stop, n.ended = x, cancel, make(chan error, 1)
	go func() { n.ended <- x.Run(ctx) }()
	select {
	case <-x.Ready():
	case <-time.After(patience):
		n.w.t.Fatalf("%s is not ready after %v", n.Name, patience)
	}
}

// Stop ends the node as its operator would.
func (n *Node) Stop() {
	n.w.t.Helper()
	n.end()
	n.w.cut(n, true)
}

// Crash ends the node from one packet to the next: nobody hears of it. What it
// holds is there when it starts again.
func (n *Node) Crash() {
	n.w.t.Helper()
	n.w.cut(n, true)
	n.end()
}

// Wipe loses what a node that does not run held.
func (n *Node) Wipe() {
	n.w.t.Helper()
	if err := n.store.Close(); err != nil {
		n.w.t.Errorf("wipe %s: %v", n.Name, err)
	}
}

// end ends the node if it runs.
func (n *Node) end() {
	if n.Node == nil {
		return
	}
	n.stop()
	if err := <-n.ended; err != nil {
		n.w.t.Errorf("%s ran until %v", n.Name, err)
	}
	if err := n.Close(); err != nil {
		n.w.t.Errorf("close %s: %v", n.Name, err)
	}
	n.line.close()
	n.Node, n.Store = nil, nil
}

// Put stores data and gives what came of it.
func (n *Node) Put(name string, data []byte, s *erasure.Scheme) node.PutResult {
	n.w.t.Helper()
	ctx, cancel := context.WithTimeout(n.w.t.Context(), patience)
	defer cancel()
	res, err := n.Node.Put(ctx, node.PutRequest{Name: name, Mode: 0o644, ModTime: n.w.began, Size: int64(len(data)), Redundancy: s},
		bytes.NewReader(data), nil)
	if err != nil {
		n.w.t.Fatalf("%s puts %s: %v", n.Name, name, err)
	}
	return res
}

// Get fetches a link whole.
func (n *Node) Get(link string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(n.w.t.Context(), patience)
	defer cancel()
	var b bytes.Buffer
	err := n.Node.Get(ctx, node.GetRequest{Source: link, Length: -1},
		func(node.FileInfo) (io.Writer, error) { return &b, nil }, nil)
	return b.Bytes(), err
}
