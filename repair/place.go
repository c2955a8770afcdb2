package repair

import "slices"

// Candidate is a peer that may hold a shard.
type Candidate struct {
	Peer string

	// Zones are what it is likely to be lost together with: the zone that its
	// operator named and the group of its public address. Where nothing is
	// known it stands for itself.
	Zones []string
}

// Zones names the zones of a peer for placement; either may be unknown.
func Zones(named, group string) []string {
	var zones []string
	if named != "" {
		zones = append(zones, "zone "+named)
	}
	if group != "" {
		zones = append(zones, "net "+group)
	}
	return zones
}

// Crowd counts peers by zone.
type Crowd map[string]int

// Add counts c by more (or, negative, fewer) times.
func (n Crowd) Add(c Candidate, by int) {
	for _, z := range c.Zones {
		n[z] += by
	}
}

// Room says whether each zone of c has fewer than limit.
func (n Crowd) Room(c Candidate, limit int) bool {
	return !slices.ContainsFunc(c.Zones, func(z string) bool { return n[z] >= limit })
}

// Place chooses up to n of the candidates, which stand in order of preference,
// beside those that are counted in taken (nil: none) already: at most perZone
// in one zone, as long as others are to be had. The rest follow, in the order
// in which they would be taken if a chosen one refuses. It is a pure function
// of its arguments.
func Place(candidates []Candidate, n, perZone int, taken Crowd) (chosen, spare []Candidate) {
	perZone = max(perZone, 1)
	in := make(Crowd)
	for z, k := range taken {
		in[z] = k
	}
	var crowded []Candidate
	for _, c := range candidates {
		switch {
		case !in.Room(c, perZone):
			crowded = append(crowded, c)
		case len(chosen) < n:
			chosen = append(chosen, c)
			in.Add(c, 1)
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
