package bugs

import (
	"fmt"
	"regexp"
	"time"
)

// bug is a bug that was, and how to see it again.
type bug struct {
	kind kind
	// name is that of the diff which brings the bug back, without its extension.
	name string
	// symptom is what a user met, in one sentence.
	symptom string
	// found is how the bug was found.
	found string

	// pkg and test, a pattern for -run, are what fails on the broken code, and args are arguments for the
	// test binary, a range of seeds for instance.
	pkg, test string
	args      []string
	// says matches what the test prints on the broken code, and nothing that another failure would print.
	says *regexp.Regexp
	// hangs is after how long a test that the bug keeps from ending is broken off. 0 is for all others.
	hangs time.Duration
	// quick bugs are looked at in every run of the tests.
	quick bool
}

func (b *bug) file() string { return b.name + ".diff" }

func (b *bug) command() string {
	return fmt.Sprintf("go test ./proof/bugs -run 'TestEachBugIsSeen/%s$' -v", b.name)
}

func (b *bug) String() string { return fmt.Sprintf("%s\n\n%s", b.symptom, b.test) }

// kind is what a bug did to a user.
type kind int

const (
	lost   kind = iota // or doubled, or damaged
	taken              // what somebody saw or was told was not so later
	wrong              // answer, or refusal
	life               // too short or too long
	stands             // still, or spins
	grows              // without a bound
	kinds
)

func (k kind) String() string {
	return [...]string{
		"Entries lost, doubled or damaged", "Seen, or told, and taken back", "Answered or refused wrongly",
		"Lived too long or not long enough", "Stood still", "Grew without a bound",
	}[k]
}

// written is how a bug was found of which nobody noted more.
const written = "review or test while it was written"

// seen compiles what a test says.
func seen(words string) *regexp.Regexp { return regexp.MustCompile(words) }

