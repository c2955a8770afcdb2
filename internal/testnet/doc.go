// Package testnet runs whole networks of real p2pfs processes inside a test:
// n nodes on loopback, each with a home of its own, that can be killed,
// paused and started again, and command lines against them.
//
//	net := testnet.New(t, 20, testnet.Options{})
//	put := net.Nodes[0].Run(t, "put", file)
//	net.Nodes[0].Kill()
//	net.Client(t).Run(t, "get", put.Line(), "-o", copy)
//
// The binary is built once for each test binary; a package that uses testnet
// has a TestMain that calls [Main]. All processes end with the test, and what
// the nodes logged is printed where it failed. The shell has the same in
// scripts/testnet.sh.
//
// It needs a Unix; what it reads of memory it reads from /proc.
package testnet
