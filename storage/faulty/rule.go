package faulty

import (
	"context"
	"errors"
	"math/rand/v2"
)

// Effect replaces a call of the inner driver. do makes that call; an effect makes it once or not at
// all. What it returns is what the caller gets.
type Effect func(ctx context.Context, c Call, do func(context.Context) error) error

// Through lets the call happen.
func Through(ctx context.Context, _ Call, do func(context.Context) error) error { return do(ctx) }

// Before returns err in place of the call, which does not happen: a conflict, a refusal, a failure, or
// an outcome that is unknown and was nothing.
func Before(err error) Effect {
	return func(context.Context, Call, func(context.Context) error) error { return err }
}

// After lets the call happen and returns answer all the same: with storage.ErrUnknown, an answer that was
// lost. A call that fails returns its own error.
func After(answer error) Effect {
	return func(ctx context.Context, _ Call, do func(context.Context) error) error {
		if err := do(ctx); err != nil {
			return err
		}
		return answer
	}
}

// Midway lets a sequence yield n values, or all if it has fewer, and then yields err, as Scan does when the
// storage fails underway. Of a call that yields nothing it is Before.
func Midway(n int, err error) Effect {
	return func(ctx context.Context, c Call, do func(context.Context) error) error {
		switch c.Op {
		case Scan, Stores, Partitions:
			return errors.Join(do(context.WithValue(ctx, midway{}, n)), err)
		default:
			return err
		}
	}
}

// midway is the key of how many values a sequence may yield.
type midway struct{}

// Wait calls hook and then lets then decide. The hook may block, on a channel or in a synctest bubble,
// for as long as the test likes, and should return when ctx ends. An error of the hook is returned in
// place of the call.
func Wait(hook func(ctx context.Context) error, then Effect) Effect {
	return func(ctx context.Context, c Call, do func(context.Context) error) error {
		if err := hook(ctx); err != nil {
			return err
		}
		return then(ctx, c, do)
	}
}

// WaitAfter lets then decide and holds its answer back until hook returns. An error of the hook takes
// the place of the answer.
func WaitAfter(hook func(ctx context.Context) error, then Effect) Effect {
	return func(ctx context.Context, c Call, do func(context.Context) error) error {
		answer := then(ctx, c, do)
		if err := hook(ctx); err != nil {
			return err
		}
		return answer
	}
}

// On matches every call of op.
func On(op Op) func(Call) bool {
	return func(c Call) bool { return c.Op == op }
}

// Nth matches the n-th call of op. The first is 1.
func Nth(op Op, n int) func(Call) bool {
	return func(c Call) bool { return c.Op == op && c.N == n }
}

// From matches the n-th call of op and every later one.
func From(op Op, n int) func(Call) bool {
	return func(c Call) bool { return c.Op == op && c.N >= n }
}

// Chance matches with probability p, between 0 and 1, drawn from rng. The rule becomes the only user of
// rng; the seed and the order of the calls decide which calls it matches.
func Chance(rng *rand.Rand, p float64) func(Call) bool {
	return func(Call) bool { return rng.Float64() < p }
}

// All matches a call that all of the predicates match. They are asked in order, up to the first that
// does not, so that a Chance placed last is drawn only for calls that the others let by.
func All(when ...func(Call) bool) func(Call) bool {
	return func(c Call) bool {
		for _, match := range when {
			if !match(c) {
				return false
			}
		}
		return true
	}
}
