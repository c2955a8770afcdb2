// Command bench measures p2pfs as its users have it: networks of real
// processes with default settings and homes on disk, on one machine, all
// sharing its cores. Beside that it measures the parts by themselves in the
// same run, so that the distance to what is possible is seen.
//
//	make bench
//	go run ./internal/bench --size 256MiB --sets 4+2/8 --json bench.json
//
// A table goes to stdout, all figures as JSON to the file named. It reads CPU
// time and memory of processes from /proc, and so runs on Linux only.
package main
