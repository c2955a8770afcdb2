//go:build race

package testnet

// Race says whether this binary has the race detector.
const Race = true
