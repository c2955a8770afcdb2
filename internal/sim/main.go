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
	"time"
)

func main() {
	seed := flag.Uint64("seed", 1, "the seed of one year")
	log := flag.String("log", "", "log the lines of keepers that have this in them")
	flag.Parse()
	c := stated(*seed)
	if *log != "" {
		c.log, c.only = os.Stderr, *log
	}
	t := time.Now()
	r := theYear(c)
	fmt.Printf("%+v\n%v\n", *r, time.Since(t))
}
