package node

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/dht"
	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/volume"
	"github.com/p2pfs/p2pfs/wire"
)

// The heads of a volume are kept by the peers closest to its key: each keeps
// the tips that it knows, the heads that no other follows. Writers give a new
// head to all of them, readers ask all of them and take what no other follows,
// and the keepers pass on to each other what one of them has missed, so that
// heads stay while those who keep them come and go.

const (
	// headKeepers is how many peers keep the heads of a volume.
	headKeepers = dht.Width

	// headSpares is how many farther peers a head is given to where too few of
	// the closest take it.
	headSpares = 20

	// headLinger bounds how long answers are waited for beyond those that are
	// enough: silent peers must not make every look at a volume slow.
	headLinger = 300 * time.Millisecond
)

// errNoHead is wrapped where no peer knows of a head of a volume.
var errNoHead = errors.New("no head found")

// quorum says how many of n peers have to keep a head so that it counts:
// a majority, so that of two sets of keepers one peer is in both; and more than
// a pack of the network's redundancy may lose. present are those of them that
// can be reached.
func quorum(n, present int) int {
	most, _ := stepFor(n)
	return max(n/2+1, min(most.M+1, present))
}

// enough says of how many of n peers answers have to be waited for, so that one
// of them is among any that made a head count.
func enough(n int) int { return n - n/2 }

// keepers gives the peers that are to keep the heads of a volume.
func (e *engine) keepers(ctx context.Context, owner pack.Owner) ([]peer.ID, error) {
	near, err := e.dir.Closest(ctx, owner, headKeepers)
	if e.holder && len(near) < headKeepers && !slices.Contains(near, e.self) {
		near = append(near, e.self)
	}
	return near, err
}

// decodeHeads gives what is good of the encoded heads of a volume.
func (e *engine) decodeHeads(owner pack.Owner, list [][]byte) (heads []*volume.Head, err error) {
	for _, b := range list {
		h, herr := volume.DecodeHead(b)
		if herr == nil {
			herr = h.Verify(e.network)
		}
		if herr == nil && h.Owner != owner {
			herr = fmt.Errorf("head of another volume: %w", pack.ErrCorrupt)
		}
		if herr != nil {
			err = errors.Join(err, herr)
			continue
		}
		heads = append(heads, h)
	}
	return heads, err
}

func encodeHeads(heads []*volume.Head) [][]byte {
	list := make([][]byte, 0, len(heads))
	for _, h := range heads {
		list = append(list, h.Encode())
	}
	return list
}

