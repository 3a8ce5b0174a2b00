package linear

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/runnelhq/runnel"
)

// model is what clients do together, and what they may be told.
type model struct {
	name string
	// clients is how many run at a time. 0 means 4.
	clients int
	// offers tells whether the model can be had in a world, if that is not one of a server of items only, which one
	// model has. Nil means in every one but those of a session.
	offers func(k kind) bool
	// prepare runs before the clients, alone and without faults.
	prepare func(c *client)
	// play is a client's script. It calls c.do until c.more says that it is over.
	play func(c *client)
	// conclude runs after the clients, alone and without faults. What it reads is what counts for writes
	// whose outcome is unknown.
	conclude func(c *client)
	// whole checks all operations together. Otherwise those with different keys are apart.
	whole bool
	// states is how operations change the state, without the partition.
	states porcupine.NondeterministicModel
	// sometimes are counters that a long run must not leave at zero.
	sometimes []string
}

func (m *model) offered(k kind) bool {
	if m.offers == nil {
		return !k.remote && !k.items
	}
	return m.offers(k)
}

// operation is one call of a client, as it was meant.
type operation interface {
	// key names what the operation is about.
	key() string
	// do makes the call and returns what was told. A read says so, because a read that fails can be left out.
	do(ctx context.Context, l log) (value any, err error)
	reads() bool
	String() string
}

// stepper is an operation on states of type S.
type stepper[S any] interface {
	operation
	// step returns the states that may follow s if the answer was a, and none if it cannot have been.
	step(s S, a answer) []S
}

// state is what a model knows. Equal states have equal hashes.
type state[S any] interface {
	equal(other S) bool
	hash() uint64
	String() string
}

// powerset makes Porcupine keep all states that the history so far allows. The operations are steppers.
func powerset[S state[S]](initial S) porcupine.NondeterministicModel {
	return porcupine.NondeterministicModel{
		Init: func() []any { return []any{initial} },
		Step: func(s, in, out any) []any {
			var next []any
			for _, n := range in.(stepper[S]).step(s.(S), out.(answer)) {
				next = append(next, n)
			}
			return next
		},
		Equal:             func(a, b any) bool { return a.(S).equal(b.(S)) },
		Hash:              func(s any) uint64 { return s.(S).hash() },
		DescribeOperation: func(in, out any) string { return fmt.Sprintf("%v → %v", in, out) },
		DescribeState:     func(s any) string { return s.(S).String() },
	}
}

// written is what a write that was told to be done leads to, or may have led to.
func written[S any](s, next S, refused refusal, a answer, matches func() bool) []S {
	switch {
	case a.unknown && refused == refusal{}:
		return []S{s, next}
	case a.unknown:
		return []S{s}
	case a.refused != refused:
		return nil
	case refused != refusal{}:
		return []S{s}
	case matches():
		return []S{next}
	}
	return nil
}

// history is what the clients of one run did and were told.
type history struct {
	w     *world
	tally *tally
	began time.Time

	mu   sync.Mutex
	all  []porcupine.Operation
	left int // how many more calls may be cancelled
	dead []error
}

// hang says what must have happened and did not. A history that has one needs no check.
type hang string

func (h hang) Error() string { return string(h) }

// stuck notes that something which must happen did not.
func (h *history) stuck(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dead = append(h.dead, hang(what))
}

// forever is when an operation returns whose outcome is unknown.
const forever = math.MaxInt64

func (h *history) now() int64 { return int64(time.Since(h.began)) }

func (h *history) add(id int, op operation, call, ret int64, a answer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a.unknown {
		ret = forever
	}
	h.tally.told(a)
	h.all = append(h.all, porcupine.Operation{ClientId: id, Input: op, Call: call, Output: a, Return: ret})
}

// client is one of those who call at a time.
type client struct {
	id   int
	h    *history
	rng  *rand.Rand
	todo int // how many more calls it makes
	sent int // payloads
	calm bool
}

// more tells whether the client has another call to make.
func (c *client) more() bool {
	c.todo--
	return c.todo >= 0
}

// chance is true once in n times.
func (c *client) chance(n int) bool { return c.rng.IntN(n) == 0 }

func pick[T any](c *client, from ...T) T { return from[c.rng.IntN(len(from))] }

// payloads are some that nobody else sends.
func (c *client) payloads(most int) []string {
	all := make([]string, 1+c.rng.IntN(most))
	for i := range all {
		all[i] = fmt.Sprintf("%q", fmt.Sprintf("%d.%d", c.id, c.sent))
		c.sent++
	}
	return all
}

// do makes a call and records it. ok says that there is a definite answer.
func (c *client) do(op operation) (a answer, ok bool) {
	ctx, cancel := c.patience()
	defer cancel()
	call := c.h.now()
	value, err := op.do(ctx, c.h.w.front(c.id))
	return c.record(op, call, value, err)
}

