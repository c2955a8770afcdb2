package volume

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const timeForm = "2006-01-02 15:04"

func at(t testing.TB, s string) time.Time {
	t.Helper()
	when, err := time.Parse(timeForm, s)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

// snapshotsAt gives snapshots of those times, numbered from 1.
func snapshotsAt(t testing.TB, times ...string) []Past {
	var past []Past
	for i, s := range times {
		past = append(past, Past{Number: uint64(i + 1), Time: at(t, s), Snapshot: true})
	}
	return past
}

// kept gives those of past that stay.
func kept(past []Past, keep []bool) []Past {
	var rest []Past
	for i, p := range past {
		if keep[i] {
			rest = append(rest, p)
		}
	}
	return rest
}

func timesOf(past []Past) []string {
	var times []string
	for _, p := range past {
		times = append(times, p.Time.UTC().Format(timeForm))
	}
	return times
}

func TestPolicyKeepsWhatResticWould(t *testing.T) {
	// From the documentation of restic's forget: one every Sunday.
	sundays := []string{
		"2019-09-01 11:00", "2019-09-08 11:00", "2019-09-15 11:00", "2019-09-22 11:00", "2019-09-29 11:00", "2019-10-06 11:00",
		"2019-10-13 11:00", "2019-10-20 11:00", "2019-10-27 11:00", "2019-11-03 11:00", "2019-11-10 11:00", "2019-11-17 11:00",
	}
	days := []string{"2026-05-01 08:00", "2026-05-02 08:00", "2026-05-02 11:00", "2026-05-04 09:00", "2026-05-05 10:00"}
	hours := []string{
		"2026-05-03 22:10", "2026-05-03 22:50", "2026-05-03 23:30", "2026-05-04 00:30",
		"2026-05-04 08:05", "2026-05-04 08:06", "2026-05-04 10:00", "2026-05-04 10:59",
	}
	// Monday 2025-12-29 is of the first ISO week of 2026.
	newYear := []string{"2025-12-21 12:00", "2025-12-22 12:00", "2025-12-28 12:00", "2025-12-29 12:00", "2025-12-31 12:00", "2026-01-04 12:00", "2026-01-05 12:00"}
	for _, c := range []struct {
		name   string
		times  []string
		policy Policy
		want   []string
	}{
		{"daily of Sundays", sundays, Policy{Daily: 4}, sundays[8:]},
		{"weekly of Sundays", sundays, Policy{Weekly: 3}, sundays[9:]},
		{"monthly of Sundays", sundays, Policy{Monthly: 2}, []string{"2019-10-27 11:00", "2019-11-17 11:00"}},
		{"monthly, and the oldest", sundays, Policy{Monthly: 4}, []string{"2019-09-01 11:00", "2019-09-29 11:00", "2019-10-27 11:00", "2019-11-17 11:00"}},
		{"monthly, as many as there are", sundays, Policy{Monthly: 3}, []string{"2019-09-29 11:00", "2019-10-27 11:00", "2019-11-17 11:00"}},
		{"yearly, and the oldest", sundays, Policy{Yearly: 2}, []string{"2019-09-01 11:00", "2019-11-17 11:00"}},
		{"yearly", sundays, Policy{Yearly: 1}, sundays[11:]},
		{"last", sundays, Policy{Last: 2}, sundays[10:]},
		{"last, more than there are", sundays, Policy{Last: 20}, sundays},
		{"days without are not counted", days, Policy{Daily: 4}, []string{days[0], days[2], days[3], days[4]}},
		{"daily", days, Policy{Daily: 3}, days[2:]},
		{"daily, and the oldest", days, Policy{Daily: 5}, []string{days[0], days[2], days[3], days[4]}},
		{"hourly", hours, Policy{Hourly: 3}, []string{hours[3], hours[5], hours[7]}},
		{"hourly and daily", hours, Policy{Hourly: 2, Daily: 2}, []string{hours[2], hours[5], hours[7]}},
		{"last and daily", hours, Policy{Last: 2, Daily: 2}, []string{hours[2], hours[6], hours[7]}},
		{"all at once", hours, Policy{Last: 1, Hourly: 1, Daily: 1, Weekly: 1, Monthly: 1, Yearly: 1}, hours[7:]},
		{"weekly over the new year", newYear, Policy{Weekly: 3}, []string{"2025-12-28 12:00", "2026-01-04 12:00", "2026-01-05 12:00"}},
		{"yearly over the new year", newYear, Policy{Yearly: 2}, []string{"2025-12-31 12:00", "2026-01-05 12:00"}},
		{"within", hours, Policy{Within: 2*time.Hour + 55*time.Minute}, hours[4:]},
		{"within, just not", hours, Policy{Within: 2*time.Hour + 53*time.Minute}, hours[6:]},
		{"within nothing", hours, Policy{Within: 1}, hours[7:]},
		{"within and monthly", sundays, Policy{Within: 10 * 24 * time.Hour, Monthly: 2}, []string{"2019-10-27 11:00", "2019-11-10 11:00", "2019-11-17 11:00"}},
		{"counts below zero", sundays, Policy{Last: 1, Daily: -1, Within: -1}, sundays[11:]},
		{"one", sundays[:1], Policy{Hourly: 9}, sundays[:1]},
		{"none", nil, Policy{Last: 1}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			past := snapshotsAt(t, c.times...)
			got := timesOf(kept(past, c.policy.Keep(past, at(t, "2026-11-23 00:00"))))
			if d := cmp.Diff(got, c.want); d != "" {
				t.Errorf("got -, want +:\n%s", d)
			}
		})
	}
}

