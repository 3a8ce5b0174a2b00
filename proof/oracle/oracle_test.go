package oracle_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/runnelhq/runnel/proof/oracle"
)

const orders = "orders/42"

// found is what a stream that exists holds.
func found(l *oracle.Ledger, content ...string) []oracle.Violation {
	return l.Check(orders, content, false, true)
}

func created(l *oracle.Ledger, payloads ...string) {
	l.BeginCreate(orders, payloads...).Acknowledged()
}

func appended(l *oracle.Ledger, payloads ...string) {
	for _, p := range payloads {
		l.Begin(orders, p).Acknowledged()
	}
}

func deleted(l *oracle.Ledger) { l.BeginDelete(orders).Acknowledged() }

func TestEachInvariantCanFail(t *testing.T) {
	type run func(*oracle.Ledger) []oracle.Violation
	cases := []struct {
		name      string
		invariant string
		run       run
	}{
		{"an acknowledged append is missing", oracle.KeepsAcknowledged, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			appended(l, "a", "b")
			return found(l, "a")
		}},
		{"an acknowledged stream is missing", oracle.KeepsAcknowledged, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			return l.Check(orders, nil, false, false)
		}},
		{"what a stream was created with is missing", oracle.KeepsAcknowledged, func(l *oracle.Ledger) []oracle.Violation {
			created(l, "a")
			return found(l)
		}},
		{"retention dropped more than it says", oracle.KeepsAcknowledged, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			l.Begin(orders, "a").AcknowledgedAt(1)
			l.Begin(orders, "b").AcknowledgedAt(2)
			return l.CheckFrom(orders, 1, nil, false, true)
		}},
		{"an append whose outcome is unknown was seen and is missing", oracle.KeepsSeen, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			w := l.Begin(orders, "a")
			l.Saw("r", orders, 0, "a")
			w.Unknown()
			return found(l)
		}},
		{"an entry has moved since it was seen", oracle.KeepsSeen, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			a, b := l.Begin(orders, "a"), l.Begin(orders, "b")
			l.Saw("r", orders, 0, "a")
			a.Unknown()
			b.Acknowledged()
			return found(l, "b", "a")
		}},
		{"a refused append is there", oracle.NoRefused, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			l.Begin(orders, "a").Refused()
			return found(l, "a")
		}},
		{"a refused append is seen", oracle.NoRefused, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			l.Begin(orders, "a").Refused()
			l.Saw("r", orders, 0, "a")
			return l.Violations()
		}},
		{"an append that was seen is refused", oracle.NoRefused, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			w := l.Begin(orders, "a")
			l.Saw("r", orders, 0, "a")
			w.Refused()
			return l.Violations()
		}},
		{"something is there that nobody wrote", oracle.NoForeign, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			return found(l, "a")
		}},
		{"something is seen that nobody wrote", oracle.NoForeign, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			l.Saw("r", orders, 0, "a")
			return l.Violations()
		}},
		{"a stream is there that nobody created", oracle.NoForeign, func(l *oracle.Ledger) []oracle.Violation {
			l.BeginCreate(orders).Refused()
			return found(l)
		}},
		{"a stream is closed that nobody closed", oracle.NoForeign, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			l.BeginClose(orders).Refused()
			return l.Check(orders, nil, true, true)
		}},
		{"a reader is told of a close that nobody asked for", oracle.NoForeign, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			l.SawClosed("r", orders, 0)
			return l.Violations()
		}},
		{"an append is there twice", oracle.StoredOnce, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			appended(l, "a")
			return found(l, "a", "a")
		}},
		{"readers see an append at two places", oracle.StoredOnce, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			appended(l, "a")
			l.Saw("r", orders, 0, "a", "a")
			return l.Violations()
		}},
		{"a batch is there in part", oracle.WholeAppends, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			l.Begin(orders, "a", "b").Unknown()
			return found(l, "a")
		}},
		{"a batch is there in another order", oracle.WholeAppends, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			l.Begin(orders, "a", "b").Acknowledged()
			return found(l, "b", "a")
		}},
		{"something stands inside a batch", oracle.WholeAppends, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			ab, c := l.Begin(orders, "a", "b"), l.Begin(orders, "c")
			ab.Acknowledged()
			c.Acknowledged()
			return found(l, "a", "c", "b")
		}},
		{"something stands before what a stream was created with", oracle.WholeAppends, func(l *oracle.Ledger) []oracle.Violation {
			c := l.BeginCreate(orders, "a")
			appended(l, "b")
			c.Acknowledged()
			return found(l, "b", "a")
		}},
		{"an append is not where its answer said", oracle.ToldPlace, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			a := l.Begin(orders, "a")
			appended(l, "b")
			a.AcknowledgedAt(1)
			return found(l, "b", "a")
		}},
		{"an answer differs from what was seen", oracle.ToldPlace, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			a := l.Begin(orders, "a")
			l.Saw("r", orders, 0, "a")
			a.AcknowledgedAt(2)
			return l.Violations()
		}},
		{"a later append stands before an earlier one", oracle.RealTimeOrder, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			appended(l, "a", "b")
			return found(l, "b", "a")
		}},
		{"an append of unknown outcome turns up after it was not there", oracle.StaysFound, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			l.Begin(orders, "a").Unknown()
			found(l)
			return found(l, "a")
		}},
		{"an append of unknown outcome was there and is gone", oracle.StaysFound, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			l.Begin(orders, "a").Unknown()
			found(l, "a")
			return found(l)
		}},
		{"a closed stream is open", oracle.StaysEnded, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			l.BeginClose(orders).Acknowledged()
			return found(l)
		}},
		{"a stream whose close was of unknown outcome was closed and is open", oracle.StaysEnded, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			l.BeginClose(orders).Unknown()
			l.Check(orders, nil, true, true)
			return found(l)
		}},
		{"a deleted stream is there", oracle.StaysEnded, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			deleted(l)
			return found(l)
		}},
		{"an append stands after the one that closed", oracle.NothingAfterClose, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			a := l.Begin(orders, "a")
			l.BeginClose(orders, "end").Acknowledged()
			a.Acknowledged()
			return l.Check(orders, []string{"end", "a"}, true, true)
		}},
		{"an append that was begun after a close is there", oracle.NothingAfterClose, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			l.BeginClose(orders).Acknowledged()
			l.Begin(orders, "a").Unknown()
			return l.Check(orders, []string{"a"}, true, true)
		}},
		{"a reader gets more than it was told there would be", oracle.NothingAfterClose, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			l.BeginClose(orders).Unknown()
			l.Begin(orders, "a").Unknown()
			l.SawClosed("r", orders, 0)
			l.Saw("other", orders, 0, "a")
			return l.Violations()
		}},
		{"a recreated stream holds an entry of its earlier life", oracle.NoOldByte, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			appended(l, "a")
			deleted(l)
			created(l)
			return found(l, "a")
		}},
		{"a reader of a recreated stream sees an entry of its earlier life", oracle.NoOldByte, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			appended(l, "a")
			deleted(l)
			created(l)
			l.Attach("r", orders)
			l.Saw("r", orders, 0, "a")
			return l.Violations()
		}},
		{"a reader misses an entry", oracle.GaplessReader, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			appended(l, "a", "b", "c")
			l.Saw("r", orders, 0, "a")
			l.Saw("r", orders, 2, "c")
			return l.Violations()
		}},
		{"a reader gets an entry again", oracle.GaplessReader, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			appended(l, "a")
			l.Saw("r", orders, 0, "a")
			l.Saw("r", orders, 0, "a")
			return l.Violations()
		}},
		{"two readers see different entries at a place", oracle.OneContent, func(l *oracle.Ledger) []oracle.Violation {
			created(l)
			a, b := l.Begin(orders, "a"), l.Begin(orders, "b")
			l.Saw("r", orders, 0, "a")
			l.Saw("other", orders, 0, "b")
			a.Acknowledged()
			b.Acknowledged()
			return l.Violations()
		}},
	}
	covered := make(map[string]bool)
	for _, c := range cases {
		covered[c.invariant] = true
		t.Run(c.name, func(t *testing.T) {
			violations := c.run(new(oracle.Ledger))
			if len(violations) == 0 {
				t.Fatalf("nothing is violated, want %q", c.invariant)
			}
			for _, v := range violations {
				if v.Invariant != c.invariant {
					t.Errorf("violated: %v; want only %q", v, c.invariant)
				}
			}
		})
	}
	for _, invariant := range oracle.Invariants() {
		if !covered[invariant] {
			t.Errorf("no case violates %q", invariant)
		}
	}
}

