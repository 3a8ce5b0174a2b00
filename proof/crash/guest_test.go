package crash

import (
	"context"
	"errors"
	"math/rand/v2"

	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
)

// guest is a part of the system that is above segments, has a model of its own, and lives through the same
// runs: its data is in a store of its own, on the same disk. All methods are called by the simulator, while
// nothing moves. The system is also at work for it by itself, at moments that no model knows; so it does not predict
// every answer, but keeps what was told and shown, and judges by what is found.
type guest interface {
	// open begins a generation, before anything is held.
	open()
	// act does one thing.
	act(r *rand.Rand)
	// look takes the answers that have come.
	look()
	// park lets a generation go: what is under way has an outcome that nobody knows.
	park()
	// verify looks at everything after a restart.
	verify()
	// finish lets all come to its end, and looks at it.
	finish()
}

// guestStore is where guests have their data.
var guestStore = runnel.Store(uuid.MustParse("6f9619ff-8b86-4011-b42d-00c04fc964ff"))

// fate is what is known of a write.
type fate int

const (
	pending fate = iota
	done
	refused
	unknown
)

func (f fate) String() string { return [...]string{"pending", "done", "refused", "unknown"}[f] }

// fateOf says what an answer means. An error that the caller must not get violates an invariant.
func (s *sim) fateOf(what string, err error, refusals ...error) fate {
	switch {
	case err == nil:
		return done
	case s.broken, unresolved(err):
		return unknown
	case s.armed && errors.Is(err, runnel.ErrUnavailable):
		return refused
	}
	for _, refusal := range refusals {
		if errors.Is(err, refusal) {
			return refused
		}
	}
	s.fail(exactAnswers, "%s: %v", what, err)
	return unknown
}

// errands are calls under way whose answers are taken when nothing moves.
type errands struct {
	s    *sim
	list []*errand
}

type errand struct {
	what string
	late bool // the disk had failed before it was started
	over chan func()
	lost func()
}

// run starts a call. It returns what is to be done with its answer; lost is done in place of that if the
// generation ends before. Either may be nil.
func (e *errands) run(what string, call func(ctx context.Context) func(), lost func()) {
	x := &errand{what: what, late: e.s.broken, over: make(chan func(), 1), lost: lost}
	e.list = append(e.list, x)
	e.s.note("%s", what)
	ctx := e.s.ctx
	go func() { x.over <- call(ctx) }()
	e.s.settle()
}

// take takes the answers that have come.
func (e *errands) take() {
	left := e.list[:0]
	var answers []func()
	for _, x := range e.list {
		select {
		case answer := <-x.over:
			if answer != nil {
				answers = append(answers, answer)
			}
		default:
			left = append(left, x)
		}
	}
	e.list = left
	for _, answer := range answers {
		answer()
	}
}

// lose lets go of all that has no answer.
func (e *errands) lose() {
	for _, x := range e.list {
		if x.lost != nil {
			x.lost()
		}
	}
	e.list = nil
}
