package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// table writes lines of cells to stdout with their columns aligned.
type table struct {
	w *tabwriter.Writer
}

func (a *app) table() *table {
	return &table{tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)}
}

// row writes a line. Cells that come from outside are shown as names are.
func (t *table) row(cells ...string) {
	for i, c := range cells {
		if c != "" {
			cells[i] = show(c)
		}
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

func (t *table) end() error { return t.w.Flush() }