func (c *client) record(op operation, call int64, value any, err error) (a answer, ok bool) {
	ret := c.h.now()
	if err != nil && errors.Is(err, runnel.ErrFailed) {
		c.h.w.reopen(c.id, false)
	}
	refused, v := judge(err, c.h.w.kind.away())
	if v == unknown && op.reads() {
		v = void
	}
	switch a = (answer{value: value, refused: refused, unknown: v == unknown}); v {
	case void:
		c.h.tally.count("nothing told")
		return a, false
	default:
		c.h.add(c.id, op, call, ret, a)
	}
	return a, v == definite
}

// patience is how long a client waits. Some give up early, though not many of one history, because each
// outcome that stays unknown doubles what can have happened.
func (c *client) patience() (context.Context, context.CancelFunc) {
	if !c.calm && c.chance(15) {
		c.h.mu.Lock()
		defer c.h.mu.Unlock()
		if c.h.left > 0 {
			c.h.left--
			c.h.tally.count("calls cancelled")
			return context.WithTimeout(context.Background(), time.Duration(c.rng.IntN(700))*time.Microsecond)
		}
	}
	return context.WithTimeout(context.Background(), time.Minute)
}

// outcome is what became of one history.
type outcome struct {
	result porcupine.CheckResult
	page   string // where the failing history is drawn
	lines  string // the part of it that fails, by the time of the calls
}

const (
	callsEach    = 10
	cancelsOfAll = 3
	// thinking is how long Porcupine may look at one history.
	thinking = 10 * time.Second
)

// run makes one history and checks it.
func run(m *model, k kind, seed uint64, t *tally, broken mutation) (outcome, error) {
	w, err := open(k, seed, t, broken)
	if err != nil {
		return outcome{}, err
	}
	h := &history{w: w, tally: t, began: time.Now(), left: cancelsOfAll}
	newClient := func(id int) *client {
		return &client{id: id, h: h, rng: rand.New(rand.NewPCG(seed, uint64(id))), todo: callsEach}
	}
	clients := m.clients
	if clients == 0 {
		clients = 4
	}
	alone := newClient(clients)
	alone.calm = true
	if m.prepare != nil {
		m.prepare(alone)
	}
	w.disturb()
	var wg sync.WaitGroup
	for id := range clients {
		c := newClient(id)
		wg.Go(func() { m.play(c) })
	}
	if w.restarts {
		wg.Go(func() {
			pause(context.Background(), time.Duration(alone.rng.IntN(4000))*time.Microsecond)
			w.reopen(alone.rng.IntN(2), true)
		})
	}
	wg.Wait()
	w.calm()
	m.conclude(alone)
	if err := w.close(); err != nil {
		return outcome{}, err
	}
	if err := errors.Join(h.dead...); err != nil {
		return outcome{}, err
	}
	return h.check(m, seed)
}

// pause waits, as clients and disks do.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// check looks for an order that explains the history.
func (h *history) check(m *model, seed uint64) (outcome, error) {
	h.tally.history(h.all)
	powers := m.states
	if !m.whole {
		powers.Partition = byKey
	}
	checked := powers.ToModel()
	result := porcupine.CheckOperationsTimeout(checked, h.all, thinking)
	h.tally.count("checked: " + string(result))
	if result != porcupine.Illegal {
		return outcome{result: result}, nil
	}
	result, info := porcupine.CheckOperationsVerbose(checked, h.all, thinking)
	file, err := os.CreateTemp("", fmt.Sprintf("linear-%s-%s-%d-*.html", m.name, h.w.kind.file(), seed))
	if err != nil {
		return outcome{}, err
	}
	defer file.Close()
	failed := outcome{result: result, page: file.Name(), lines: lines(checked, h.all)}
	return failed, porcupine.Visualize(checked, info, file)
}

// lines tells the partitions of a history that fail.
func lines(m porcupine.Model, all []porcupine.Operation) string {
	parts := [][]porcupine.Operation{all}
	if m.Partition != nil {
		parts = m.Partition(all)
	}
	m.Partition = nil
	var text strings.Builder
	for _, part := range parts {
		if porcupine.CheckOperationsTimeout(m, part, thinking) != porcupine.Illegal {
			continue
		}
		slices.SortFunc(part, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
		for _, o := range part {
			ret := "never"
			if o.Return != forever {
				ret = fmt.Sprint(time.Duration(o.Return).Round(time.Microsecond))
			}
			fmt.Fprintf(&text, "  %8v … %-8s client %d: %v → %v\n", time.Duration(o.Call).Round(time.Microsecond), ret, o.ClientId, o.Input, o.Output)
		}
	}
	return text.String()
}

// byKey takes a history apart into those of its keys.
func byKey(all []porcupine.Operation) [][]porcupine.Operation {
	at := make(map[string]int)
	var parts [][]porcupine.Operation
	for i := range all {
		key := all[i].Input.(operation).key()
		n, ok := at[key]
		if !ok {
			n = len(parts)
			at[key] = n
			parts = append(parts, nil)
		}
		parts[n] = append(parts[n], all[i])
	}
	return parts
}
