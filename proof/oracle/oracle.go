// Package oracle judges a log from the outside. A [Ledger] is told what clients send, what they are told
// and what readers receive, and says what must therefore be true of the content that is found. It knows
// nothing of how the log works, so that any proof that drives a log can share it: in one process, over
// HTTP, over several servers, through crashes and restarts.
//
//	w := l.Begin("orders/42", "paid")
//	// send it
//	w.Acknowledged() // or w.Refused(), or w.Unknown()
//	l.Saw("reader 1", "orders/42", 0, "paid")
//	for _, v := range l.Check("orders/42", []string{"paid"}, false, true) {
//		t.Error(v)
//	}
//
// Payloads are unique within a path over all lives of its name. Every operation is an interval of the
// ledger's clock, from before it was sent until after it was answered; what follows from the order of two
// operations is demanded only where their intervals do not overlap, and so never wrongly.
package oracle

// The invariants, as the output names them. Where the crash simulator (proof/crash) has the same one it
// has the same name.
const (
	KeepsAcknowledged = "nothing acknowledged is lost"
	KeepsSeen         = "nothing seen is taken back"
	NoRefused         = "nothing refused is present"
	NoForeign         = "nothing is present that nobody wrote"
	StoredOnce        = "nothing is present twice"
	WholeAppends      = "an append is there as a whole and in one piece, or not at all"
	ToldPlace         = "an entry stands where its answer said"
	RealTimeOrder     = "what was acknowledged before another was begun stands before it"
	StaysFound        = "an unknown outcome is one of the two, and stays what it turned out to be"
	StaysEnded        = "closes and deletes stay"
	NothingAfterClose = "nothing stands after a close"
	NoOldByte         = "a recreated name shows no old byte"
	GaplessReader     = "a live reader gets every entry once and in order"
	OneContent        = "all readers see the same at the same place"
)

// Invariants returns all of them.
func Invariants() []string {
	return []string{
		KeepsAcknowledged, KeepsSeen, NoRefused, NoForeign, StoredOnce, WholeAppends, ToldPlace, RealTimeOrder,
		StaysFound, StaysEnded, NothingAfterClose, NoOldByte, GaplessReader, OneContent,
	}
}

// Violation says which invariant does not hold, and how.
type Violation struct { //nolint:errname // it is a finding, which may also be used as an error
	Invariant, Text string
}

func (v Violation) Error() string { return v.Invariant + ": " + v.Text }
