//go:build !race

package relay

// parallelTests is how many tests run at once: they wait.
const parallelTests = "32"

// raceFactor is by how much upper bounds of times are longer.
const raceFactor = 1
