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
func Diagnose(k, m int, seen []Sight) Verdict {
	n := k + m
	live, counted := Match(n, seen, Present), Match(n, seen, Absent)
	v := Verdict{Live: len(live), Counted: len(counted)}
	v.Lost = v.Counted < k
	v.Due = v.Counted <= Threshold(k, m)
	v.Urgent = v.Live <= Urgent(k, m)
	with := counted
	if v.Urgent {
		v.Due, with = true, live
	}
	if !v.Due {
		return v
	}
	for s := range n {
		if _, ok := with[s]; !ok {
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
	holders := make([][]string, n)
	for _, s := range seen {
		if s.Presence >= least && s.Shard >= 0 && s.Shard < n {
			holders[s.Shard] = append(holders[s.Shard], s.Peer)
		}
	}
	of := make(map[string]int, n) // peer -> shard
	var tried []string
	var assign func(shard int) bool
	assign = func(shard int) bool {
		for _, p := range holders[shard] {
			if _, busy := of[p]; !busy {
				of[p] = shard
				return true
			}
		}
		for _, p := range holders[shard] {
			if slices.Contains(tried, p) {
				continue
			}
			tried = append(tried, p)
			if assign(of[p]) {
				of[p] = shard
				return true
			}
		}
		return false
	}
	for shard := range n {
		tried = tried[:0]
		assign(shard)
	}
	out := make(map[int]string, len(of))
	for p, s := range of {
		out[s] = p
	}
	return out
}