// Also from restic's documentation, a hundred years of a snapshot a day.
func TestPolicyOfAHundredYears(t *testing.T) {
	var past []Past
	for day := at(t, "2000-01-01 12:00"); day.Year() < 2100; day = day.AddDate(0, 0, 1) {
		past = append(past, Past{Number: uint64(len(past) + 1), Time: day, Snapshot: true})
	}
	p := Policy{Daily: 7, Weekly: 5, Monthly: 12, Yearly: 75}
	got := timesOf(kept(past, p.Keep(past, at(t, "2100-01-01 00:00"))))
	// The last day is a Thursday: of the weeks three Sundays come to the days,
	// of the months eleven, of the years 74.
	if len(got) != 7+3+11+74 {
		t.Errorf("got %d:\n%s", len(got), strings.Join(got, "\n"))
	}
	for _, want := range []string{"2099-12-25 12:00", "2099-12-20 12:00", "2099-12-06 12:00", "2099-01-31 12:00", "2025-12-31 12:00"} {
		if !slices.Contains(got, want) {
			t.Errorf("without %s", want)
		}
	}
}

func TestDaysBeginWhereNowIs(t *testing.T) {
	past := snapshotsAt(t, "2026-05-03 12:00", "2026-05-03 23:30", "2026-05-04 00:30", "2026-05-04 21:30", "2026-05-04 22:30")
	now := at(t, "2026-05-05 00:00")
	for _, c := range []struct {
		zone int // hours east
		want []string
	}{
		{0, []string{"2026-05-03 23:30", "2026-05-04 22:30"}},
		{2, []string{"2026-05-04 21:30", "2026-05-04 22:30"}},
		{-2, []string{"2026-05-04 00:30", "2026-05-04 22:30"}},
	} {
		in := now.In(time.FixedZone("", c.zone*3600))
		got := timesOf(kept(past, Policy{Daily: 2}.Keep(past, in)))
		if d := cmp.Diff(got, c.want); d != "" {
			t.Errorf("%+d: got -, want +:\n%s", c.zone, d)
		}
	}
}

func TestWhatAPolicyIsNotAboutStays(t *testing.T) {
	past := snapshotsAt(t, "2026-05-01 12:00", "2026-05-02 12:00", "2026-05-03 12:00", "2026-05-04 12:00", "2099-01-01 12:00")
	past[0].Snapshot, past[3].Snapshot = false, false
	now := at(t, "2026-05-05 00:00")
	for _, p := range []Policy{{Last: 1}, {Daily: 1}, {Within: time.Hour}} {
		if d := cmp.Diff(p.Keep(past, now), []bool{true, false, true, true, true}); d != "" {
			t.Errorf("%v: got -, want +:\n%s", p, d)
		}
	}
	for _, p := range []Policy{{}, {Last: -1}} {
		if !p.Empty() || slices.Contains(p.Keep(past, now), false) {
			t.Errorf("%v: not empty, or it drops something", p)
		}
	}
	for _, p := range []Policy{{Last: 1}, {Hourly: 1}, {Daily: 1}, {Weekly: 1}, {Monthly: 1}, {Yearly: 1}, {Within: 1}} {
		if p.Empty() {
			t.Errorf("%v: empty", p)
		}
	}
}

// Of snapshots made in one millisecond that of the later head is newer, in
// whatever order they come.
func TestOrderOfHistoryDoesNotMatter(t *testing.T) {
	past := snapshotsAt(t, "2026-05-01 12:00", "2026-05-01 12:00", "2026-05-01 12:00")
	slices.Reverse(past)
	if d := cmp.Diff(Policy{Last: 2}.Keep(past, past[0].Time), []bool{true, true, false}); d != "" {
		t.Errorf("got -, want +:\n%s", d)
	}
}

