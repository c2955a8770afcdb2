//go:build race

package store

// raceOn tells that the race detector is on: it takes several times the memory
// and time.
const raceOn = true
