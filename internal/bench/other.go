//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: CPU time and memory of processes are read from /proc, which only Linux has")
	os.Exit(1)
}
