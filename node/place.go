package node

import (
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/erasure"
)

// steps are the redundancies from which automatic redundancy takes the largest
// for which enough peers accept: docs/design.md#redundancy has the model
// behind them.
var steps = []erasure.Scheme{{K: 8, M: 12}, {K: 4, M: 6}, {K: 2, M: 3}, {K: 1, M: 2}, {K: 1, M: 1}, {K: 1, M: 0}}

// stepFor gives the largest step for which n peers are enough, and false where
// n is 0.
func stepFor(n int) (erasure.Scheme, bool) {
	for _, s := range steps {
		if s.N() <= n {
			return s, true
		}
	}
	return erasure.Scheme{}, false
}

// metaScheme is the scheme of metadata packs beside data packs of scheme s:
// the same n with k halved, rounded up.
func metaScheme(s erasure.Scheme) erasure.Scheme {
	k := (s.K + 1) / 2
	return erasure.Scheme{K: k, M: s.N() - k}
}

// threshold gives the number of live shards at or below which repair is due
// after the grace period, for a pack's own k′ and m: min(n−1, k′ + ⌈m/2⌉).
// A put that makes no more than this durable has failed.
func threshold(k, m int) int {
	return min(k+m-1, k+(m+1)/2)
}

// candidate is a peer that may hold a shard.
type candidate struct {
	peer peer.ID
	zone string // empty: unknown, counts as a zone of its own
}

// place chooses up to n of the candidates, which stand in order of preference:
// at most perZone in one zone, as long as others are to be had. The rest
// follow, in the order in which they would be taken if a chosen one refuses.
// It is a pure function of its arguments.
func place(candidates []candidate, n, perZone int) (chosen, spare []candidate) {
	perZone = max(perZone, 1)
	inZone := make(map[string]int)
	var crowded []candidate
	for _, c := range candidates {
		switch {
		case c.zone != "" && inZone[c.zone] >= perZone:
			crowded = append(crowded, c)
		case len(chosen) < n:
			chosen = append(chosen, c)
			inZone[c.zone]++
		default:
			spare = append(spare, c)
		}
	}
	for _, c := range crowded {
		if len(chosen) < n {
			chosen = append(chosen, c)
		} else {
			spare = append(spare, c)
		}
	}
	return chosen, spare
}
