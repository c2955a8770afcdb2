// Command sim is a simulated world: peers with clocks, disks and a network of
// its own, all in memory, in which years pass in a second. What watches,
// audits, repairs and places in it is package repair itself, no copy and no
// model of it; packs are really coded, hashed and signed. Peers come and go,
// disks die and rot, zones are cut off, some peers lie, as docs/churn.md has
// it. An oracle that looks at all disks tells whether the invariants hold.
//
// The tests of this package are the proof that repair does what it should. The
// command makes the tables of docs/repair.md:
//
//	go run ./internal/sim -curve    loss and traffic against threshold and grace
//	go run ./internal/sim -lazy     lazy repair against eager
//	go run ./internal/sim -watch    what watching costs
//	go run ./internal/sim -seed 7   one year, with its log
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
)

func main() {
	curves := flag.Bool("curve", false, "write loss and traffic against threshold and grace")
	lazily := flag.Bool("lazy", false, "write lazy repair against eager")
	watching := flag.Bool("watch", false, "write what watching costs")
	seeds := flag.Int("seeds", 20, "how many years a cell of a table is made of")
	rate := flag.Float64("rate", 1, "for -curve: how many times the losses of docs/churn.md")
	seed := flag.Uint64("seed", 1, "the seed of one year")
	packs := flag.Int("packs", 12, "how many packs there are in it, at most 12")
	log := flag.String("log", "", "log the lines of its keepers that have this in them")
	flag.Parse()
	debug.SetGCPercent(400)
	switch {
	case *curves:
		curve(os.Stdout, *seeds, *rate)
	case *lazily:
		lazy(os.Stdout, *seeds)
	case *watching:
		watch(os.Stdout, []int{10, 30, 100, 300, 1000}, []int{1, 10, 100})
	default:
		c := stated(*seed)
		c.packs = *packs
		if *log != "" {
			c.log, c.only = os.Stderr, *log
		}
		r := theYear(c)
		r.write(os.Stdout)
		var t total
		t.add(r)
		fmt.Println(&t)
		if r.failed() {
			os.Exit(1)
		}
	}
}
