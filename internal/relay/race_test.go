//go:build race

package relay

// parallelTests is how many tests run at once: they wait, though less with the race detector.
const parallelTests = "6"
