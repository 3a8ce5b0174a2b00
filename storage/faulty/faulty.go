// Package faulty makes drivers fail on cue, so that tests can ask what happens when storage refuses,
// answers late, does not know, or loses power. Nothing in it is left to chance or to time: what happens
// follows from the rules, from the order of the calls, and from what the test allows.
//
// There are two wrappers, which can be put around each other. A [Driver] follows [Rule]s. A
// [WriteCache] keeps back what a disk would not have synced yet, and can lose it.
//
//	d := faulty.New(new(memory.Driver),
//		faulty.Rule{When: faulty.Nth(faulty.Commit, 3), Then: faulty.After(storage.ErrUnknown)},
//	)
//
// makes the third commit happen and denies all knowledge of it.
package faulty

import (
	"context"
	"fmt"
	"iter"
	"sync"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

// Op is a method of a driver.
type Op int

// The methods that rules can be about.
const (
	Commit Op = iota
	Guard
	Get
	Scan
	Drop
	Stores
	Partitions
	Close
	ops // how many there are
)

func (o Op) String() string {
	names := [...]string{"Commit", "Guard", "Get", "Scan", "Drop", "Stores", "Partitions", "Close"}
	if o < 0 || int(o) >= len(names) {
		return fmt.Sprintf("Op(%d)", int(o))
	}
	return names[o]
}

// Call is what a rule gets to see of a call. The slices in it belong to the caller of the driver.
type Call struct {
	Op Op
	// N counts the calls of the same Op: 1 for the first. For Scan, Stores and Partitions a call is when
	// ranging begins.
	N int
	// Partition is what the call is about. Of Stores and Close it is zero; of Partitions it is the store
	// and the name to begin at.
	Partition storage.Partition
	Batch     *storage.Batch // of Commit
	Key       []byte         // of Get
	Range     storage.Range  // of Scan and Drop
}

// Rule says what becomes of the calls that it matches. The first rule that matches a call decides; a
// call that none matches goes through.
type Rule struct {
	// When tells whether the rule matches. Nil matches every call. It is asked about one call at a time,
	// so it may keep a count or draw from a random source without a lock of its own.
	When func(Call) bool
	// Then replaces the call.
	Then Effect
}

// Driver follows rules in front of another driver.
type Driver struct {
	inner storage.Driver

	mu    sync.Mutex
	rules []Rule
	calls [ops]int
}

var _ storage.Driver = (*Driver)(nil)

// New returns a driver that follows the rules in front of inner, which belongs to it from then on.
func New(inner storage.Driver, rules ...Rule) *Driver {
	return &Driver{inner: inner, rules: rules}
}

// Opening returns a function that opens drivers as open does, each with the rules in front of it.
func Opening(open func() (storage.Driver, error), rules ...Rule) func() (storage.Driver, error) {
	return func() (storage.Driver, error) {
		inner, err := open()
		if err != nil {
			return nil, err
		}
		return New(inner, rules...), nil
	}
}

// SetRules replaces the rules. Calls are counted on.
func (d *Driver) SetRules(rules ...Rule) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rules = rules
}

// Calls returns how many calls of an op have been made.
func (d *Driver) Calls(op Op) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls[op]
}

// effect counts the call and returns what becomes of it.
func (d *Driver) effect(c Call) (Call, Effect) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls[c.Op]++
	c.N = d.calls[c.Op]
	for _, rule := range d.rules {
		if rule.When == nil || rule.When(c) {
			return c, rule.Then
		}
	}
	return c, Through
}

// do makes a call through the rules.
func (d *Driver) do(ctx context.Context, c Call, call func(context.Context) error) error {
	c, effect := d.effect(c)
	return effect(ctx, c, call)
}

// Limits returns the inner driver's. No rule is about it.
func (d *Driver) Limits() storage.Limits { return d.inner.Limits() }

// Commit commits, as far as the rules let it. It returns the version 0 with every error.
func (d *Driver) Commit(ctx context.Context, p storage.Partition, b *storage.Batch) (v storage.Version, err error) {
	err = d.do(ctx, Call{Op: Commit, Partition: p, Batch: b}, func(ctx context.Context) (err error) {
		v, err = d.inner.Commit(ctx, p, b)
		return err
	})
	if err != nil {
		return 0, err
	}
	return v, nil
}

// Guard returns the guard, as far as the rules let it.
func (d *Driver) Guard(ctx context.Context, p storage.Partition) (v storage.Version, id storage.CommitID, err error) {
	err = d.do(ctx, Call{Op: Guard, Partition: p}, func(ctx context.Context) (err error) {
		v, id, err = d.inner.Guard(ctx, p)
		return err
	})
	if err != nil {
		return 0, storage.CommitID{}, err
	}
	return v, id, nil
}

// Get returns a value, as far as the rules let it.
func (d *Driver) Get(ctx context.Context, p storage.Partition, key []byte) (value []byte, err error) {
	err = d.do(ctx, Call{Op: Get, Partition: p, Key: key}, func(ctx context.Context) (err error) {
		value, err = d.inner.Get(ctx, p, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	return value, nil
}

// Scan yields a range, as far as the rules let it.
func (d *Driver) Scan(ctx context.Context, p storage.Partition, r storage.Range) iter.Seq2[storage.Pair, error] {
	return ranged(ctx, d, Call{Op: Scan, Partition: p, Range: r}, func(ctx context.Context) iter.Seq2[storage.Pair, error] {
		return d.inner.Scan(ctx, p, r)
	})
}

// Drop removes a range, as far as the rules let it.
func (d *Driver) Drop(ctx context.Context, p storage.Partition, r storage.Range) error {
	return d.do(ctx, Call{Op: Drop, Partition: p, Range: r}, func(ctx context.Context) error {
		return d.inner.Drop(ctx, p, r)
	})
}

// Stores yields the stores, as far as the rules let it.
func (d *Driver) Stores(ctx context.Context) iter.Seq2[runnel.Store, error] {
	return ranged(ctx, d, Call{Op: Stores}, d.inner.Stores)
}

// Partitions yields the partitions of a store, as far as the rules let it.
func (d *Driver) Partitions(ctx context.Context, store runnel.Store, from string) iter.Seq2[storage.Partition, error] {
	c := Call{Op: Partitions, Partition: storage.Partition{Store: store, Name: from}}
	return ranged(ctx, d, c, func(ctx context.Context) iter.Seq2[storage.Partition, error] {
		return d.inner.Partitions(ctx, store, from)
	})
}

// Close closes the inner driver, as far as the rules let it.
func (d *Driver) Close() error {
	return d.do(context.Background(), Call{Op: Close}, func(context.Context) error { return d.inner.Close() })
}

// ranged puts the rules in front of a sequence. The error of the effect, whether it came before or after
// the sequence, is yielded last.
func ranged[T any](ctx context.Context, d *Driver, c Call, inner func(context.Context) iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		left := false // the consumer has left, or has seen an error, and must not be called again
		err := d.do(ctx, c, func(ctx context.Context) error {
			most, cut := ctx.Value(midway{}).(int)
			n := 0
			for v, err := range inner(ctx) {
				if n++; cut && n > most {
					return nil
				}
				if !yield(v, err) || err != nil {
					left = true
					return err
				}
			}
			return nil
		})
		if err != nil && !left {
			var none T
			yield(none, err)
		}
	}
}