// TestAHonestLogViolatesNothing runs clients and readers over a log that does what it says, each operation
// at a random moment between its begin and its answer, with outcomes that clients do not learn.
func TestAHonestLogViolatesNothing(t *testing.T) {
	for seed := range uint64(2000) {
		h := &honest{r: rand.New(rand.NewPCG(seed, 0))}
		for range 150 {
			h.step()
		}
		h.rest()
		if v := h.check(); len(v) > 0 {
			t.Fatalf("seed %d: %v", seed, v[0])
		}
	}
}

// honest is a log of one stream, and what is under way at it.
type honest struct {
	r       *rand.Rand
	l       oracle.Ledger
	exists  bool
	closed  bool
	content []string
	flights []*flight
	readers int
	n       int
}

type flight struct {
	op     *oracle.Operation
	apply  func() (ok bool, tail int)
	done   bool
	ok     bool
	tail   int
	gaveUp bool
}

func (h *honest) step() {
	switch n := h.r.IntN(100); {
	case n < 30:
		h.begin()
	case n < 60:
		h.apply()
	case n < 80:
		h.answer()
	case n < 95:
		h.read()
	case n < 97:
		h.rest()
		h.mustHold()
	default:
		h.mustHold()
	}
}

func (h *honest) mustHold() {
	for _, f := range h.flights {
		if f.gaveUp && !f.done {
			return // only a stream at rest is checked
		}
	}
	if v := h.check(); len(v) > 0 {
		panic(v[0])
	}
}

