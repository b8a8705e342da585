// Package rebalance decides how many tunnels of each backend are closed, so that their clients
// come again and go to other backends, and whether they do.
//
// It knows no tunnels and no clock. Its caller counts the tunnels of each backend, closes as many
// as a [Step] says, and records in [Reconnects] where their clients went.
package rebalance

import "math"

// A Config says when a backend has too many tunnels, and how fast they are closed.
type Config struct {
	Tolerance  float64 // how far a backend may be above its share, as a part of the share
	MinSurplus int     // how many tunnels it may have above its share
	Rate       float64 // the part of a backend's tunnels that is closed in one step
}

// A Load is the load of a backend that may get new tunnels.
type Load struct {
	Tunnels int
	Weight  int // at least 1
	Max     int // the bound of Tunnels; 0: none
}

// A State is remembered of a backend from one step to the next. It is zero for the first step.
type State struct {
	IsMoving bool    // it had too many tunnels, and has not yet come down to its share
	Credit   float64 // the part of a tunnel that may be closed in addition
}

// A Step says how many tunnels of a backend to close.
type Step struct {
	Close int   // the number of tunnels to close; 0 while Credit is below 1
	Next  State // for the next step
}

// Steps returns the step of each backend. Away is the number of clients that are expected to
// come back after their tunnels were closed: they belong to the load of all.
//
// A backend begins to move when it exceeds its share by more than the tolerance and by more
// than MinSurplus, and ends when it has come down to about its share: with an end at the
// tolerance, backends with too few would stay far below theirs. It closes at most as many
// tunnels as other backends have places for: MaxTunnels may have been lowered everywhere.
func (c Config) Steps(loads []Load, states []State, away int) []Step {
	shares := Shares(loads, away)
	places, least := -float64(away), math.MaxInt
	for i, l := range loads {
		places += max(shares[i]-float64(l.Tunnels), 0)
		least = min(least, l.Weight)
	}
	steps := make([]Step, len(loads))
	for i, l := range loads {
		// A balancer that chooses the fewest tunnels per weight would send the last ones back.
		rest := float64(l.Weight) / float64(least)
		steps[i] = c.step(l, states[i], shares[i], rest, max(int(places+rounding), 0))
		places -= float64(steps[i].Close)
	}
	return steps
}

// rounding is larger than the error of a sum of shares.
const rounding = 1e-6

// step returns the step of one backend, which keeps the rest of its surplus and closes at most
// as many tunnels as there are places.
func (c Config) step(l Load, s State, share, rest float64, places int) Step {
	surplus := float64(l.Tunnels) - share + rounding
	exceeds := surplus > c.Tolerance*share+2*rounding && surplus > float64(c.MinSurplus)+2*rounding
	surplus -= rest
	if !exceeds && !s.IsMoving || surplus < 1 || places == 0 {
		return Step{}
	}
	credit := s.Credit + c.Rate*float64(l.Tunnels)
	n := min(int(credit+rounding), int(surplus), places)
	return Step{Close: n, Next: State{IsMoving: true, Credit: min(max(credit-float64(n), 0), 1)}}
}

// Shares returns how many tunnels each backend would have, if all tunnels and those of the
// clients that are away were spread by weight. A backend that would then exceed its Max has
// Max, and the others have the rest.
func Shares(loads []Load, away int) []float64 {
	shares := make([]float64, len(loads))
	isFull := make([]bool, len(loads))
	total := float64(away)
	for _, l := range loads {
		total += float64(l.Tunnels)
	}
	for isDone := false; !isDone; {
		rest, weights := total, 0.0
		for i, l := range loads {
			if isFull[i] {
				rest -= shares[i]
			} else {
				weights += float64(l.Weight)
			}
		}
		isDone = true
		for i, l := range loads {
			if isFull[i] {
				continue
			}
			shares[i] = max(rest, 0) * float64(l.Weight) / weights
			if l.Max > 0 && shares[i] > float64(l.Max) {
				shares[i], isFull[i], isDone = float64(l.Max), true, false
			}
		}
	}
	return shares
}
