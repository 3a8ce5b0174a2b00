package crash

import "fmt"

// invariants are what is checked, by the names that the output shows. One that a long run never looks at
// fails the run.
var invariants []string

// invariant declares one.
func invariant(name string) string {
	invariants = append(invariants, name)
	return name
}

var (
	itRuns        = invariant("the simulator runs")
	keepsAcked    = invariant("nothing acknowledged is lost")
	keepsSeen     = invariant("nothing seen is taken back")
	noRefused     = invariant("nothing refused is present")
	onePrefix     = invariant("a space is what it was after a prefix of its commits, each whole or not at all")
	staysFound    = invariant("an unknown outcome is one of the two, and stays what it turned out to be")
	inOrder       = invariant("sequences have no gaps; positions and timestamps never go back")
	staysEnded    = invariant("closes and deletes stay")
	noOldByte     = invariant("a recreated name shows no old byte")
	storedOnce    = invariant("a producer's retry is stored once, across crashes")
	inherits      = invariant("forks read what they inherited")
	exactCut      = invariant("retention cuts exactly where it should")
	durableFirst  = invariant("nothing is told or shown before it is durable")
	staysFailed   = invariant("after a failed sync nothing is acknowledged")
	exactAnswers  = invariant("every answer is the model's")
	gaplessReader = invariant("a live reader gets every entry once and in order")
	bothAgree     = invariant("Go and HTTP show the same")

	listsAll    = invariant("a listing shows what is there, in order, and nothing else")
	livesOn     = invariant("a segment does not expire while it is used or waited for")
	alwaysOpens = invariant("a disk that lost power can be opened")
)

// violation is what ends a run.
type violation struct {
	invariant, text string
}

func (v *violation) Error() string { return v.invariant + ": " + v.text }

func (s *sim) fail(invariant, format string, args ...any) {
	panic(&violation{invariant, fmt.Sprintf(format, args...)})
}

// check looks at an invariant, and counts that.
func (s *sim) check(invariant string, ok bool, format string, args ...any) {
	s.cover.look(invariant)
	if !ok {
		s.fail(invariant, format, args...)
	}
}