// someHistory is a history over some weeks, in order, with a clock that is
// mostly right.
func someHistory(t *rapid.T) []Past {
	when := time.UnixMilli(1_794_000_000_000)
	var past []Past
	for i := range rapid.IntRange(0, 60).Draw(t, "heads") {
		step := rapid.SampledFrom([]time.Duration{0, time.Minute, 20 * time.Minute, time.Hour, 7 * time.Hour, 26 * time.Hour, 200 * time.Hour, -3 * time.Hour}).Draw(t, "step")
		when = when.Add(step)
		past = append(past, Past{Number: uint64(i + 1), Time: when, Snapshot: rapid.Bool().Draw(t, "snapshot")})
	}
	return past
}

func somePolicy(t *rapid.T) Policy {
	n := rapid.IntRange(0, 8)
	return Policy{
		Last: n.Draw(t, "last"), Hourly: n.Draw(t, "hourly"), Daily: n.Draw(t, "daily"), Weekly: n.Draw(t, "weekly"),
		Monthly: n.Draw(t, "monthly"), Yearly: n.Draw(t, "yearly"), Within: time.Duration(n.Draw(t, "within")) * 13 * time.Hour,
	}
}

// someNow is a time about the end of the history, or after it.
func someNow(t *rapid.T, past []Past) time.Time {
	now := time.UnixMilli(1_794_000_000_000)
	if len(past) > 0 {
		now = past[len(past)-1].Time
	}
	return now.Add(time.Duration(rapid.IntRange(-300, 3000).Draw(t, "minutes after")) * time.Minute)
}

func TestPolicyProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		past, p := someHistory(t), somePolicy(t)
		now := someNow(t, past)
		keep := p.Keep(past, now)
		rest := kept(past, keep)
		if again := p.Keep(rest, now); slices.Contains(again, false) {
			t.Errorf("%v drops again", p)
		}
		more := p
		for _, count := range []*int{&more.Last, &more.Hourly, &more.Daily, &more.Weekly, &more.Monthly, &more.Yearly} {
			*count += rapid.IntRange(0, 3).Draw(t, "more")
		}
		more.Within += time.Duration(rapid.IntRange(0, 48).Draw(t, "hours more")) * time.Hour
		newest, n := -1, 0
		for i, k := range more.Keep(past, now) {
			if keep[i] && !k && !p.Empty() {
				t.Errorf("%v keeps head %d, %v does not", p, past[i].Number, more)
			}
			if past[i].Snapshot && !past[i].Time.After(now) {
				if newest < 0 || !past[i].Time.Before(past[newest].Time) {
					newest = i
				}
				if keep[i] {
					n++
				}
			}
		}
		if newest >= 0 && !keep[newest] {
			t.Errorf("%v drops the newest", p)
		}
		if most := p.Last + p.Hourly + p.Daily + p.Weekly + p.Monthly + p.Yearly; p.Within == 0 && !p.Empty() && n > most {
			t.Errorf("%v keeps %d snapshots", p, n)
		}
	})
}

// commits gives n commits, one every so often, the last at the time end.
func commits(n int, every time.Duration, end time.Time) []Past {
	past := make([]Past, n)
	for i := range past {
		past[i] = Past{Number: uint64(i + 1), Time: end.Add(-every * time.Duration(n-1-i))}
	}
	return past
}

func TestCommitsThinOut(t *testing.T) {
	now := at(t, "2026-05-31 10:30")
	for _, c := range []struct {
		name  string
		times []string
		want  []string
	}{
		{"the last hour", []string{"2026-05-31 09:31", "2026-05-31 09:32", "2026-05-31 10:00", "2026-05-31 10:29"},
			[]string{"2026-05-31 09:31", "2026-05-31 09:32", "2026-05-31 10:00", "2026-05-31 10:29"}},
		{"just not the last hour", []string{"2026-05-31 09:29", "2026-05-31 09:30", "2026-05-31 09:31"}, []string{"2026-05-31 09:31"}},
		{"hourly", []string{"2026-05-31 07:00", "2026-05-31 07:59", "2026-05-31 08:00", "2026-05-31 08:10"}, []string{"2026-05-31 07:59", "2026-05-31 08:10"}},
		{"a day ago", []string{"2026-05-30 10:29", "2026-05-30 10:31", "2026-05-30 10:40", "2026-05-30 11:00"}, []string{"2026-05-30 10:40", "2026-05-30 11:00"}},
		{"daily", []string{"2026-05-10 00:00", "2026-05-10 23:59", "2026-05-11 00:00", "2026-05-11 00:01"}, []string{"2026-05-10 23:59", "2026-05-11 00:01"}},
		{"30 days ago", []string{"2026-04-30 12:00", "2026-05-01 10:30", "2026-05-01 10:31", "2026-05-01 10:32"}, []string{"2026-05-01 10:32"}},
		{"long ago", []string{"2020-01-01 00:00", "2026-05-01 10:30"}, nil},
		{"from after now", []string{"2026-05-31 10:29", "2099-01-01 00:00", "2026-05-31 10:30"}, []string{"2026-05-31 10:29", "2099-01-01 00:00", "2026-05-31 10:30"}},
		{"the last of an hour has the highest number", []string{"2026-05-31 07:50", "2026-05-31 07:10"}, []string{"2026-05-31 07:10"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			past := snapshotsAt(t, c.times...)
			for i := range past {
				past[i].Snapshot = false
			}
			got := timesOf(kept(past, Thin(past, now)))
			if d := cmp.Diff(got, c.want); d != "" {
				t.Errorf("got -, want +:\n%s", d)
			}
			for i := range past {
				past[i].Snapshot = true
			}
			if slices.Contains(Thin(past, now), false) {
				t.Error("a snapshot goes")
			}
		})
	}
}

