package volume

import (
	"cmp"
	"slices"
	"time"
)

// Policy says which snapshots stay when a volume is pruned. The options add up,
// and each means what it does to forget of restic: of the newest so many hours,
// days, ISO weeks, months and years that have a snapshot, the last one stays.
// Where there are fewer than asked for, the oldest snapshot stays too, so that
// history is not cut short while it grows.
type Policy struct {
	Last    int // the newest so many
	Hourly  int
	Daily   int
	Weekly  int
	Monthly int
	Yearly  int
	Within  time.Duration // those made within that before the newest
}

// Empty reports whether p asks for nothing. What the user then meant is not
// known, so everything stays.
func (p Policy) Empty() bool {
	return max(p.Last, p.Hourly, p.Daily, p.Weekly, p.Monthly, p.Yearly) <= 0 && p.Within <= 0
}

// Keep tells which of past stay under the policy at the time now, in whose
// location hours, days and so on begin. Those that are no snapshots stay and
// do not count: [Thin] decides on them. So do snapshots from after now: a
// clock was wrong, and whose it was is not known. Unless there are only such,
// at least the newest snapshot is among those that stay.
func (p Policy) Keep(past []Past, now time.Time) []bool {
	keep := make([]bool, len(past))
	var order []int // of the snapshots to decide on, newest first
	for i := range past {
		keep[i] = p.Empty() || !past[i].Snapshot || past[i].Time.After(now)
		if !keep[i] {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(i, j int) int {
		return cmp.Or(past[j].Time.Compare(past[i].Time), past[j].compare(&past[i]))
	})
	rules := []rule{
		{left: p.Hourly, period: func(t time.Time) period { return period{t.Year(), int(t.Month()), t.Day(), t.Hour()} }},
		{left: p.Daily, period: func(t time.Time) period { return period{t.Year(), int(t.Month()), t.Day()} }},
		{left: p.Weekly, period: func(t time.Time) period { y, w := t.ISOWeek(); return period{y, w} }},
		{left: p.Monthly, period: func(t time.Time) period { return period{t.Year(), int(t.Month())} }},
		{left: p.Yearly, period: func(t time.Time) period { return period{t.Year()} }},
	}
	for n, i := range order {
		t := past[i].Time.In(now.Location())
		keep[i] = n < p.Last || p.Within > 0 && t.After(past[order[0]].Time.Add(-p.Within))
		for r := range rules {
			if rules[r].keep(t, n == len(order)-1) {
				keep[i] = true
			}
		}
	}
	return keep
}

// rule keeps the last snapshot of each of so many periods.
type rule struct {
	left   int
	period func(time.Time) period
	last   period // of the last that was kept; zero: none
}

// period names an hour or a longer one.
type period [4]int

// keep is asked about one snapshot after the other, the newest first.
func (r *rule) keep(t time.Time, oldest bool) bool {
	if r.left <= 0 {
		return false
	}
	p := r.period(t)
	if p == r.last && !oldest {
		return false
	}
	r.last = p
	r.left--
	return true
}

// How long commits stay, see [Thin].
const (
	thinAll    = time.Hour
	thinHourly = 24 * time.Hour
	thinDaily  = 30 * 24 * time.Hour

	// maxRecent is how many commits of the last hour stay, so that with those of
	// the day there are no more than about 60 whatever a mount does.
	maxRecent = 30
)

// Thin tells which of past stay at the time now without being asked for.
// Snapshots do. Of the others, which are commits, there stay those of the last
// hour, though only the newest 30; for a day the newest of each hour; and for
// 30 days the newest of each day, in UTC. The newest is the one with the highest
// number, whatever the clocks were; one from after now counts as from now.
func Thin(past []Past, now time.Time) []bool {
	keep := make([]bool, len(past))
	var order []int // of the commits, newest first
	for i := range past {
		keep[i] = past[i].Snapshot
		if !keep[i] {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(i, j int) int { return past[j].compare(&past[i]) })
	recent := 0
	hours, days := make(map[int64]bool), make(map[int64]bool)
	for _, i := range order {
		t := past[i].Time
		if t.After(now) {
			t = now
		}
		age := now.Sub(t)
		if age < thinAll && recent < maxRecent {
			recent++
			keep[i] = true
		}
		if hour := t.Truncate(time.Hour).Unix(); age < thinHourly && !hours[hour] {
			hours[hour] = true
			keep[i] = true
		}
		if day := t.Truncate(24 * time.Hour).Unix(); age < thinDaily && !days[day] {
			days[day] = true
			keep[i] = true
		}
	}
	return keep
}
