//go:build race

package relay

// parallelTests is how many tests run at once: they wait, though less with the race detector.
const parallelTests = "6"

// raceFactor is by how much upper bounds of times are longer.
const raceFactor = 5
