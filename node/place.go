package node

import (
	"net/netip"
	"slices"

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

	// zones are what it is likely to be lost together with: the zone that its
	// operator named and the group of its public address. Where nothing is
	// known it stands for itself.
	zones []string
}

// zonesOf names the zones of a peer for placement; either may be unknown.
func zonesOf(named, group string) []string {
	var zones []string
	if named != "" {
		zones = append(zones, "zone "+named)
	}
	if group != "" {
		zones = append(zones, "net "+group)
	}
	return zones
}

// addressGroup is the part of a public address that one provider or one place
// is likely to own, "" of any other address: /16 of IPv4, /32 of IPv6, as in
// go-libp2p-kbucket's peerdiversity.
func addressGroup(ip netip.Addr) string {
	ip = ip.Unmap()
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return ""
	}
	bits := 32
	if ip.Is4() {
		bits = 16
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return ""
	}
	return p.String()
}

// crowd counts chosen peers by zone.
type crowd map[string]int

func (n crowd) add(c candidate, by int) {
	for _, z := range c.zones {
		n[z] += by
	}
}

// room says whether each zone of c has fewer than limit.
func (n crowd) room(c candidate, limit int) bool {
	return !slices.ContainsFunc(c.zones, func(z string) bool { return n[z] >= limit })
}

// place chooses up to n of the candidates, which stand in order of preference:
// at most perZone in one zone, as long as others are to be had. The rest
// follow, in the order in which they would be taken if a chosen one refuses.
// It is a pure function of its arguments.
func place(candidates []candidate, n, perZone int) (chosen, spare []candidate) {
	perZone = max(perZone, 1)
	in := make(crowd)
	var crowded []candidate
	for _, c := range candidates {
		switch {
		case !in.room(c, perZone):
			crowded = append(crowded, c)
		case len(chosen) < n:
			chosen = append(chosen, c)
			in.add(c, 1)
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
