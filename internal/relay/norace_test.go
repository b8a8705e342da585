//go:build !race

package relay

// parallelTests is how many tests run at once: they wait.
const parallelTests = "32"
