package engine

import (
	"context"

	"github.com/bits-and-blooms/bloom/v3"
)

// names tells for most names that a space does not hold that it does not, without asking storage. It is
// what makes the creation of many segments cheap: each is looked for before it is made. The space's lock
// guards it. The zero names knows nothing.
type names struct {
	misses   int // lookups that storage answered with no, since the filter was built or filled up
	filter   *bloom.BloomFilter
	room     int // names that may be added before the filter answers too often with perhaps
	building bool
	created  []string // while the filter is being built
}

const (
	// namesMisses is how many lookups in vain make a filter worth its price, a pass over all names.
	namesMisses = 1024
	// namesRoom is the least number of names that a filter has room for.
	namesRoom = 64 << 10
	// namesFalse is how often the filter is wrong about a name that is not there, when it is full.
	namesFalse = 0.01
)

// absent tells whether the space is known not to hold a segment of the name.
func (n *names) absent(name string) bool {
	return n.filter != nil && !n.filter.TestString(name)
}

// add notes that a segment of the name is being created.
func (n *names) add(name string) {
	if n.building {
		n.created = append(n.created, name)
	}
	if n.filter == nil {
		return
	}
	n.filter.AddString(name)
	if n.room--; n.room < 0 {
		n.filter = nil
	}
}

// missed notes that storage was asked for a segment in vain, and begins to build a filter when that has
// happened often. It is called by an operation, without the lock.
func (sp *space) missed() {
	if !sp.e.limits.Exclusive {
		return // others create segments too
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	n := &sp.names
	if n.filter != nil || n.building {
		return
	}
	if n.misses++; n.misses < namesMisses || sp.e.begin() != nil {
		return
	}
	n.misses = 0
	n.building = true
	go func() {
		defer sp.e.operations.Done()
		sp.buildNames(sp.e.ctx)
	}()
}

// buildNames makes a filter of all names of the space. Those that are created meanwhile are noted, and
// those that were staged before are waited for.
func (sp *space) buildNames(ctx context.Context) {
	all, err := sp.readNames(ctx)
	sp.mu.Lock()
	defer sp.mu.Unlock()
	n := &sp.names
	created := n.created
	n.building, n.created = false, nil
	if err != nil {
		return // storage is asked on
	}
	room := max(namesRoom, 2*(len(all)+len(created)))
	n.filter = bloom.NewWithEstimates(uint(room), namesFalse)
	n.room = room - len(all)
	for _, name := range all {
		n.filter.AddString(name)
	}
	for _, name := range created {
		n.add(name)
	}
}

func (sp *space) readNames(ctx context.Context) ([]string, error) {
	if err := sp.barrier(ctx); err != nil {
		return nil, err
	}
	var all []string
	for pair, err := range sp.e.driver.Scan(ctx, sp.part, kindRange(keyDescriptor)) {
		if err != nil {
			return nil, err
		}
		select {
		case <-sp.e.closed:
			return nil, context.Canceled
		default:
		}
		all = append(all, string(pair.Key[1:]))
	}
	return all, nil
}
