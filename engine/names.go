package engine

import (
	"context"

	"github.com/bits-and-blooms/bloom/v3"

	"github.com/runnelhq/runnel"
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
	n := &sp.names
	worth := false
	if n.filter == nil && !n.building {
		n.misses++
		worth = n.misses >= namesMisses
		n.building = worth
	}
	sp.mu.Unlock()
	if !worth {
		return
	}
	err := sp.e.begin()
	if err == nil {
		go func() {
			defer sp.e.operations.Done()
			sp.buildNames(sp.e.ctx)
		}()
	}
}

// buildNames makes a filter of all names of the space. Those that are created meanwhile are noted, and
// those that were staged before are waited for.
func (sp *space) buildNames(ctx context.Context) {
	filter, left, err := sp.readNames(ctx)
	sp.mu.Lock()
	defer sp.mu.Unlock()
	n := &sp.names
	created := n.created
	*n = names{}
	if err != nil {
		return // storage is asked on
	}
	n.filter, n.room = filter, left
	for _, name := range created {
		n.add(name)
	}
}

// readNames makes a filter of the names in storage, with room for as many again.
func (sp *space) readNames(ctx context.Context) (filter *bloom.BloomFilter, left int, err error) {
	if err := sp.barrier(ctx); err != nil {
		return nil, 0, err
	}
	for room := namesRoom; ; room *= 4 {
		filter = bloom.NewWithEstimates(uint(room), namesFalse)
		left = room
		for pair, err := range sp.e.driver.Scan(ctx, sp.part, kindRange(keyDescriptor)) {
			if err != nil {
				return nil, 0, err
			}
			select {
			case <-sp.e.closed:
				return nil, 0, runnel.ErrShutdown
			default:
			}
			filter.Add(pair.Key[1:])
			left--
		}
		if left >= room/2 {
			return filter, left, nil
		}
	}
}
