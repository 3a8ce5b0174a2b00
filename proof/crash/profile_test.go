package crash

import "math/rand/v2"

// profile is a workload: what clients do more of than others. One is drawn for each seed, so that seeds
// differ. A profile counts from what is said at its fields; the zero profile is a bit of everything.
type profile struct {
	name string
	// times multiplies the weights of operations, by name. What is not named is done as often as the table
	// of operations says.
	times map[string]int
	// large is how many of a thousand entries are larger than a run, 0 for one.
	large int
	// bounded and mortal are how many of ten new segments have bounds of retention, or a TTL or an expiry,
	// beside those that have them anyway.
	bounded, mortal int
}

var profiles = []profile{
	{name: "a bit of everything"},
	{name: "mostly producers", times: map[string]int{"produce": 4, "takeover": 4, "retry": 4}},
	{name: "mostly commits", times: map[string]int{"commit": 6, "produce": 2}},
	{name: "mostly forks", times: map[string]int{"fork": 6, "delete": 2}},
	{name: "few big entries", times: map[string]int{"follow": 2, "delete": 2}, large: 80},
	{name: "retention heavy", times: map[string]int{"append": 3}, bounded: 7},
	{name: "short lives", times: map[string]int{"read": 2, "follow": 2, "fork": 3}, mortal: 6},
	{name: "live readers", times: map[string]int{"follow": 5, "append": 3}},
	{name: "coordination", times: map[string]int{"lease": 8, "cursor": 8, "transaction": 8}},
}

func (s *sim) drawProfile(r *rand.Rand) {
	if s.profile == nil {
		s.profile = &profiles[r.IntN(len(profiles))]
	}
	s.cover.hit("profile: " + s.profile.name)
	s.note("the workload is %s", s.profile.name)
}

// weight is how often an operation is picked, beside the others.
func (p *profile) weight(o *operation) int {
	return o.weight * max(p.times[o.name], 1)
}

// kind is which bounds a new segment has: 0 a TTL, 1 an expiry, 2 through 4 retention, more none.
func (p *profile) kind(r *rand.Rand) int {
	switch n := r.IntN(10); {
	case n < p.bounded:
		return 2 + r.IntN(3)
	case n < p.bounded+p.mortal:
		return r.IntN(2)
	}
	return r.IntN(12)
}

// What is large: an entry of more than runBytes has a run of its own, and one of more than fragmentBytes is
// cut into several values. A run of the simulator writes no more than largeBudget of both together.
const (
	runBytes      = 128 << 10
	fragmentBytes = 1 << 20
	largeBudget   = 5 << 20
)

// largeSize draws the size of a large entry, 0 for none.
func (s *sim) largeSize(r *rand.Rand) int {
	if r.IntN(1000) >= max(s.profile.large, 1) {
		return 0
	}
	size := runBytes + r.IntN(runBytes)
	if r.IntN(3) == 0 {
		size = fragmentBytes + r.IntN(fragmentBytes)
	}
	if s.large+size > largeBudget {
		return 0
	}
	s.large += size
	return size
}
