// Command oracle says how safe packs really are: it opens the stores of nodes
// that do not run, reads every block of every shard, and prints for each pack
// how many losses it survives, worst first. It is the judge of 'p2pfs health'.
//
//	go run ./internal/cmd/oracle [--json] HOME...
//
// HOME is what the nodes were given as --home, .testnet/node-*/home for those
// of scripts/testnet.sh. Opening a store may repair what a crash left.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"text/tabwriter"

	"github.com/p2pfs/p2pfs/internal/oracle"
)

func main() {
	asJSON := flag.Bool("json", false, "write JSON")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: oracle [--json] HOME...")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	r, err := oracle.Judge(ctx, flag.Args()...)
	stop()
	if err == nil {
		err = write(os.Stdout, r, *asJSON)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
}

func write(w io.Writer, r oracle.Report, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	fmt.Fprintf(w, "%d packs in %d stores, %d more are deleted\n\n", len(r.Packs), r.Stores, r.Deleted)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "PACK\tLIVE\tNEEDED\tSURVIVES\tSHARDS\tCOPIES\tPROVISIONAL\tDAMAGED")
	for _, p := range r.Packs {
		fmt.Fprintf(t, "%.8s\t%d of %d\t%d\t%d\t%d\t%d\t%d\t%d\n", p.ID, p.Live, p.N, p.K, p.Survives, p.Shards, p.Copies, p.Provisional, len(p.Damaged))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, p := range r.Packs {
		for _, d := range p.Damaged {
			fmt.Fprintf(w, "%.8s: %s\n", p.ID, d)
		}
	}
	return nil
}