// askHeads gives the heads of a volume that a peer keeps, this node too.
func (e *engine) askHeads(ctx context.Context, p peer.ID, owner pack.Owner) (heads []*volume.Head, err error) {
	var list [][]byte
	if p == e.self {
		list, err = e.store.Heads(owner)
	} else {
		err = e.call(ctx, p, askTimeout, func(s stream) (err error) {
			list, err = wire.Heads(s, owner)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	heads, err = e.decodeHeads(owner, list)
	if err != nil {
		e.log.Warn("peer keeps heads that are not the volume's", "peer", p, "volume", short8(owner), "err", err)
	}
	return heads, nil
}

func short8(owner pack.Owner) string { return fmt.Sprintf("%x", owner[:4]) }

// tips is what is known of the heads of a volume.
type tips struct {
	heads  []*volume.Head // that no other follows
	unkept []*volume.Head // those of them that none of enough keepers has
	asked  int            // keepers that answered
}

// tips asks the peers that keep a volume's heads and gives those that no other
// follows, those among them that the caller knows.
func (e *engine) tips(ctx context.Context, owner pack.Owner, known []*volume.Head) (t tips, err error) {
	near, err := e.keepers(ctx, owner)
	if len(near) == 0 {
		return tips{heads: volume.Tips(known)}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	type reply struct {
		heads []*volume.Head
		err   error
	}
	replies := make(chan reply, len(near))
	for _, p := range near {
		wg.Go(func() { // what it has to say always has room
			heads, err := e.askHeads(ctx, p, owner)
			replies <- reply{heads, err}
		})
	}
	var kept []*volume.Head
	var late <-chan time.Time
	stop := func() {}
	defer func() { stop() }()
	var errs error
	for range near {
		select {
		case r := <-replies:
			if r.err != nil {
				errs = errors.Join(errs, r.err)
				continue
			}
			kept = append(kept, r.heads...)
			if t.asked++; t.asked == enough(len(near)) {
				late, stop = e.clock.After(headLinger)
			}
			continue
		case <-late:
		case <-ctx.Done():
		}
		break
	}
	if ctx.Err() != nil {
		return tips{}, context.Cause(ctx)
	}
	t.heads = volume.Tips(append(slices.Clone(known), kept...))
	if t.asked == 0 {
		return t, errs
	}
	for _, h := range t.heads {
		if t.asked >= enough(len(near)) && !slices.ContainsFunc(kept, func(o *volume.Head) bool { return o.Hash() == h.Hash() }) {
			t.unkept = append(t.unkept, h)
		}
	}
	return t, nil
}

// giveHead has a peer keep a head, this node too.
func (e *engine) giveHead(ctx context.Context, p peer.ID, h *volume.Head) error {
	if p == e.self {
		_, err := e.keepHeads(h.Owner, string(e.self), h)
		return err
	}
	return e.call(ctx, p, askTimeout, func(s stream) error { return wire.PutHead(s, h.Encode()) })
}

// errManyTips is of a head that would be one too many to be kept.
var errManyTips = fmt.Errorf("%d heads are kept that nobody has merged", volume.MaxTips)

// keepHeads keeps heads of a volume, with those that are kept already and that
// none follows. Where that is more than can be kept none goes for another: what is
// new is refused, until the others have been merged.
func (e *engine) keepHeads(owner pack.Owner, from string, heads ...*volume.Head) (changed bool, err error) {
	return e.store.UpdateHeads(owner, from, func(have [][]byte) ([][]byte, error) {
		kept, err := e.decodeHeads(owner, have)
		if err != nil {
			e.log.Warn("damaged heads dropped", "volume", short8(owner), "err", err)
		}
		all := append(kept, heads...)
		tips := volume.Tips(all)
		for _, h := range all {
			if len(tips) == volume.MaxTips && !slices.ContainsFunc(tips, func(tip *volume.Head) bool { return tip.Hash() == h.Hash() || tip.Follows(h) }) {
				return nil, errManyTips
			}
		}
		return encodeHeads(tips), nil
	})
}

// publish gives a head to the peers that are to keep it, and returns without
// an error when enough of them do.
func (e *engine) publish(ctx context.Context, h *volume.Head) error {
	near, err := e.keepers(ctx, h.Owner)
	if len(near) == 0 {
		return fail(NoPeers, "start a node of this network, or check that this machine reaches one: 'p2pfs peers'", "no peer found that keeps heads: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var taken, unreached int
	var errs []error
	done := make(chan struct{}, 1)
	var wg sync.WaitGroup
	give := func(peers []peer.ID) {
		for _, p := range peers {
			wg.Go(func() {
				err := e.giveHead(ctx, p, h)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					taken++
				case silence(err) || errors.Is(err, errUnreached):
					unreached++
					fallthrough
				default:
					errs = append(errs, fmt.Errorf("%s: %w", short(p), err))
				}
				if taken == quorum(len(near), len(near)) {
					select {
					case done <- struct{}{}:
					default:
					}
				}
			})
		}
	}
	give(near)
	all := make(chan struct{})
	go func() { wg.Wait(); close(all) }()
	select {
	case <-all:
	case <-done:
		// The rest are to have it too, if they are not silent.
		late, stop := e.clock.After(headLinger)
		select {
		case <-all:
		case <-late:
		case <-ctx.Done():
		}
		stop()
	}
	mu.Lock()
	need := quorum(len(near), len(near)-unreached)
	short := need - taken
	mu.Unlock()
	if short > 0 && ctx.Err() == nil {
		e.giveFarther(ctx, h, near, short, give, wg.Wait)
	}
	gaveUp := context.Cause(ctx)
	cancel()
	wg.Wait()
	if taken >= need {
		return nil
	}
	if gaveUp != nil {
		return gaveUp
	}
	return fail(NoPeers, "try again when more peers are online: 'p2pfs peers'",
		"head %d of the volume: %d of %d peers keep it, %d are needed%s", h.Number, taken, len(near), need, because(errs))
}

// giveFarther gives a head to peers beyond the closest, until enough more have
// been asked.
func (e *engine) giveFarther(ctx context.Context, h *volume.Head, near []peer.ID, n int, give func([]peer.ID), wait func()) {
	var more []peer.ID
	seen := 0
	for p, err := range e.dir.Walk(ctx, h.Owner) {
		if err != nil || seen >= len(near)+headSpares || len(more) >= 2*n {
			break
		}
		seen++
		if !slices.Contains(near, p) && p != e.self {
			more = append(more, p)
		}
	}
	give(more)
	wait()
}

// Heads gives the heads of a volume that are kept here.
func (s *server) Heads(_ context.Context, _ string, owner pack.Owner) ([][]byte, error) {
	if !s.holder {
		return nil, nil
	}
	list, err := s.store.Heads(owner)
	return list, refusal(err)
}

// PutHead takes a head to keep, where this node is among those that do.
func (s *server) PutHead(ctx context.Context, from string, b []byte) error {
	h, err := volume.DecodeHead(b)
	if err != nil {
		return fmt.Errorf("%w: %w", wire.ErrProtocol, err)
	}
	if err := h.Verify(s.network); err != nil {
		return err
	}
	have, err := s.store.Heads(h.Owner)
	if err == nil && len(have) == 0 {
		err = s.keepsHeadsOf(ctx, h.Owner)
	}
	if err != nil {
		return refusal(err)
	}
	changed, err := s.keepHeads(h.Owner, from, h)
	if changed {
		s.log.Debug("new head of a volume", "volume", short8(h.Owner), "number", h.Number, "from", peer.ID(from))
	}
	switch {
	case errors.Is(err, store.ErrDenied):
		return wire.Refuse(wire.Quota, "too many volumes are kept")
	case errors.Is(err, errManyTips):
		return wire.Refuse(wire.Busy, "%v", err)
	}
	return refusal(err)
}

// keepsHeadsOf returns an error unless this node is among the peers that keep a
// volume's heads, or that stand in for them, as far as it knows.
func (s *server) keepsHeadsOf(ctx context.Context, owner pack.Owner) error {
	if !s.holder {
		return store.ErrNotFound
	}
	return s.near(ctx, owner, headKeepers+headSpares)
}

// passEvery says how often the heads of a volume are passed on: several times
// in the time after which a peer that is away counts as gone.
func passEvery(grace time.Duration) time.Duration {
	return min(max(cmp.Or(grace, DefaultGrace)/8, time.Second), time.Hour)
}

// passHeads passes on, until ctx ends, the heads of volumes that are kept here.
// In each round one of the keepers of a volume does it, another each time.
func (n *Node) passHeads(ctx context.Context, every time.Duration) error {
	for round := uint64(0); sleep(ctx, n.engine.clock, every) == nil; round++ {
		var owners []pack.Owner
		for owner, err := range n.store.Volumes(ctx) {
			if err != nil {
				n.log.Warn("volumes whose heads are kept not read", "err", err)
				break
			}
			owners = append(owners, owner)
		}
		for _, owner := range owners {
			if err := n.engine.passOn(ctx, owner, round); err != nil && ctx.Err() == nil {
				n.log.Debug("heads not passed on", "volume", short8(owner), "err", err)
			}
			if ctx.Err() != nil {
				break
			}
		}
	}
	return nil
}

// passOn brings the keepers of a volume's heads to the same tips, if it is this
// node's turn. A node that is no keeper any more drops them once all others
// have them.
func (e *engine) passOn(ctx context.Context, owner pack.Owner, round uint64) error {
	near, err := e.dir.Closest(ctx, owner, headKeepers)
	if err != nil {
		return err
	}
	turn := digest.Of(owner[:], binary.BigEndian.AppendUint64(nil, round))
	at := int(binary.BigEndian.Uint32(turn[:]) % uint32(max(len(near), 1)))
	keeper := slices.Contains(near, e.self)
	if len(near) == 0 || keeper && near[at] != e.self || !keeper && at%4 != 0 {
		return nil
	}
	kept, err := e.askHeads(ctx, e.self, owner)
	if err != nil {
		return err
	}
	answers := make([][]*volume.Head, len(near))
	errs := make([]error, len(near))
	var g errgroup.Group
	g.SetLimit(8)
	for i, p := range near {
		g.Go(func() error {
			answers[i], errs[i] = e.askHeads(ctx, p, owner)
			return nil
		})
	}
	g.Wait()
	all := slices.Clone(kept)
	for _, heads := range answers {
		all = append(all, heads...)
	}
	tips := volume.Tips(all)
	if _, err := e.keepHeads(owner, string(e.self), tips...); err != nil {
		return err
	}
	for i, p := range near {
		if errs[i] != nil || p == e.self {
			continue
		}
		g.Go(func() error {
			for _, h := range tips {
				if slices.ContainsFunc(answers[i], func(o *volume.Head) bool { return o.Hash() == h.Hash() }) {
					continue
				}
				if err := e.giveHead(ctx, p, h); err != nil {
					errs[i] = err
				}
			}
			return nil
		})
	}
	g.Wait()
	if keeper || len(near) < headKeepers || errors.Join(errs...) != nil {
		return errors.Join(errs...)
	}
	_, err = e.store.UpdateHeads(owner, string(e.self), func(have [][]byte) ([][]byte, error) {
		if slices.EqualFunc(have, sortedHeads(tips), slices.Equal) {
			return nil, nil
		}
		return have, nil // something came meanwhile
	})
	return err
}

// sortedHeads gives heads in the order in which the store has them.
func sortedHeads(heads []*volume.Head) [][]byte {
	list := encodeHeads(heads)
	slices.SortFunc(list, slices.Compare)
	return list
}
