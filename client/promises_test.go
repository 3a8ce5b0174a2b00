package client_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// promise is something that a log like this one does, or that one has been seen to get wrong, with the tests that
// show what ours does: by package, and by name where that is not of the scenarios of this package.
type promise struct {
	what  string
	shown string
}

// promises are the index of the contracts. Where to begin: each name is a sentence, and each test is short.
var promises = []promise{
	// Names and places.
	{"stores, spaces and segments come into being with the first write, and looking makes nothing", "TestPublishMakesTheSegmentAndNumbersItsEntriesFromOne TestLookingForWhatIsNotThereMakesNothing TestStoresAreApart"},
	{"names are checked once, with the rule in the error, and none collides with another or means something else", "TestOddNamesAreNamesLikeOthers TestNamesThatBeginAlikeAreDifferentNames TestARefusedWriteSaysWhichRuleAndTheNumbers pebblestore.TestANameWithNULIsRefused"},
	{"stores, spaces and segments are listed by prefix and in pages, also while they change; what was refused is not listed and what was written is", "TestListsArePagedAndMadeOfPrefixes TestPagesOfAListThatChangesLeaveOutNothingThatStays TestASpaceIsListedAndWatchedWithoutThoseBelowIt TestARefusedFirstWriteLeavesNothingBehind"},
	{"a segment that is deleted and made again is another one", "TestASegmentThatIsDeletedAndMadeAgainIsAnother TestATailEndsWithItsSegmentAndThatOfASpaceGoesOn TestWhatIsWatchedIsToldWhenItComesAndGoesAndComesAgain engine.TestTheDataOfADeletedSegmentIsDropped"},

	// Writing.
	{"sequences are 1, 2, 3 … without a gap, given by the caller or by the server", "TestTheCallerMayGiveTheSequences TestPublishMakesTheSegmentAndNumbersItsEntriesFromOne"},
	{"a write expects any, none, exists, or exactly this sequence", "TestAnAppendIsRefusedWhenWhatItExpectsIsNotSo"},
	{"of competing producers one wins, in one process and over several, and segment and timeline agree", "TestOfCompetingProducersExactlyOneWins linear.TestHistories engine.TestConcurrentAppendsOfTwoEnginesLoseAndDoubleNothing"},
	{"publishing needs no lock: side by side, to one segment or to several, from several processes, every publish succeeds", "TestPublishesToOneSegmentFromSeveralProcessesAllSucceed TestSideBySidePublishesToDifferentSegmentsOfASpaceAllSucceed"},
	{"one call is written whole or not at all, however large, and a refused one changes nothing", "TestABatchIsWrittenAsAWholeOrNotAtAll TestARefusedFirstWriteLeavesNothingBehind TestNothingIsWrittenForACallerWhoHasGivenUpBefore"},
	{"one commit writes several segments, each under its condition, moves cursors and demands leases, or does nothing", "TestOneCommitWritesSeveralSegmentsOrNone TestACursorMovesWithWhatCameOfTheEntryOrNotAtAll TestAFencedWriteOfALateHolderIsRefused TestATransactionThatCannotBeIsRefusedAndWritesNothing crash.TestSeeds"},
	{"a repeated write is recognised, by producer or by key, and a lost answer is told from a conflict", "TestARepeatedWriteIsAnsweredAndNotWrittenAgain session.TestAWriteWhoseAnswerIsLostIsUnknownUnlessItCanBeAskedAgain"},
	{"a producer that trickles is acknowledged record by record, and an open one keeps nobody from reading or writing", "TestAProducerThatTricklesIsAcknowledgedRecordByRecord TestAProducerKeepsOrderAndSaysWhereEachRecordIs TestAProducerLingersToWriteRecordsTogether"},
	{"a producer that fails leaves nothing out in between", "TestAProducerThatIsRefusedLeavesNothingOutInBetween"},
	{"payloads and metadata come back as they were, the empty and the large ones too, and what can be written can be read", "TestPayloadsAndMetadataComeBackAsTheyWere TestNoMetadataIsNilEverywhere session.TestWhatCanBeWrittenCanBeRead"},
	{"buffers are the caller's again after the call", "TestRecordsAreTheCallersAgainAfterTheCall"},
	{"what is acknowledged is on disk, and what is seen is never taken back", "engine.TestNothingIsSeenBeforeItIsDurable pebblestore.TestACrashLosesNothingAcknowledged crash.TestSeeds"},

	// Reading.
	{"what was written is read by its writer at once", "TestWhatWasPublishedIsReadByItsWriterAtOnce TestPeekOfAnEmptySegmentIsTheZeroEntry"},
	{"a segment is read by sequence, time and limit, forwards, backwards, or its last entries, and all bounds hold together", "TestASegmentIsReadBySequenceLimitAndDirection TestBoundsHoldTogetherHoweverFarTheyAre engine.TestAQuerySelectsWhatItsBoundsSay"},
	{"a time bound begins at its moment and ends before it, everywhere, also where that is the time of an entry", "TestTimeBoundsFollowOneRule TestBoundsHoldTogetherHoweverFarTheyAre"},
	{"a space has one order, that of its commits; a reader with a position misses nothing, whoever writes beside it, and none waits for a writer", "TestATailOfASpaceMissesNothingOfManyBusySegments TestAProducerThatTricklesIsAcknowledgedRecordByRecord engine.TestATimelineIsTheCommitsOnWhateverStorage"},
	{"times and positions never go back, whatever clocks do and over restarts", "engine.TestPlacesAndTimesNeverGoBack"},
	{"several spaces are merged by time, the error of one is the error of all, and no source is no empty answer", "TestSeveralSpacesAreMergedByTime TestSeveralSpacesAreMergedAlsoWithALimitAFilterAndATail TestAnErrorInOneOfSeveralSpacesIsTold"},
	{"a tail is history, and then live, without a seam", "TestATailIsHistoryAndThenLiveWithoutASeam TestAQueryThatFollowsEndsWhereItSays engine.TestFollowingASpaceHasNoSeam"},
	{"metadata and names are filtered at the server", "TestFiltersAreForNamesAndMetadata TestBoundsHoldTogetherHoweverFarTheyAre"},
	{"a read that storage breaks off is an error, never an end", "TestWhatStorageBreaksOffIsNeverTakenForComplete TestAReadThatStorageHasBrokenOffIsGoneOnWithFromTheLastEntry"},
	{"what retention has dropped is told, with where to begin", "TestAReadOfWhatRetentionHasDroppedIsTold TestACursorBehindWhatIsRetainedSaysSoAndCanBeMovedOn"},
	{"who stops reading, cancels, or has a deadline is let go, and the server stops within a batch", "TestAReaderWhoStopsNeedNotReadOn TestWhateverWaitsEndsWithItsDeadline session.TestWhatNobodyReadsAnyMoreStopsWithinABatch"},
	{"a slow reader loses nothing and slows nobody", "session.TestASlowReaderSlowsOnlyItself engine.TestClosingDoesNotWaitForASlowReaderToReadOn"},
	{"cursors are kept by the server, with their lag", "TestAReaderGoesOnBehindWhatItHasCommitted TestACursorBehindWhatIsRetainedSaysSoAndCanBeMovedOn"},

	// Watching.
	{"the status of a segment, of a space or of names by prefix is a snapshot and then each change, without a bus", "TestAWatcherOfSegmentsIsToldOfEachChange TestAWatcherOfOneSegmentHearsOfNoOther TestASpaceIsListedAndWatchedWithoutThoseBelowIt"},
	{"however many segments there are, none is missed, and what is told of one never goes back", "TestThousandsOfSegmentsAreWatchedAndNoChangeIsMissed engine.TestASlowWatcherIsToldLessAndNothingOld engine.TestAWatcherOfVeryManySegmentsMissesNone"},
	{"a watch that is cut goes on by itself, and one that ends says why", "session.TestAWatcherIsToldOfWhatChangedWhileItWasCut TestWhateverWaitsEndsWithItsDeadline"},
	{"what is in use is not put away for lack of room", "TestWhatIsUsedIsNotPutAwayForLackOfRoom engine.TestSegmentsThatLeaveMemoryComeBackAsTheyWere"},

	// Coordinating.
	{"a lease has one holder, others are refused, or wait; those who gave up have not got it", "TestALeaseHasOneHolderAndOthersMayWait TestAnUnendingWaitKeepsNobodyElseWaiting TestWhoeverWaitsForALeaseAndGoesAwayHasNotGotIt engine.TestALeaseRequestIsChecked"},
	{"leases outlive the process that gave them and hold over all that share a store", "engine.TestALeaseIsHeldByOneUntilItsTimeIsOver TestALeaseHasOneHolderAndOthersMayWait crash.TestSeeds linear.TestHistories"},
	{"a holder that is cut off ends before another one begins, and a late write is fenced off", "TestAHolderThatIsCutOffEndsBeforeAnotherOneBegins TestTheHoldersContextEndsWhenTheLeaseIsTaken TestAFencedWriteOfALateHolderIsRefused TestALeaseIsKeptForAsLongAsItIsWanted"},
	{"workers are seen as they join and leave, by the clock of the server, and a later one takes the place of its name", "TestObserversSeeWhoIsThereAndWhoJoinsAndLeaves TestAWorkerThatIsNotHeardOfLeavesByTheClockOfTheServer TestAWorkerThatIsReplacedIsTold"},

	// Transport.
	{"errors are of the same types with the same numbers on both transports", "session.TestEveryErrorComesBackAsWhatItWas session.TestNoErrorIsForgotten session.TestEveryFieldCrossesTheWire"},
	{"nothing is lost, doubled, reordered or hung, however the connection is cut, stalled and throttled", "wire.TestNothingIsLostDoubledReorderedOrHung session.TestAReaderGoesOnWhereItWasHoweverOftenItIsCut session.TestATailFromTheEndMissesNothingThatComesWhileItIsCut"},
	{"limits on operations, messages and connections are refused with their numbers, and cost nobody else anything", "session.TestOperationsAboveTheLimitAreRefusedWithTheNumber session.TestAMessageAboveTheLimitIsRefusedWithTheNumber session.TestMoreConnectionsThanTheLimitAreRefusedWithTheNumber"},
	{"a connection that is silent is given up, an idle one closed, and a server that goes away sends its clients to the next", "session.TestAConnectionThatIsSilentIsGivenUp session.TestAnIdleConnectionIsClosedAndOpenedAgain session.TestAServerThatGoesAwaySendsItsClientsToTheNext"},
	{"old clients keep working", "session.TestOldClientsKeepWorking session.TestACheckOfMessagesSeesWhatBreaks"},

	// Access.
	{"a refused caller learns it in one round trip", "session.TestARefusedCallerLearnsItInOneRoundTrip session.TestAnExpiredTokenIsRenewedOnceAndOneThatStaysIsRefusedAtOnce"},
	{"scopes are for stores, spaces, reading, writing and administration, and are checked for every operation", "auth.TestEveryOperationIsRefusedWithoutItsScopes auth.TestEveryMethodOfAnEngineIsGuardedAndEveryOneOfAGuardIsTested auth.TestAScopeCoversWhatIsBelowAtTheBoundariesOfElements"},
	{"expiry and revocation hold for open connections", "auth.TestWhateverWaitsEndsWithItsPrincipal auth.TestASignedTokenIsRevokedByItsID session.TestAConnectionIsClosedWithTheReasonWhenItsCallerMayNotBeServedAnyMore"},
	{"importing a package starts nothing and calls nobody", "runnel.TestImportingAPackageStartsNothingAndCallsNobody"},
	{"operations begin and end in one place", "session.TestOperationsAreObservedFromBeginningToEnd"},
}

// folders are where packages are whose tests are named above.
var folders = map[string]string{
	"client": ".", "session": "../session", "engine": "../engine", "auth": "../auth", "pebblestore": "../storage/pebblestore",
	"crash": "../proof/crash", "linear": "../proof/linear", "wire": "../proof/wire", "runnel": "..",
}

func TestEveryPromiseHasItsTests(t *testing.T) {
	known := make(map[string]bool)
	for name, folder := range folders {
		files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
		must(t, err)
		for _, file := range files {
			source, err := os.ReadFile(file)
			must(t, err)
			parsed, err := parser.ParseFile(token.NewFileSet(), file, source, parser.SkipObjectResolution)
			must(t, err)
			for _, d := range parsed.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
					known[name+"."+f.Name.Name] = true
				}
			}
		}
	}
	named := make(map[string]bool)
	for _, p := range promises {
		for test := range strings.FieldsSeq(p.shown) {
			if !strings.Contains(test, ".") {
				test = "client." + test
			}
			if named[test] = true; !known[test] {
				t.Errorf("%q: there is no test %s", p.what, test)
			}
		}
	}
	if len(named) < 50 {
		t.Errorf("%d tests are named", len(named))
	}
}
