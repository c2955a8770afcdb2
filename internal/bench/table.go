//go:build linux

package main

import (
	"fmt"
	"io"
)

// print writes the report as a table for people.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "p2pfs %s, %s, %d cores %s, %d GiB, %s\n", or(r.Machine.Commit, "of no commit"),
		r.Machine.OS+"/"+r.Machine.Arch, r.Machine.Cores, r.Machine.CPU, r.Machine.Memory>>30, r.Machine.Go)
	fmt.Fprintf(w, "%d MiB of random bytes; client and all nodes share the cores; MB are 10^6 bytes\n\n", r.Size>>20)

	line := func(name string, cell func(n *networkRow) string) {
		fmt.Fprintf(w, "%-36s", name)
		for _, n := range r.Networks {
			fmt.Fprintf(w, "  %19s", cell(n))
		}
		fmt.Fprintln(w)
	}
	if len(r.Networks) > 0 {
		line("", func(n *networkRow) string { return fmt.Sprintf("%s over %d nodes", n.Redundancy, n.Nodes) })
		line("put, durable on all, MB/s", func(n *networkRow) string { return f0(n.Put.MBps) })
		line("get, written and synced, MB/s", func(n *networkRow) string { return f0(n.Get.MBps) })
		line("get after all losses promised, MB/s", func(n *networkRow) string { return f0(n.GetLost.MBps) })
		line("put, CPU s/GiB", func(n *networkRow) string { return f1(n.Put.CPUPerGiB) })
		line("get, CPU s/GiB", func(n *networkRow) string { return f1(n.Get.CPUPerGiB) })
		line("get after losses, CPU s/GiB", func(n *networkRow) string { return f1(n.GetLost.CPUPerGiB) })
		line("128 KiB at random, p50 / p99 ms", func(n *networkRow) string { return f1(n.Range.P50) + " / " + f1(n.Range.P99) })
		line("first byte, p50 / worst ms", func(n *networkRow) string { return f1(n.FirstByte.P50) + " / " + f1(n.FirstByte.P99) })
		line("whole command for one byte, ms", func(n *networkRow) string { return f0(n.Command) })
		line("client at put, peak anonymous MiB", func(n *networkRow) string { return mib(n.Put.ClientAnon) })
		line("client at get, peak anonymous MiB", func(n *networkRow) string { return mib(max(n.Get.ClientAnon, n.GetLost.ClientAnon)) })
		line("largest node, peak anonymous MiB", func(n *networkRow) string { return mib(n.NodePeakAnon) })
		line("disk used, times the file", func(n *networkRow) string { return fmt.Sprintf("%.2f", n.DiskFactor) })
		fmt.Fprintln(w)
	}
	if t := r.Trees; t != nil {
		one := func(name, cell string) { fmt.Fprintf(w, "%-36s  %19s\n", name, cell) }
		one(fmt.Sprintf("%d files of 4 KiB", t.Files), fmt.Sprintf("8+12 over %d nodes", t.Nodes))
		one("put, files/s", f0(t.Put))
		one("get, files/s", f0(t.Get))
		one("packs", fmt.Sprint(t.Packs))
		one("disk used, times content and n/k", fmt.Sprintf("%.2f", t.DiskFactor))
		one("second put, s, and of the first", fmt.Sprintf("%.2f, %.0f %%", t.Second, 100*t.Second/t.First))
		one("second put, new KiB", f0(float64(t.SecondNew)/1024))
		one("put with one changed, s, new KiB", fmt.Sprintf("%.2f, %.0f", t.OneChanged, float64(t.OneNew)/1024))
		one("ls -R, s", fmt.Sprintf("%.2f", t.List))
		one("head update, p50 / p99 ms", f0(t.HeadUpdate.P50)+" / "+f0(t.HeadUpdate.P99))
		one("head read, p50 / p99 ms", f0(t.HeadRead.P50)+" / "+f0(t.HeadRead.P99))
		one(fmt.Sprintf("prune %d of %d snapshots, s", t.Removed, t.Snapshots), fmt.Sprintf("%.2f", t.Prune))
		fmt.Fprintln(w)
	}
	if len(r.Parts) > 0 {
		fmt.Fprintf(w, "%-36s  %19s  %19s\n", "parts by themselves", "MB/s", "CPU s/GiB")
		for _, p := range r.Parts {
			fmt.Fprintf(w, "%-36s  %19s  %19.2f\n", p.Name, f0(p.MBps), p.CPUPerGiB)
		}
	}
}

func f0(v float64) string { return fmt.Sprintf("%.0f", v) }
func f1(v float64) string { return fmt.Sprintf("%.1f", v) }
func mib(v int64) string  { return fmt.Sprint(v >> 20) }

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
