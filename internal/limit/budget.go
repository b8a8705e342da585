package limit

import "time"

// Finagle, Linkerd and tower have the same three numbers: a fifth of the requests of 10 s,
// and 10 a second for services with few of them. Envoy's retry_budget has 20 % too, of the
// requests under way at the moment.
// https://finagle.github.io/blog/2016/02/08/retry-budgets
const (
	retryPercent        = 20 // of the upgrades in the window
	minRetriesPerSecond = 10 // beside them

	numBudgetSlots = 10 // the window is 10 s
	budgetSlot     = time.Second

	minRetries = minRetriesPerSecond * numBudgetSlots // in the window
)

// A Budget bounds retries: in 10 s, at most 20 % of the upgrades in these 10 s, and 100
// more. If many backends fail at once, each upgrade would otherwise be tried on three of
// them, and the healthy ones would get three times their load.
//
// The 100 may all come at once, if there was no retry for 10 s: a restart of one backend
// fails the upgrades that were under way there in one moment, and each of them is to be
// tried on another. The window ends with the current second, so that a retry counts for 9
// to 10 s.
//
// The zero Budget is ready for use. A time before that of an earlier call counts as in the
// second of the latest call: of two goroutines the later one may have looked at the clock
// first.
type Budget struct {
	slots [numBudgetSlots]budgetCounts // a second each; slot n is at n % numBudgetSlots
	last  int64                        // the number of the current slot
	total budgetCounts                 // of all slots
}

type budgetCounts struct{ upgrades, retries int }

// AddUpgrade counts an upgrade that begins at now. Its first attempt is no retry.
func (b *Budget) AddUpgrade(now time.Duration) {
	b.moveTo(now).upgrades++
	b.total.upgrades++
}

// AllowRetry reports whether one more attempt may be made at now for an upgrade that has
// made one already, and if so counts it.
func (b *Budget) AllowRetry(now time.Duration) bool {
	slot := b.moveTo(now)
	if b.total.retries >= minRetries+b.total.upgrades*retryPercent/100 {
		return false
	}
	slot.retries++
	b.total.retries++
	return true
}

// moveTo makes the slot of now the current one, unless it is an earlier one. It clears the
// slots that the window has left behind, and returns the current slot.
func (b *Budget) moveTo(now time.Duration) *budgetCounts {
	n := max(int64(now/budgetSlot), b.last)
	for i := range min(n-b.last, numBudgetSlots) {
		expired := &b.slots[(b.last+1+i)%numBudgetSlots]
		b.total.upgrades -= expired.upgrades
		b.total.retries -= expired.retries
		*expired = budgetCounts{}
	}
	b.last = n
	return &b.slots[n%numBudgetSlots]
}
