//go:build race

package relay

const hasRaceDetector = true
