package repair

import "slices"

// Threshold gives the number of live shards at or below which repair is due
// after the grace period, for a pack's own k′ and m: min(n−1, k′ + ⌈m/2⌉).
// docs/design.md#repair has the model behind it.
func Threshold(k, m int) int { return min(k+m-1, k+(m+1)/2) }

// Urgent gives the number of live shards at or below which repair is due at
// once, whether those that are missing may come back or not: k′ + ⌊m/6⌋, but
// never n.
func Urgent(k, m int) int { return min(k+m-1, k+m/6) }

// Presence says whether a holder's shard counts.
type Presence uint8

// The kinds of presence, the better the higher.
const (
	Gone    Presence = iota // absent for longer than the grace, or it has failed, or says that it has none
	Absent                  // not heard of, for less than the grace
	Present                 // heard of not long ago
)

// Sight is a holder of a shard of a pack, as it is seen now.
type Sight struct {
	Shard    int
	Peer     string
	Presence Presence
}

// Verdict is what is to be done about a pack.
type Verdict struct {
	Live    int   // distinct shards on distinct peers that are present
	Counted int   // those, and those of peers absent within the grace
	Due     bool  // repair is due
	Urgent  bool  // it is due at once
	Lost    bool  // fewer than k′ shards are left, absent ones counted: nobody can restore it now
	Missing []int // the shards that a repair restores now, in order: those not counted; where it is urgent those not live
}

// Diagnose says how a pack of k′ = k and m is, of which seen are the holders
// known. It is a pure function of its arguments.
//
// A shard counts once however many hold it, a peer once however many shards it
// has: two shards on one peer are one loss.
func Diagnose(k, m int, seen []Sight) Verdict { return diagnose(k, m, Threshold(k, m), seen) }

// diagnose does that for any threshold.
func diagnose(k, m, threshold int, seen []Sight) Verdict {
	n := k + m
	live, counted := match(n, seen, Present), match(n, seen, Absent)
	v := Verdict{Live: matched(live), Counted: matched(counted)}
	v.Lost = v.Counted < k
	v.Due = v.Counted <= threshold
	v.Urgent = v.Live <= Urgent(k, m)
	with := counted
	if v.Urgent {
		v.Due, with = true, live
	}
	if !v.Due {
		return v
	}
	for s, at := range with {
		if at < 0 {
			v.Missing = append(v.Missing, s)
		}
	}
	return v
}

// Match gives a greatest set of distinct shards below n on distinct peers, of
// those at least as present as least: which peer counts for which shard. It is
// a greatest matching in the bipartite graph of shards and holders, by
// augmenting paths, taken in the order of shards and, for each, of seen.
func Match(n int, seen []Sight, least Presence) map[int]string {
	of := match(n, seen, least)
	out := make(map[int]string, n)
	for s, at := range of {
		if at >= 0 {
			out[s] = seen[at].Peer
		}
	}
	return out
}

// matched is how many shards count.
func matched(of []int) (n int) {
	for _, at := range of {
		if at >= 0 {
			n++
		}
	}
	return n
}

// match gives for each shard which of seen counts for it, or -1. It is called
// for every pack by every review, and makes no map.
func match(n int, seen []Sight, least Presence) []int {
	of := make([]int, 2*n+len(seen)) // shard -> the sight that counts
	for i := range of {
		of[i] = -1
	}
	of, first, next := of[:n:n], of[n:2*n], of[2*n:] // the holders of each shard, in the order of seen
	for i := len(seen) - 1; i >= 0; i-- {
		if s := seen[i]; s.Presence >= least && s.Shard >= 0 && s.Shard < n {
			next[i], first[s.Shard] = first[s.Shard], i
		}
	}
	busy := func(peer string) int { // the shard that it counts for
		return slices.IndexFunc(of, func(at int) bool { return at >= 0 && seen[at].Peer == peer })
	}
	var tried []string
	var assign func(shard int) bool
	assign = func(shard int) bool {
		for i := first[shard]; i >= 0; i = next[i] {
			if busy(seen[i].Peer) < 0 {
				of[shard] = i
				return true
			}
		}
		for i := first[shard]; i >= 0; i = next[i] {
			if p := seen[i].Peer; !slices.Contains(tried, p) {
				tried = append(tried, p)
				other := busy(p)
				if assign(other) {
					of[shard] = i
					return true
				}
			}
		}
		return false
	}
	for shard := range n {
		tried = tried[:0]
		assign(shard)
	}
	return of
}
