package node

import (
	"net/netip"

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
