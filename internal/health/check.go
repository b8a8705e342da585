package health

// A Check counts the probes of one backend in a row. It is a value: Record returns the next
// one. The zero Check is that of a backend that was not probed yet.
type Check struct {
	result  checkResult
	opposed int // probes in a row that contradict result
}

// A checkResult is the result of all probes so far.
type checkResult uint8

const (
	checkUnknown checkResult = iota // there was no probe yet
	checkPassed
	checkFailed
)

// Record returns the Check after one more probe. The first probe decides alone. Afterwards it
// takes fall failures in a row to make the result a failure, and rise passes in a row to make it
// a pass again.
func (c Check) Record(passed bool, fall, rise int) Check {
	result, needed := checkPassed, rise
	if !passed {
		result, needed = checkFailed, fall
	}
	switch {
	case c.result == result:
		return Check{result: result}
	case c.result != checkUnknown && c.opposed+1 < needed:
		c.opposed++
		return c
	}
	return Check{result: result}
}

// IsFailed reports whether the backend has failed its check.
func (c Check) IsFailed() bool { return c.result == checkFailed }