func TestACommitAMinuteLeavesFewHeads(t *testing.T) {
	for _, c := range []struct {
		name        string
		n           int
		every       time.Duration
		least, most int
	}{
		{"half an hour", 30, time.Minute, 30, 30},
		{"a day", 24 * 60, time.Minute, 50, 60},
		{"a day, each second", 24 * 3600, time.Second, 50, 60},
		{"40 days", 40 * 24 * 60, time.Minute, 80, 90},
		{"40 days, each hour", 40 * 24, time.Hour, 50, 60},
	} {
		for i := range 5 { // wherever in an hour and a day that ends
			now := time.UnixMilli(1_794_000_000_000).Add(time.Duration(i) * 301 * time.Minute)
			past := commits(c.n, c.every, now)
			if n := len(kept(past, Thin(past, now))); n < c.least || n > c.most {
				t.Fatalf("%s: got %d, want %d to %d", c.name, n, c.least, c.most)
			}
		}
	}
	// Those whose clock is wrong do not add up either, nor do they push out
	// those that come later.
	now := time.UnixMilli(1_794_000_000_000)
	past := commits(1000, time.Minute, now.AddDate(1, 0, 0))
	for i, p := range commits(maxRecent, time.Minute, now) {
		p.Number = uint64(len(past) + 1)
		past = append(past, p)
		if keep := Thin(past, now); !slices.Equal(keep[1000:], slices.Repeat([]bool{true}, i+1)) || len(kept(past, keep)) > maxRecent {
			t.Fatalf("after %d: got %d", i, len(kept(past, keep)))
		}
	}
}

func TestThinningLittleByLittleIsThinning(t *testing.T) {
	now := at(t, "2026-05-01 00:17")
	var all, past []Past
	for i := range 4 * 24 * 60 / 7 {
		now = now.Add(7 * time.Minute)
		p := Past{Number: uint64(i + 1), Time: now}
		all, past = append(all, p), append(past, p)
		past = kept(past, Thin(past, now))
	}
	if d := cmp.Diff(timesOf(past), timesOf(kept(all, Thin(all, now)))); d != "" {
		t.Errorf("little by little -, at once +:\n%s", d)
	}
	later := now.AddDate(0, 0, 20)
	if n := len(kept(past, Thin(past, later))); n != 5 {
		t.Errorf("20 days later: got %d, want one of each day", n)
	}
}

func TestThinProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		past := someHistory(t)
		now := someNow(t, past)
		keep := Thin(past, now)
		rest := kept(past, keep)
		if slices.Contains(Thin(rest, now), false) {
			t.Error("it drops again")
		}
		for i := range past {
			if past[i].Snapshot && !keep[i] {
				t.Error("a snapshot goes")
			}
		}
		// What goes has one of its day left, while it is not long ago.
		for i, p := range past {
			day := func(q Past) bool {
				return !q.Snapshot && q.Time.Truncate(24*time.Hour).Equal(p.Time.Truncate(24*time.Hour))
			}
			if !keep[i] && now.Sub(p.Time) < thinDaily && !p.Time.After(now) && !slices.ContainsFunc(rest, day) {
				t.Errorf("head %d goes, and none of its day stays", p.Number)
			}
		}
		order := rapid.Permutation(past).Draw(t, "order")
		again := kept(order, Thin(order, now))
		slices.SortFunc(again, func(p, q Past) int { return p.compare(&q) })
		if d := cmp.Diff(timesOf(again), timesOf(rest)); d != "" {
			t.Errorf("in another order -, before +:\n%s", d)
		}
	})
}