func (h *honest) check() []oracle.Violation {
	return h.l.Check(orders, slices.Clone(h.content), h.closed, h.exists)
}

func (h *honest) payloads(n int) []string {
	var p []string
	for range n {
		h.n++
		p = append(p, fmt.Sprint(h.n))
	}
	return p
}

func (h *honest) begin() {
	f := new(flight)
	switch n := h.r.IntN(20); {
	case n < 12 && h.exists:
		p := h.payloads(1 + h.r.IntN(3))
		f.op = h.l.Begin(orders, p...)
		f.apply = func() (bool, int) { return h.append(p, false) }
	case n < 14 && h.exists:
		p := h.payloads(h.r.IntN(2))
		f.op = h.l.BeginClose(orders, p...)
		f.apply = func() (bool, int) { return h.append(p, true) }
	case n < 16:
		f.op = h.l.BeginDelete(orders)
		f.apply = func() (bool, int) {
			h.exists, h.closed, h.content = false, false, nil
			return true, 0
		}
	default:
		p := h.payloads(h.r.IntN(3))
		f.op = h.l.BeginCreate(orders, p...)
		f.apply = func() (bool, int) {
			if h.exists {
				return false, 0
			}
			h.exists, h.content = true, p
			return true, len(p)
		}
	}
	h.flights = append(h.flights, f)
}

func (h *honest) append(p []string, last bool) (bool, int) {
	if !h.exists || h.closed {
		return false, 0
	}
	h.content = append(slices.Clone(h.content), p...)
	h.closed = last
	return true, len(h.content)
}

func (h *honest) any() *flight {
	if len(h.flights) == 0 {
		return nil
	}
	return h.flights[h.r.IntN(len(h.flights))]
}

func (h *honest) apply() {
	if f := h.any(); f != nil && !f.done {
		f.done = true
		f.ok, f.tail = f.apply()
	}
}

func (h *honest) answer() {
	f := h.any()
	switch {
	case f == nil:
		return
	case !f.gaveUp && h.r.IntN(4) == 0:
		f.op.Unknown()
		f.gaveUp = true
	case !f.gaveUp && f.done && f.ok && h.r.IntN(2) == 0:
		f.op.AcknowledgedAt(f.tail)
	case !f.gaveUp && f.done && f.ok:
		f.op.Acknowledged()
	case !f.gaveUp && f.done:
		f.op.Refused()
	}
	if f.done {
		h.flights = slices.DeleteFunc(h.flights, func(o *flight) bool { return o == f && !f.gaveUp || o.gaveUp && o.done })
	}
}

// rest ends what clients have given up: now and then as if it had never arrived.
func (h *honest) rest() {
	for _, f := range h.flights {
		if !f.done {
			f.done = true
			if h.r.IntN(2) == 0 && f.gaveUp {
				continue
			}
			f.ok, f.tail = f.apply()
		}
	}
	for len(h.flights) > 0 {
		h.answer()
	}
}

func (h *honest) read() {
	if !h.exists {
		return
	}
	h.readers++
	name := fmt.Sprint("reader ", h.readers)
	if h.r.IntN(2) == 0 {
		h.l.Attach(name, orders)
	}
	from := h.r.IntN(len(h.content) + 1)
	for at := from; at < len(h.content); {
		n := 1 + h.r.IntN(len(h.content)-at)
		h.l.Saw(name, orders, at, h.content[at:at+n]...)
		at += n
	}
	if h.closed {
		h.l.SawClosed(name, orders, len(h.content))
	}
}