var bugs = []bug{
	{
		kind: lost, name: "marker-without-manifest",
		symptom: "After a power failure while a database was opened for the first time it could never be opened again.",
		found:   "crash simulation, on its first seed (cockroachdb/pebble#5825)",
		pkg:     "./storage/pebblestore", test: "^TestPowerMayFailWhileItOpens$", quick: true,
		says: seen(`could not open manifest file "MANIFEST-\d+".*file does not exist`),
	},
	{
		kind: lost, name: "unknown-append-is-doubled",
		symptom: "Where processes share storage, an append was written twice if its outcome was unknown and another process committed next.",
		found:   written,
		pkg:     "./engine", test: "^TestAnUnknownOutcomeIsFoundOut$", quick: true,
		says: seen(`happened,_blind:_false,_overtaken:_true[^\n]*\n.*write 1: runnel: the tail of segment "s/a" is 4, not 2`),
	},
	{
		kind: lost, name: "producer-forgotten-during-lookup",
		symptom: "A producer's retry was stored a second time if the producer had written, and had left memory because of thousands of others, while it was being looked up.",
		found:   written,
		pkg:     "./engine", test: "^TestAProducerThatWritesAndIsForgottenDuringALookupIsStillKnown$",
		says: seen(`a write of a producer is taken twice`),
	},
	{
		kind: lost, name: "slow-fork-loses-its-source",
		symptom: "A fork whose creation took storage longer than a minute lost what it had inherited when its source was deleted.",
		found:   written,
		pkg:     "./engine", test: "^TestAForkThatIsSlowToComeKeepsItsClaim$",
		says: seen(`read s/fork after 0: record: corrupt: entries are missing`),
	},
	{
		kind: lost, name: "fork-on-a-claim-taken-back",
		symptom: "A fork was made on a claim that the source had taken back as orphaned, and lost what it had inherited.",
		found:   written,
		pkg:     "./engine", test: "^TestAForkIsNotMadeOnAClaimThatIsTooOld$",
		says: seen(`read s/fork after 0: record: corrupt: entries are missing`),
	},
	{
		kind: lost, name: "trim-overtakes-a-fork",
		symptom: "A fork lost entries to the retention of its source, which did not see the fork on its way.",
		found:   written,
		pkg:     "./engine", test: "^TestTrimmingKeepsWhatAForkOnItsWayReads$",
		says: seen(`read s/fork after 0: record: corrupt: entries are missing`),
	},
	{
		kind: lost, name: "vacuum-takes-the-head",
		symptom: "Where processes share storage, a space that was emptied forgot its last position and could give ids and positions a second time.",
		found:   written,
		pkg:     "./engine", test: "^TestAnEmptiedSpaceKeepsItsHead$",
		says: seen(`0 commits are left`),
	},
	{
		kind: lost, name: "appends-run-into-each-other",
		symptom: "Live readers got several appends of a text or binary stream as one event, and could not tell where one ended.",
		found:   written,
		pkg:     "./durablestreams", test: "^TestSection58EachDataEventHasAControlEventAndOffsetsIncrease$",
		says: seen(`text/plain: caught up at \S+ after [1-9] pairs`),
	},
	{
		kind: lost, name: "character-over-two-appends",
		symptom: "A character whose bytes came in two appends was lost to live readers of text.",
		found:   written,
		pkg:     "./durablestreams", test: "^TestSection58ACharacterThatSpansAppendsComesWhole$",
		says: seen(`got "a\\xf0", .* want "a😀b"`),
	},
	{
		kind: lost, name: "read-goes-on-in-another-stream",
		symptom: "A read by the Go client that was interrupted went on in the middle of another stream that had been created under the name.",
		found:   written,
		pkg:     "./durablestreams/dsclient", test: "^TestAReadDoesNotGoOnInAnotherStreamOfTheSameName$",
		says: seen(`got 3000 bytes and <nil>`),
	},
	{
		kind: lost, name: "tail-goes-on-in-another-stream",
		symptom: "A tail of the Go client went on in the middle of another stream that had been created under the name.",
		found:   "the proof of delivery, on one of its first runs",
		pkg:     "./durablestreams/dsclient", test: "^TestATailDoesNotGoOnInAnotherStreamOfItsName$",
		says: seen(`got \["old" "new 2"\], ended with <nil>`),
	},
	{
		kind: lost, name: "ack-of-another-stream",
		symptom: "Entries of a stream that was deleted and made again while a wake was worked on counted as worked on, by an ack of the stream before it.",
		found:   "a review of items and subscriptions",
		pkg:     "./engine", test: "^TestAnAckDoesNotMoveAStreamThatTookTheNameOfTheOneToldOf$",
		says: seen(`of the stream made again a wake tells .*Acked:2 Tail:3`),
	},
	{
		kind: lost, name: "naming-skips-work",
		symptom: "Naming a stream that the pattern of a subscription links skipped what there was to work on, if no wake had told of it.",
		found:   "a review of acks",
		pkg:     "./engine", test: "^TestNamingAStreamThatThePatternLinksSkipsNothing$",
		says: seen(`runnel: no pending work`),
	},
	{
		kind: lost, name: "attempt-cut-off-acks-another",
		symptom: "Entries of a stream that was deleted and made again counted as worked on, by an ack of who had got a webhook that the server cut off.",
		found:   "a review of acks",
		pkg:     "./engine", test: "^TestAnAttemptThatWasCutOffDoesNotMoveWhatALaterOneWasToldOf$",
		says: seen(`Generation:1`),
	},
	{
		kind: lost, name: "listed-before-it-began",
		symptom: "A subscription whose creation was cut off told of work, and then began behind it.",
		found:   "the crash simulator (`go test ./proof/crash -run TestSubscriptions -args -seeds 1 -seed 820291`)",
		pkg:     "./engine", test: "^TestASubscriptionWhoseCreationWasCutOffBeginsWhenItIsAskedFor$",
		says: seen(`Acked:0 Tail:2`),
	},
	{
		kind: lost, name: "mark-of-a-stream-to-come",
		symptom: "Nobody was told of work on a stream that was deleted and made again just as the one before had been worked off, if it had no more entries.",
		found:   "the crash simulator (`go test ./proof/crash -run TestSubscriptions -args -seeds 1 -seed 1021106`)",
		pkg:     "./engine", test: "^TestWorkIsToldOfAStreamThatComesWhileTheOneBeforeIsWorkedOff$",
		says: seen(`runnel: no pending work`),
	},
	{
		kind: lost, name: "wake-stream-made-again",
		symptom: "A wake that nobody had was not told in a wake stream that was deleted and made again.",
		found:   "a review of acks",
		pkg:     "./engine", test: "^TestAWakeStreamThatIsMadeAgainIsToldOfTheWakesThatNobodyHas$",
		says: seen(`and the stream was told of \[\]`),
	},
	{
		kind: lost, name: "first-form-not-read",
		symptom: "A subscription of a database whose cursors had their first form forgot its streams, and where it was on the others.",
		found:   "a review of items and subscriptions",
		pkg:     "./engine", test: "^TestCursorsInTheirFirstFormGoOnWhereTheyAre$",
		says: seen(`Acked:0 Tail:3}\], which were`),
	},

	{
		kind: taken, name: "failed-sync-is-shown",
		symptom: "After a commit had failed, readers were shown what it left in storage, which nobody had acknowledged.",
		found:   written,
		pkg:     "./engine", test: "^TestWhatAFailedCommitLeavesInStorageIsNeverSeen$",
		says: seen(`s/0 shows \["old" "lost"\]`),
	},
	{
		kind: taken, name: "expiry-told-and-taken-back",
		symptom: "Who was told on creating a fork that the name had expired could find it alive after a crash.",
		found:   written,
		pkg:     "./engine", test: "^TestAnExpirySeenByACreationHolds$",
		says: seen(`got error <nil>, want runnel: deleted, but still read by forks`),
	},
	{
		kind: taken, name: "watchers-hear-of-what-never-was",
		symptom: "Watchers were told of creations and deletions that storage had refused.",
		found:   written,
		pkg:     "./engine", test: "^TestNobodyIsToldOfWhatDidNotHappen$",
		says: seen(`told \["created new" "deleted there"\], and nothing has happened`),
	},
	{
		kind: taken, name: "up-to-date-too-early",
		symptom: "A reader that came back with SSE was told that it is up to date before it had what was there.",
		found:   "the proof of delivery (`go test ./proof/delivery -run TestEveryReader -runs 1 -seed 2`)",
		pkg:     "./durablestreams", test: "^TestSection58AReaderWhoComesBackIsUpToDateOnlyWhenItHasWhatWasThere$",
		says: seen(`got \{StreamNextOffset:0+2_0+ .*UpToDate:true .*want the offset`),
	},
	{
		kind: taken, name: "repeated-commit-told-too-early",
		symptom: "A repeated commit over several segments was answered with the tail of one of them before that was durable.",
		found:   "review, when what an answer waits for got a second kind",
		pkg:     "./engine", test: "^TestARepeatedCommitIsAnsweredNoSoonerThanWhatItSpeaksOf$",
		says: seen(`the repetition, with the first batch durable, ended with|deadlock`),
	},
	{
		kind: taken, name: "read-older-than-another-server-showed",
		symptom: "With two servers on one database, a read could be older than what the other server had already shown.",
		found:   "the check of linearizability (append, world \"shared tight\", seed 4)",
		pkg:     "./engine", test: "^TestWhatOneEngineHasShownIsNotOldForTheOneThatWritesIt$",
		says: seen(`0 after another engine had shown 1`),
	},
	{
		kind: taken, name: "coming-back-to-no-news",
		symptom: "A subscriber of items that came back with its cursor, when nothing had changed since, was sent a snapshot without items.",
		found:   "process chaos (`go test ./proof/chaos -run TestKillsAndFreezes`), on its first run with subscribers of items",
		pkg:     "./items", test: "^TestASubscriberComesBackToWhatHasNotChanged$",
		says: seen(`there is nothing new, and`),
	},

	{
		kind: taken, name: "change-before-what-was-missed",
		symptom: "A subscriber of items whose server had lost its place was told of the next change before it was told that some were missed.",
		found:   "linearizability over the WebSocket of items",
		pkg:     "./items", test: "^TestWhatWasMissedIsToldBeforeWhatCameAfterIt$",
		says: seen(`comes before what was missed`),
	},
	{
		kind: taken, name: "claim-over-another-process",
		symptom: "What was acked by way of one process was told of again, where another gave the wake of a stream that had been deleted and made again meanwhile.",
		found:   "a review of acks",
		pkg:     "./engine", test: "^TestAClaimMovesNothingBackThatAnotherProcessHasBroughtToAnotherStream$",
		says: seen(`pull-wake: {Path:events/a Explicit:false Acked:0 Tail:4}`),
	},
	{
		kind: taken, name: "drop-over-another-process",
		symptom: "A drop of a delivery took back what was acked by way of another process, and linked again what that had unlinked.",
		found:   "a review of acks",
		pkg:     "./engine", test: "^TestADrop(MovesNothingBack|LinksNothingAgain)",
		says: seen(`(?s)Acked:0 Tail:3.*Explicit:true Acked:2 Tail:2`),
	},
	{
		kind: taken, name: "move-over-another-process",
		symptom: "A cursor of a subscription was moved by hand from where it was not any more, against what was expected, where another process had brought it to another stream.",
		found:   "a review of acks",
		pkg:     "./engine", test: "^TestACursorIsMovedByHandFromWhereAnotherProcessHasBroughtIt$",
		says: seen(`and answered with <nil>`),
	},
	{
		kind: wrong, name: "unreadable-guard-is-guessed",
		symptom: "Where processes share storage, an append that had happened was answered with a failure if storage could not be read for a moment.",
		found:   written,
		pkg:     "./engine", test: "^TestAnUnknownOutcomeIsFoundOut$",
		says: seen(`blind:_true.*\n.*write 0: runnel: reading storage: no answer`),
	},
	{
		kind: wrong, name: "staged-behind-fails-too",
		symptom: "A write was refused because the one before it was, with which it had nothing to do.",
		found:   written,
		pkg:     "./engine", test: "^TestWhatIsStagedBehindARefusedCommitIsTriedAgain$",
		says: seen(`staged_test.go:\d+: got error runnel: unavailable: storage: refused, want <nil>`),
	},
	{
		kind: wrong, name: "waiter-forgets-its-place",
		symptom: "Where processes share storage, a reader waiting for what comes missed what came, or was given the entries of another segment of the name.",
		found:   written,
		pkg:     "./engine", test: "^TestAWaiterLooksByItselfForWhatOthersWrite$",
		says: seen(`recreate,_after_1 [^\n]*\n.*got error <nil>, want runnel: not found`),
	},
	{
		kind: wrong, name: "half-of-a-segment-is-read",
		symptom: "Where processes share storage, a segment that another process was deleting was described as there and empty.",
		found:   written,
		pkg:     "./engine", test: "^TestASegmentIsNotReadHalfBeforeAndHalfAfterAnotherEnginesWrite$",
		says: seen(`deleted_before_look_\d [^\n]*\n.*Tail:0 Earliest:0 Bytes:0`),
	},
	{
		kind: wrong, name: "page-that-has-grown",
		symptom: "A read of a JSON stream by the Go client failed, or gave messages that never were, when the connection was lost just after a page and more was appended before the page was asked for again.",
		found:   "the proof of delivery (`go test ./proof/delivery -run TestEveryReader -runs 1 -seed 2`)",
		pkg:     "./durablestreams/dsclient", test: "^TestAPageThatIsAskedForAgainMayHaveGrown$",
		says: seen(`dsclient: the data is not an array of JSON messages`),
	},
	{
		kind: wrong, name: "reason-breaks-off",
		symptom: "A tail of the Go client ended with a bare 400 where the connection was cut in the reason of a refusal.",
		found:   "the proof of delivery (`go test ./proof/delivery -run TestEveryReader -runs 1 -seed 888005`)",
		pkg:     "./durablestreams/dsclient", test: "^TestARefusalWhoseReasonBreaksOffIsAskedForAgain$",
		says: seen(`400 Bad Request, and 1 answers are left`),
	},
	{
		kind: wrong, name: "tail-waits-for-another-stream",
		symptom: "A tail by long-poll waited on, without a word, when its stream was deleted and another one of the same length was created under the name.",
		found:   "the proof of delivery (`go test ./proof/delivery -run TestEveryReader -runs 1 -seed 40075`)",
		pkg:     "./durablestreams/dsclient", test: "^TestATailThatWaitsLearnsThatItsStreamWasReplaced$",
		says: seen(`longPoll=true: ended with context deadline exceeded`),
	},
	{
		kind: wrong, name: "half-read-after-a-refusal",
		symptom: "After storage had refused a write, a stream that was being looked at and closed at that moment could be shown with its last entry and still open.",
		found:   `the check of linearizability (life, world "memory faults", seed 60133)`,
		pkg:     "./engine", test: "^TestASegmentIsOfOneMomentAlsoWhenItsSpaceIsReadAnew$",
		says: seen(`the segment is shown with 1 entries, closed: false`),
	},
	{
		kind: wrong, name: "creation-tells-what-is-trimmed",
		symptom: "A creation that found its stream there already, or whose first entries were more than retention keeps, told an earliest place that could not be read from.",
		found:   "the model of the engine (`go test ./engine -run TestEveryDriverAndConfiguration -rapid.seed=3186982528133666466`)",
		pkg:     "./engine", test: "^TestACreationIsAnsweredWithTheEarliestEntryKept$",
		says: seen(`bounded by entries`),
	},
	{
		kind: wrong, name: "lost-lease-comes-back",
		symptom: "A lease that its holder had been told was lost could be renewed when the clock of the server went back.",
		found:   "a review of transactions, leases and queries",
		pkg:     "./engine", test: "^TestALeaseThatIsSaidToBeLostStaysLostWhenTheClockGoesBack$",
		says: seen(`got error <nil>, want runnel: lease lost`),
	},
	{
		kind: wrong, name: "lease-gone-with-an-earlier-one",
		symptom: "A lease that was given while an earlier one of its key was removed could be gone, for a clock that went back, as soon as its time was over.",
		found:   "the crash simulator (`go test ./proof/crash -run TestSeeds -args -seeds 1 -seed 1010569`)",
		pkg:     "./engine", test: "^TestALeaseIsThereAgainWhenTheClockGoesBackAlsoIfAnEarlierOneOfItsKeyWasOldEnoughToGo$",
		says: seen(`is not held under number 2 any more, nor by anybody else, want <nil>`),
	},
	{
		kind: wrong, name: "repeated-commit-wants-its-lease",
		symptom: "A commit that was repeated after its lease had ended was refused, although it had happened.",
		found:   "a review of transactions, leases and queries",
		pkg:     "./engine", test: "^TestACommitThatIsRepeatedAfterItsLeaseHasEndedIsAnsweredAsItWas$",
		says: seen(`is not held under number 2 any more, nor by anybody else, want <nil>`),
	},
	{
		kind: wrong, name: "refused-commit-told-too-early",
		symptom: "A commit over several segments could be refused for a reason that rested on a write which a power failure could still take back.",
		found:   "a review of transactions, leases and queries",
		pkg:     "./engine", test: "^TestARefusedCommitIsToldWhenWhatStandsForItIsDurable$",
		says: seen(`the commit ended with runnel: segment "s/closed" is closed at 0`),
	},
	{
		kind: wrong, name: "cursor-told-of-a-head-to-come",
		symptom: "A cursor that was moved too far was told of a head that was not durable yet.",
		found:   "a review of transactions, leases and queries",
		pkg:     "./engine", test: "^TestACursorBeyondTheHeadIsToldOfADurableHead$",
		says: seen(`the refusal ended with runnel: position 1000 is beyond the head`),
	},
	{
		kind: wrong, name: "place-after-a-whole-commit",
		symptom: "A query until a time left out entries of writes that had been committed together with later ones.",
		found:   "a review of transactions, leases and queries",
		pkg:     "./engine", test: "^TestAPlaceIsFoundInsideACommitOfSeveralWrites$",
		says: seen(`until second 3: \["s/a:0"\], want \["s/a:0" "s/b:2"\]`),
	},
	{
		kind: wrong, name: "retention-mixes-two-entries",
		symptom: "A read from the start by the Go client gave an entry made of two when the connection was lost and retention cut the stream before it went on.",
		found:   "the proof of delivery (`go test ./proof/delivery -run TestEveryReader -runs 1 -seed 50028`)",
		pkg:     "./durablestreams/dsclient", test: "^TestAReadFromTheStartDoesNotMixWhatRetentionMoved$",
		says: seen(`one, \\"three`),
	},
	{
		kind: wrong, name: "repetition-read-at-two-moments",
		symptom: "With two servers on one database, a repeated commit over several segments could be refused as half repeated, and a repeated append be told a tail without it.",
		found:   `the check of linearizability (commit, world "shared faults", seed 21), and thinking on from there`,
		pkg:     "./engine", test: "^(TestACommitOverSegmentsIsAnsweredFromOneMomentOfAllOfThem|TestARepetitionIsAnsweredWithATailThatHasTheWrite)$",
		says: seen(`done by the other: true; runnel: commit repeats 1 of its 2 writes`),
	},
	{
		kind: wrong, name: "closed-elsewhere-is-still-open",
		symptom: "With two servers on one database, a stream that one had closed could be shown by the other with its last entry and still open.",
		found:   "the check of linearizability (commit, world \"shared faults\", seed 3041)",
		pkg:     "./engine", test: "^TestASegmentIsNotReadHalfBeforeAndHalfAfterAnotherEnginesWrite$",
		says: seen(`written_and_closed_before_look_\d+ [^\n]*\n.*Tail:11 .*Closed:false`),
	},
	{
		kind: wrong, name: "trimmed-elsewhere-looks-corrupt",
		symptom: "Where processes share storage, what another process had just trimmed or deleted was reported as corrupt.",
		found:   written,
		pkg:     "./engine", test: "^TestASegmentIsNotReadHalfBeforeAndHalfAfterAnotherEnginesWrite$",
		says: seen(`got error record: corrupt: entries are missing, want runnel: not found`),
	},
	{
		kind: wrong, name: "overtaken-reader-hears-of-corruption",
		symptom: "A reader whom retention overtook was not told so if the segment had left memory.",
		found:   written,
		pkg:     "./engine", test: "^TestAReaderThatRetentionOvertakesIsTold$",
		says: seen(`got error record: corrupt: entries are missing, want a \*runnel\.TrimmedError`),
	},
	{
		kind: wrong, name: "latest-before-earliest",
		symptom: "A segment under load was described as beginning after its end.",
		found:   written,
		pkg:     "./engine", test: "^TestAnEntryThatIsReadIsNeverOlderThanTheEarliest$", args: []string{"-test.count=100"}, // a race
		says: seen(`retain_test.go:\d+: \{Segment:a .*Tail:\d+ Earliest:\d+`),
	},
	{
		kind: wrong, name: "fork-begins-with-what-it-cannot-keep",
		symptom: "A fork was created with a first record larger than the retention that it inherits, and nobody could ever read it.",
		found:   written,
		pkg:     "./engine", test: "^TestAForkInheritsRetention$",
		says: seen(`got error <nil>, want runnel: too large`),
	},
	{
		kind: wrong, name: "commit-row-too-large",
		symptom: "Many small writes at once were refused on storage with small values, because the row of their commit was larger than one.",
		found:   written,
		pkg:     "./engine", test: "^TestManyWritesAreSpreadOverTightBatches$",
		says: seen(`refused: a value has \d+ bytes, the limit is 4096`),
	},
	{
		kind: wrong, name: "commit-to-very-many-segments",
		symptom: "A commit to thousands of segments was answered with an invitation to try again, for ever, and not with the rule that it breaks.",
		found:   written,
		pkg:     "./engine", test: "^TestACommitToMoreSegmentsThanItsRowHoldsIsRefused$",
		says: seen(`got runnel: unavailable: .*a value has \d+ bytes, the limit is 4096, want runnel: invalid request`),
	},
	{
		kind: wrong, name: "fork-chain-too-long-to-write",
		symptom: "A fork at the end of a long chain was answered with an invitation to try again, for ever, and not with the rule that it breaks.",
		found:   written,
		pkg:     "./engine", test: "^TestAForkWhoseDescriptionNoValueHoldsIsRefused$",
		says: seen(`fork \d+: runnel: unavailable: .*a value has \d+ bytes, the limit is 4096`),
	},
	{
		kind: wrong, name: "one-piece-too-many",
		symptom: "An entry at the limit of what storage takes in one batch was answered with an invitation to try again, for ever.",
		found:   written,
		pkg:     "./engine", test: "^TestTheNumberOfPiecesIsKnownBeforehand$",
		says: seen(`refused: the batch has 501 changes, the limit is 500`),
	},
	{
		kind: wrong, name: "prefix-of-no-path-lists-the-root",
		symptom: "A listing of the paths that begin with a slash, of which there are none, showed those of the root.",
		found:   written,
		pkg:     "./engine", test: "^TestListByPrefixAfterAndLimit$",
		says: seen(`prefix "/" after "" limit 0: .*, want \[\]`),
	},
	{
		kind: wrong, name: "watchers-miss-an-expired-source",
		symptom: "Watchers were not told of the end of an expired segment that went with the last of its forks.",
		found:   written,
		pkg:     "./engine", test: "^TestTheEndOfAnExpiredSourceIsToldWhenItGoesWithItsLastFork$",
		says: seen(`told \["deleted fork"\], want`),
	},
	{
		kind: wrong, name: "cache-outlives-the-stream",
		symptom: "Caches were allowed to serve a stream for six minutes, also if it would be gone in two seconds.",
		found:   written,
		pkg:     "./durablestreams", test: "^TestSection56NothingIsCachedForLongerThanItLasts$",
		says: seen(`Cache-Control is "public, max-age=60, stale-while-revalidate=300", want "public, max-age=2"`),
	},
	{
		kind: wrong, name: "etag-of-another-database",
		symptom: "After a database was made anew, a client that had cached a stream of the old one was told that nothing has changed.",
		found:   written,
		pkg:     "./durablestreams", test: "^TestSection101AnotherDatabaseHasOtherETags$",
		says: seen(`both have "1:0:1"`),
	},
	{
		kind: wrong, name: "closed-stream-asks-for-a-type",
		symptom: "An append without a Content-Type to a closed stream was told of the type, and not that the stream is closed.",
		found:   written,
		pkg:     "./durablestreams", test: "^TestSection52AClosedStreamSaysSoBeforeTheTypeIsMissed$",
		says: seen(`status 400, want 409; body .*missing_content_type`),
	},
	{
		kind: wrong, name: "etag-in-if-match",
		symptom: "An append with the ETag of a read in If-Match was called malformed, where the answer is that the condition does not hold.",
		found:   written,
		pkg:     "./durablestreams", test: "^TestIfMatchAppendsOnlyAtTheTail$",
		says: seen(`status 400, want 412; body .*invalid_offset`),
	},
	{
		kind: wrong, name: "location-without-a-host",
		symptom: "A client of HTTP/1.0 that sends no Host was given a Location that is no URL.",
		found:   written,
		pkg:     "./durablestreams", test: "^TestLocationIsAPathIfThereIsNoHost$",
		says: seen(`Location "http:///v1/stream/a%20b"`),
	},
	{
		kind: wrong, name: "no-timestamp-is-taken-for-one",
		symptom: "A Stream-Expires-At that is no timestamp was guessed at rather than refused.",
		found:   written,
		pkg:     "./durablestreams", test: "^TestSection51ALifetimeHasAStrictForm$",
		says: seen(`PUT expiry: status 201, want 400`),
	},
	{
		kind: wrong, name: "own-stream-named-as-the-registry",
		symptom: "A stream of one's own with the name of the registry could not be read.",
		found:   written,
		pkg:     "./durablestreams", test: "^TestAStreamThatOnlyHasTheNameOfTheRegistryIsLeftAlone$",
		says: seen(`GET __registry__: status 409, want 200`),
	},
	{
		kind: wrong, name: "refusal-is-an-internal-error",
		symptom: "A refusal by a log that gives no numbers was answered as an internal error.",
		found:   written,
		pkg:     "./wire", test: "^TestAClientGetsAnErrorThatMatchesTheServersOwn$",
		says: seen(`runnel: closed came as internal error`),
	},
	{
		kind: wrong, name: "query-of-a-url-is-dropped",
		symptom: "A command that was given a stream's URL with an offset in its query read from elsewhere, and said nothing.",
		found:   written,
		pkg:     "./cmd/runnel", test: "^TestFailuresSayWhatTheServerSaid$",
		says: seen(`runnel read http://\S+\?offset=now ended with 1 and .*, want 2 and "--offset"`),
	},
	{
		kind: wrong, name: "force-minds-what-is-deleted",
		symptom: "`runnel rm -f` stopped at a stream that was deleted already and kept for its forks.",
		found:   written,
		pkg:     "./cmd/runnel", test: "^TestForceDoesNotMindWhatIsGone$",
		says: seen(`(?s)rm -f a missing b.*410`),
	},
	{
		kind: wrong, name: "live-response-without-a-head",
		symptom: "A client whose live response ended before its first event was sent no HTTP response at all.",
		found:   "the proof of delivery",
		pkg:     "./durablestreams", test: "^TestSection58AResponseThatEndsBeforeItsFirstEventIsOneNevertheless$",
		says: seen(`malformed HTTP response`),
	},
	{
		kind: wrong, name: "part-that-changed-nothing",
		symptom: "A commit to items of several groups, under an idempotency key, was refused when it was repeated if it had changed nothing in one of them.",
		found:   "crash simulation (`go test ./proof/crash -run TestItems`)",
		pkg:     "./engine", test: "^TestACommitOfWhichAPartChangedNothingIsKnownAgain$",
		says: seen(`repeats 1 of its 2 writes`),
	},
	{
		kind: wrong, name: "deletion-of-nothing-forgotten",
		symptom: "A deletion that found no item, under an idempotency key, deleted what had come to be since when it was repeated.",
		found:   "trying each sentence about items with curl",
		pkg:     "./engine", test: "^TestAnIdempotencyKeyIsKeptOfADeletionOfNothing$",
		says: seen(`Duplicate:false`),
	},
	{
		kind: wrong, name: "overtaken-move-called-refused",
		symptom: "Over a session, a cursor move that had happened was called refused, if its answer was lost and another reader moved the cursor on meanwhile.",
		found:   "reading the code beside `proof/wire`",
		pkg:     "./session", test: "^TestACursorMoveWhoseAnswerIsLostIsNeverCalledRefused$",
		says: seen(`is at 7, not at or before 5`),
	},
	{
		kind: wrong, name: "event-before-held-changes",
		symptom: "An event to subscribers of items came before changes made before it, if another subscription was made on the same WebSocket meanwhile.",
		found:   "a review of items and subscriptions",
		pkg:     "./items", test: "^TestAnEventThatIsSentDuringAJoinComesInItsPlace$",
		says: seen(`the frame is event - \{"type":"t","data":1\}\s+want\s+update m 1`),
	},
	{
		kind: wrong, name: "change-overtakes-an-event",
		symptom: "A change to items could be told before an event that was sent before it.",
		found:   "a review of items and subscriptions",
		pkg:     "./items", test: "^TestAChangeDoesNotOvertakeAnEvent$",
		says: seen(`the frame is update m 2\s+want\s+event - `),
	},
	{
		kind: wrong, name: "stamps-over-a-deletion",
		symptom: "Changes of a deleted group could be stamped after those of the group that was made in its place, where processes share storage.",
		found:   "a review of items and subscriptions",
		pkg:     "./engine", test: "^TestChangesOfADeletedGroupAreNotStampedAfterTheNext$",
		says: seen(`a change that came before the deletion is stamped \d+, and that \d+`),
	},
	{
		kind: lost, name: "trigger-misses-a-deleted-group",
		symptom: "A trigger was not told the changes of a group that was deleted before it came to them.",
		found:   "a review of triggers",
		pkg:     "./engine", test: "^TestWhoHasAPlaceIsToldWhatADeletedGroupHad$",
		says: seen(`g is gone, g/c create\s+want g/a create`),
	},
	{
		kind: wrong, name: "expiry-of-somebody",
		symptom: "The end of an item whose time was over had the transaction id of a deletion that was answered that there is no such item.",
		found:   "the crash simulator (seed 21077 of `TestItems`)",
		pkg:     "./engine", test: "^TestAnExpiryIsNotToldAsTheChangeOfWhoFindsIt$",
		says: seen(`mine.*mine`),
	},
	{
		kind: lost, name: "trigger-hangs-over-a-deletion",
		symptom: "What waited in the log for a handler that hung was not told when its group was deleted meanwhile.",
		found:   "a review of triggers",
		pkg:     "./items", test: "^TestAGroupIsDeletedWhileItsHandlerHangs$",
		says: seen(`handled: `),
	},
	{
		kind: stands, name: "rewind-nobody-is-told-of",
		symptom: "A cursor of a subscription was moved back, and nobody was told of the work, where another process had worked everything off in that moment, and the one that moved it died.",
		found:   "a review of acks",
		pkg:     "./engine", test: "^TestACursorThatIsMovedBackWakesAlsoWhenAnotherProcessHasJustWorkedOff$",
		says: seen(`no pending work`),
	},
	{
		kind: grows, name: "deletions-held-in-memory",
		symptom: "A follower of a stream held all deletions of groups since its place in memory.",
		found:   "a review of items",
		pkg:     "./engine", test: "^TestAReaderHoldsAPageOfDeletionsHoweverManyThereAre$",
		says: seen(`\d+ deletions are held`),
	},
	{
		kind: wrong, name: "fenced-worker-comes-back",
		symptom: "A worker that had been told that the lease on its wake was over could acknowledge it when the clock of the server had gone back.",
		found:   "crash simulation, seed 71007 of subscriptions",
		pkg:     "./engine", test: "^TestAWorkerThatIsSaidToBeFencedStaysFencedWhenTheClockGoesBack$",
		says: seen(`a worker that was fenced is told <nil>`),
	},
	{
		kind: wrong, name: "work-known-elsewhere",
		symptom: "Who asked one of several processes for a wake that another had just begun was told that there is none; a wake stream made again by way of it named no stream.",
		found:   "a review of acks",
		pkg:     "./engine", test: "^TestAWakeIs(ToldAgainByAnotherProcess|GivenByAProcess)",
		says: seen(`(?s)"stream":"".*no pending work`),
	},
	{
		kind: wrong, name: "wake-tells-what-cannot-be-acked",
		symptom: "A wake told of a stream that was made just then, and an ack of it was answered and not stored.",
		found:   "crash simulation, seed 71020 of subscriptions",
		pkg:     "./engine", test: "^TestWhatAWakeTellsOfCanBeAcked$",
		says: seen(`other was acked up to 1, and is at 0`),
	},
	{
		kind: wrong, name: "token-of-the-year-one",
		symptom: "A token whose end in the file of tokens was a year that cannot be written, such as 0, made the next file unreadable, and one that ended as the year 1 began never ended.",
		found:   "fuzzing (`FuzzParseTokens`)",
		pkg:     "./auth", test: "^FuzzParseTokens$",
		says: seen(`is written as`),
	},
	{
		kind: wrong, name: "event-behind-a-silent-group",
		symptom: "An event to a group of items in which nothing had happened yet was not told, nor any event after it.",
		found:   "a review of items and subscriptions",
		pkg:     "./engine", test: "^TestAnEventToAGroupWithoutAnyChangeIsTold$",
		says: seen(`context deadline exceeded`),
	},
	{
		kind: wrong, name: "watch-silent-of-deletions",
		symptom: "Whoever watched several groups of items was not told of deletions any more after storage had failed once.",
		found:   "a review of items and subscriptions",
		pkg:     "./engine", test: "^TestAWatchOfSeveralGroupsEndsWhenItCannotLearnOfDeletions$",
		says: seen(`the watch is silent of what it does not learn`),
	},
	{
		kind: wrong, name: "view-without-what-was-cut",
		symptom: "The items of a space could lack what was written, and cut off the log, while they were being read.",
		found:   "a review of items and subscriptions",
		pkg:     "./engine", test: "^TestAViewOfASpaceHasWhatWasLetGoOfWhileItWasRead$",
		says: seen(`Items:\["k"\]`),
	},
	{
		kind: wrong, name: "state-of-a-space-that-left",
		symptom: "The state of items could not be read while one of them was being written, if its space had left memory before.",
		found:   "a review of items and subscriptions",
		pkg:     "./engine", test: "^TestAStateIsWholeWhereItsSpaceHadLeftMemory$",
		says: seen(`a write to an item that was being read has failed`),
	},
	{
		kind: wrong, name: "who-went-away-is-a-forger",
		symptom: "A receiver of webhooks told of a forged signature when the sender went away while the keys were fetched.",
		found:   written,
		pkg:     "./webhook", test: "^TestASenderThatGoesAwayWhileKeysAreFetchedIsNoForger$",
		says: seen(`got webhook: `),
	},
	{
		kind: wrong, name: "fork-that-is-there-is-refused",
		symptom: "A fork that was created again after its source had been deleted was refused with 409, and not found to be there.",
		found:   written,
		pkg:     "./durablestreams", test: "^TestAForkIsFoundThoughItsSourceIsDeletedSince$",
		says: seen(`409`),
	},
	{
		kind: wrong, name: "move-too-much-for-a-batch",
		symptom: "A move of a cursor of a segment that had expired could make storage refuse it and all writes beside it.",
		found:   "a review of items and subscriptions",
		pkg:     "./engine", test: "^TestAMoveThatFindsItsSegmentExpiredFitsIntoTheBatch$",
		says: seen(`a batch of 28 operations, where storage takes 24`),
	},

	{
		kind: life, name: "crash-forgets-who-waits",
		symptom: "A crash cut short the life of a stream with a TTL that somebody was waiting at.",
		found:   written,
		pkg:     "./engine", test: "^TestReadersKeepASegmentAlive$",
		says: seen(`expire_test.go:\d+: got error runnel: segment "a" not found, want <nil>`),
	},
	{
		kind: life, name: "crash-forgets-a-close",
		symptom: "A crash cut short the life of a stream with a TTL that had last been used to close it.",
		found:   written,
		pkg:     "./engine", test: "^TestTheWindowSlidesWithEveryUse$/^close",
		says: seen(`close,_crashed [^\n]*\n.*it is gone before its time`),
	},
	{
		kind: life, name: "trim-forgets-the-last-use",
		symptom: "A crash cut short the life of a stream with a TTL whose last entries retention had dropped.",
		found:   written,
		pkg:     "./engine", test: "^TestTrimmingKeepsTheLastUse$",
		says: seen(`got error runnel: segment "a" not found, want <nil>`),
	},
	{
		kind: life, name: "clean-close-lengthens-a-life",
		symptom: "A restart lengthened the life of a stream with a TTL although the server was closed as it should be.",
		found:   written,
		pkg:     "./engine", test: "^TestTheWindowSlidesWithEveryUse$",
		says: seen(`read,_closed_and_reopened [^\n]*\n.*it is there after its time`),
	},
	{
		kind: life, name: "ttl-grows-with-every-crash",
		symptom: "The time that a crash adds to a TTL added up over crashes, so that a stream could live for ever.",
		found:   written,
		pkg:     "./engine", test: "^TestCrashesDoNotAddUpToALongerLife$",
		says: seen(`got error <nil>, want runnel: not found`),
	},
	{
		kind: life, name: "taking-turns-lengthens-a-life",
		symptom: "With several servers on one database, a stream could long outlive its TTL when they took turns in it.",
		found:   "model tests on all drivers at once",
		pkg:     "./engine", test: "^TestAWindowIsNotWidenedByHandingASegmentFromEngineToEngine$",
		says: seen(`window_test.go:\d+: got error <nil>, want runnel: not found`),
	},
	{
		kind: life, name: "overtaken-commit-forgets-a-read",
		symptom: "With several servers on one database, a stream could expire although it had just been read, when another server's write came between.",
		found:   "model tests on all drivers at once",
		pkg:     "./engine", test: "^TestAReadRenewsTheWindowAlsoWhereAnotherEngineWinsAgainstItsCommit$",
		says: seen(`window_test.go:\d+: got error runnel: segment "s/a" not found, want <nil>`),
	},
	{
		kind: life, name: "reader-elsewhere-does-not-count",
		symptom: "Where processes share storage, a stream with a TTL expired although it was read through another process.",
		found:   written,
		pkg:     "./engine", test: "^TestTheWindowSlidesForAllEngines$",
		says: seen(`1 reads every 1s: runnel: segment "a" not found`),
	},

	{
		kind: stands, name: "cut-over-and-over",
		symptom: "Where storage took no writes, what retention had cut was tried to be written down over and over, by a processor that did nothing else.",
		found:   "the crash simulator (`go test ./proof/crash -run TestSeeds -args -seeds 1 -seed 1001593`)",
		pkg:     "./engine", test: "^TestWhatRetentionHasCutIsNotWrittenDownOverAndOver$",
		says: seen(`panic: it is tried over and over`),
	},
	{
		kind: stands, name: "turn-of-a-host-is-lost",
		symptom: "Webhooks to a host with much to send waited for another one to it, if the one whose turn it was had been put off.",
		found:   "fuzzing (`FuzzLines`)",
		pkg:     "./webhook", test: "^TestATargetWithNothingToSendPassesTheTurnOfItsHostOn$",
		says: seen(`the host has room, and what is sent is <nil>`),
	},
	{
		kind: stands, name: "lease-waiters-miss-a-change",
		symptom: "One who waited for a lease, or watched leases, was not told of a change when whoever had asked for the change had gone.",
		found:   "a review of transactions, leases and queries",
		pkg:     "./engine", test: "^TestALeaseThatChangesIsNoticedWhoeverAsked$",
		says: seen(`the watcher was not told`),
	},
	{
		kind: stands, name: "lease-storage-cannot-keep",
		symptom: "A lease with more metadata than storage takes in a value was refused as if a retry could help.",
		found:   "a review of transactions, leases and queries",
		pkg:     "./engine", test: "^TestALeaseThatStorageCannotKeepIsRefused$",
		says: seen(`got error runnel: unavailable: .* want runnel: too large`),
	},
	{
		kind: stands, name: "wide-commit-spins",
		symptom: "A commit that looked at more than 4,096 cursors or idempotency keys never ended.",
		found:   "a review of transactions, leases and queries",
		pkg:     "./engine", test: "^TestACommitMayLookAtMoreRowsThanAreKeptInMemory$",
		says: seen(`context deadline exceeded`),
	},
	{
		kind: stands, name: "watcher-that-leaves-holds-the-engine",
		symptom: "An engine did not close after a consumer of leases had panicked.",
		found:   "a review of transactions, leases and queries",
		pkg:     "./engine", test: "^TestAnEngineClosesAlthoughAWatcherOfLeasesHasPanicked$",
		says: seen(`it does not close`),
	},
	{
		kind: stands, name: "fork-of-the-ending-spins",
		symptom: "Forking a stream that was being deleted used up a processor until the deletion was durable.",
		found:   written,
		pkg:     "./engine", test: "^TestAnAnswerWaitsForWhatItRestsOn$", hangs: 20 * time.Second,
		says: seen(`panic: test timed out after \S+\s+running tests:[^:]*a_fork_of_what_is_being_deleted`),
	},
	{
		kind: stands, name: "trim-of-the-ending-spins",
		symptom: "Reading a stream with retention while it was being deleted used up a processor until the deletion was durable.",
		found:   written,
		pkg:     "./engine", test: "^TestTrimmingWaitsForADeletionUnderWay$", hangs: 20 * time.Second,
		says: seen(`panic: test timed out after \S+\s+running tests:\s+TestTrimmingWaitsForADeletionUnderWay`),
	},
	{
		kind: stands, name: "year-9999-keeps-readers-busy",
		symptom: "A reader waiting at a stream that expires in some hundred years used up a processor.",
		found:   written,
		pkg:     "./engine", test: "^TestAnExpiryInTheYear9999DoesNotKeepReadersBusy$", hangs: 20 * time.Second,
		says: seen(`panic: test timed out after \S+\s+running tests:\s+TestAnExpiryInTheYear9999`),
	},
	{
		kind: stands, name: "close-waits-for-ever",
		symptom: "A server did not stop as long as storage could not tell what had become of a commit.",
		found:   written,
		pkg:     "./engine", test: "^TestAnEngineClosesAlthoughStorageNeverKnows$",
		says: seen(`still closing`),
	},
	{
		kind: stands, name: "second-close-does-not-wait",
		symptom: "Closing an engine that was being closed returned before it was closed, so that the program could end with writes under way.",
		found:   written,
		pkg:     "./engine", test: "^TestClosingLetsStagedWritesBecomeDurable$",
		says: seen(`closing ended with <nil>`),
	},
	{
		kind: stands, name: "load-holds-everybody-up",
		symptom: "Requests for a stream that storage was slow to load could not be given up, whatever their time-out.",
		found:   written,
		pkg:     "./engine", test: "^TestWhoeverWaitsForALoadCanGiveUp$",
		says: seen(`it still waits for the load, long after its time is up`),
	},
	{
		kind: stands, name: "reader-holds-up-a-writer",
		symptom: "Appends to a stream with retention waited for a reader whom storage kept waiting.",
		found:   written,
		pkg:     "./engine", test: "^TestNoWriterWaitsForAReaderThatLooksForWhatIsRetained$",
		says: seen(`the append waits for a reader whom storage keeps waiting`),
	},
	{
		kind: stands, name: "metadata-is-looked-for-from-the-start",
		symptom: "Reading a large append of records with metadata took minutes, as each was looked for from the start.",
		found:   written,
		pkg:     "./record", test: "^TestTheMetadataOfALargeRunIsReadInALinearTime$",
		says: seen(`\d+ of 65536 entries took \d+s`),
	},
	{
		kind: stands, name: "opening-hangs-on-a-disk-error",
		symptom: "A server whose disk failed while its database was being opened neither started nor ended.",
		found:   written,
		pkg:     "./storage/pebblestore", test: "^TestOpenReportsADiskErrorAndLeavesTheDirectoryFree$", hangs: 20 * time.Second,
		says: seen(`panic: test timed out after \S+\s+running tests:\s+TestOpenReportsADiskError`),
	},
	{
		kind: stands, name: "accepted-without-a-lease",
		symptom: "A webhook that was accepted after another attempt at it had failed, and not called back, was never sent again, and used up a processor.",
		found:   "crash simulation (`go test ./proof/crash -run TestSubscriptions`)",
		pkg:     "./engine", test: "^TestAnAttemptThatIsAcceptedAfterAnotherHasFailedHasALease$",
		says: seen(`when the lease is over: generation 0 after 1`),
	},

	{
		kind: grows, name: "written-only-is-never-trimmed",
		symptom: "The disk filled with a stream that is bounded by bytes or entries if nobody read it.",
		found:   written,
		pkg:     "./engine", test: "^TestWhatRetentionCutsIsDropped$",
		says: seen(`1000 runs are in storage, 10 are retained`),
	},
	{
		kind: grows, name: "what-a-fork-kept-stays",
		symptom: "Entries that retention had cut and only a fork still read stayed on disk when the fork was gone.",
		found:   written,
		pkg:     "./engine", test: "^TestAForkOfWhatRetentionHasCutBeginsThere$",
		says: seen(`has 2 rows of kind e, want 1`),
	},
	{
		kind: grows, name: "every-trim-leaves-a-row",
		symptom: "The disk filled with a row for each time that a stream was trimmed.",
		found:   written,
		pkg:     "./engine", test: "^TestTheRowsOfTrimsThatLaterOnesReplaceAreGivenBack$",
		says: seen(`\d+ rows are left of 200 trims`),
	},
	{
		kind: grows, name: "deleted-is-remembered",
		symptom: "A deleted stream left a row behind until the time at which it would have expired.",
		found:   written,
		pkg:     "./engine", test: "^TestADeletedSegmentIsNotRememberedUntilItWouldHaveExpired$",
		says: seen(`has 10 rows of kind x, want 0`),
	},
	{
		kind: grows, name: "readers-of-large-entries",
		symptom: "Every reader of a large entry had all of it in memory, so that many slow ones ended the server.",
		found:   written,
		pkg:     "./engine", test: "^TestReadersTakeTurnsInHavingALargeEntryInMemory$",
		says: seen(`a second reader of 6 MiB where 8 are allowed got <nil>`),
	},
	{
		kind: grows, name: "large-events",
		symptom: "Every live reader of a large entry had a copy of its event in memory, so that many slow ones ended the server.",
		found:   written,
		pkg:     "./durablestreams", test: "^TestLargeEntriesWaitForTheirTurnToBeSent$",
		says: seen(`the second reader has waited for 0s`),
	},
	{
		kind: grows, name: "metadata-is-not-counted",
		symptom: "The cache of latest entries grew beyond its bound by all metadata.",
		found:   written,
		pkg:     "./engine", test: "^TestMetadataCountsInTheTailCache$",
		says: seen(`6 MiB of metadata are kept in a cache of 1 MiB`),
	},
	{
		kind: grows, name: "quiet-stream-keeps-its-events",
		symptom: "Every stream that was followed live kept its last events in memory for as long as it was quiet.",
		found:   written,
		pkg:     "./durablestreams", test: "^TestAHubKeepsLittleAndNotForLong$",
		says: seen(`it still keeps 2 frames`),
	},
	{
		kind: grows, name: "hub-keeps-large-events",
		symptom: "Every stream that was followed live kept its last event in memory, however large it was.",
		found:   written,
		pkg:     "./durablestreams", test: "^TestAHubKeepsLittleAndNotForLong$",
		says: seen(`after a frame of 262145 bytes it keeps 1, want 0`),
	},
	{
		kind: grows, name: "body-that-trickles",
		symptom: "A client that sent a byte now and then held the room of a whole body for ever, and some hundreds of them shut everybody out.",
		found:   written,
		pkg:     "./durablestreams", test: "^TestASenderMustKeepARate$",
		says: seen(`status 204, want 408`),
	},
	{
		kind: grows, name: "body-holds-twice-what-arrived",
		symptom: "A large body counted, and was given memory, for twice what had arrived of it.",
		found:   written,
		pkg:     "./durablestreams", test: "^TestABodyHoldsLittleMoreThanHasArrived$",
		says: seen(`4194304 bytes are held for 2097152`),
	},
	{
		kind: grows, name: "quiet-trigger-keeps-all-history",
		symptom: "A trigger on one group, in which nothing happened, kept the history of all groups of its space for ever.",
		found:   "a review of items and subscriptions",
		pkg:     "./items", test: "^TestATriggerWhoseGroupIsQuietMovesItsPlaceAllTheSame$",
		says: seen(`the place is`),
	},
}
