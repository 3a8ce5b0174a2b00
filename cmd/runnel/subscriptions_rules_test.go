package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// subscriptionRules has every rule of PROTOCOL.md, sections 6, 7 and 12.8 to 12.10, and the tests that check it, by
// package. Whoever adds a rule, or renames a test, changes this table.
var subscriptionRules = []struct{ section, rule, tests string }{
	{"6", "paths whose first element is __ds are routed before streams, and are no streams", "main.TestReservedPathsAreNoStreams"},
	{"6", "paths in bodies are relative to the root of the streams", "main.TestSection62PutCreatesConfirmsAndConflicts"},
	{"6.1", "one cursor a stream, with path, link type and an inclusive acked offset", "main.TestSection63ASubscriptionIsShownWithItsStreams engine.TestAcksMoveTheCursorOfTheSubscription"},
	{"6.1", "explicit is shown before glob, and taking it back leaves the glob", "main.TestSection64MembershipByName"},
	{"6.2", "a pattern or streams must be there, of a known type, with what the type needs", "main.TestSection62WhatIsNoConfigurationIsRefused"},
	{"6.2", "* is one element of a path, ** none or more", "engine.TestPatterns"},
	{"6.2", "leases are of 1 s to 10 min, 30 s by default", "main.TestSection62WhatIsNoConfigurationIsRefused main.TestSection62TheConfigurationOfAWebhookIsComparedWhole"},
	{"6.2", "201 when made, 200 when confirmed, 409 with another configuration", "main.TestSection62PutCreatesConfirmsAndConflicts"},
	{"6.2", "the normalized configuration is compared whole: type, pattern, streams, delivery, lease, description", "main.TestSection62PutCreatesConfirmsAndConflicts main.TestSection62TheConfigurationOfAWebhookIsComparedWhole"},
	{"6.2", "no shared secret is in an answer", "main.TestSection63AWebhookIsShownWithItsKeyAndNoSecret"},
	{"6.2", "streams that are there are linked at their tails, before the answer", "engine.TestStreamsThatWereThereAreLinkedAtTheirTails main.TestSection63ASubscriptionIsShownWithItsStreams"},
	{"6.2", "streams that come later are linked before the append that wakes", "main.TestSection63ASubscriptionIsShownWithItsStreams engine.TestSubscriptionsSurviveARestart"},
	{"6.3", "a subscription is shown whole, a webhook with its key and where the keys are", "main.TestSection63ASubscriptionIsShownWithItsStreams main.TestSection63AWebhookIsShownWithItsKeyAndNoSecret"},
	{"6.3", "failed while a retry is scheduled, active otherwise", "main.TestSection71TheNextAttemptIsKeptOverARestart"},
	{"6.3", "a deletion is 204; what is under way then fails and moves nothing", "main.TestSection63ADeletionIsTheEndOfWhatIsUnderWay main.TestSection73OnlyTheTokenOfTheCurrentWakeMovesAnything engine.TestADeletedSubscriptionMovesNothing"},
	{"6.4", "streams are linked at their tails and unlinked by name, again without effect, with slashes escaped or not", "main.TestSection64MembershipByName"},
	{"6.5", "the key set has its media type, its cache time and public Ed25519 keys only", "main.TestSection65TheKeySet webhook.TestTheKeySetIsThatOfTheProtocol"},
	{"6.5", "the id of a key is stable, unique and made of the key", "webhook.TestTheKeySetIsThatOfTheProtocol webhook.TestKeysRotateWithAnOverlap"},
	{"6.5", "keys outlive the process, also a kill", "webhook.TestKeysOutliveTheProcess main.TestSection65TheKeySet main.TestNoWakeIsLostByKillsInTheMidstOfRetries"},
	{"6.5", "old keys stay published as long as what they signed is accepted", "webhook.TestKeysRotateWithAnOverlap"},
	{"7", "work wakes an idle subscription, and nothing while a wake is in flight or a lease held", "engine.TestAppendsWakeASubscriptionOnceUntilTheyAreAcknowledged"},
	{"7", "a wake has an id of its own and a generation that only grows, also over kills", "main.TestSection71DoneAcksTheSnapshotAndNothingAfterIt engine.TestEveryAppendIsPartOfAnAcknowledgedWakeWhateverCrashes main.TestNoWakeIsLostByKillsInTheMidstOfRetries"},
	{"7", "no wake is lost between an append and its delivery", "engine.TestEveryAppendIsPartOfAnAcknowledgedWakeWhateverCrashes engine.TestAnAppendWakesAfterOneThatWasRefused"},
	{"7", "acks are inclusive", "main.TestSection72ClaimAckAndRelease main.TestSection71DoneAcksTheSnapshotAndNothingAfterIt"},
	{"7.1", "the request has its form, and its signature is over the time and the exact body", "webhook.TestARequestIsThatOfTheProtocol webhook.TestASignatureIsVerified"},
	{"7.1", "done acks the tails of the snapshot; what came after it wakes again, under another id and generation", "main.TestSection71DoneAcksTheSnapshotAndNothingAfterIt main.TestSection71NothingButTrueIsDone"},
	{"7.1", "a callback acks, extends the lease and ends the wake, and says whether there is another", "main.TestSection71ACallbackAcksExtendsTheLeaseAndEndsTheWake"},
	{"7.1", "the token of a callback is good for its subscription, generation and path only", "main.TestSection129TokensAreOfOneWakeAndComeInTheHeader webhook.TestATokenIsBoundToItsWake"},
	{"7.1", "a stale wake id or generation is answered with 409 FENCED", "main.TestSection73EveryStaleCallbackIsFencedAndMovesNothing"},
	{"7.1", "retries back off from 1 s to 60 s with 20 % jitter", "webhook.TestRetriesBackOff webhook.TestJitterSpreadsRetries"},
	{"7.1", "the next attempt is kept over restarts, and honoured", "main.TestSection71TheNextAttemptIsKeptOverARestart webhook.TestTheScheduleOfRetriesOutlivesTheProcess"},
	{"7.1", "what is parked stays so over restarts and kills", "main.TestSection71ParkedIsParkedOverARestart main.TestAParkedDeliveryIsParkedAfterAKill"},
	{"7.1", "several processes deliver a wake once", "main.TestProcessesOnOneDriverDeliverAWakeOnce main.TestAProcessThatDiesInADeliveryLeavesItToAnother"},
	{"7.2", "the wake stream is not made by the server, and is told once it is there", "main.TestSection72TheWakeStreamIsTheApplicationsToMake"},
	{"7.2", "the event of a wake has its form", "main.TestSection72ClaimAckAndRelease"},
	{"7.2", "a claim gives the wake, a token and the streams; who comes later is told of the holder", "main.TestSection72ClaimAckAndRelease main.TestSection72OnlyPullWakeIsClaimed"},
	{"7.2", "an ack is a heartbeat; with done it acks, releases and says whether there is another wake", "main.TestSection72ClaimAckAndRelease engine.TestALeaseThatEndsFencesItsHolderAndBeginsTheNextWake"},
	{"7.2", "a release acks nothing; with work left there is another event", "main.TestSection72ClaimAckAndRelease"},
	{"7.2", "a stale release or ack is answered with 409 FENCED", "main.TestSection73OnlyTheTokenOfTheCurrentWakeMovesAnything main.TestSection72ClaimAckAndRelease"},
	{"7.3", "token, its generation, and the generation and wake id of the body must all be the current ones, or nothing moves", "main.TestSection73OnlyTheTokenOfTheCurrentWakeMovesAnything main.TestSection73EveryStaleCallbackIsFencedAndMovesNothing"},
	{"7.3", "a webhook's lease begins with the wake and is extended by callbacks, a worker's with the claim and by acks", "main.TestSection71ACallbackAcksExtendsTheLeaseAndEndsTheWake engine.TestALeaseThatEndsFencesItsHolderAndBeginsTheNextWake"},
	{"7.3", "a lease that ends clears holder and token, and wakes again if there is work", "main.TestSection73OnlyTheTokenOfTheCurrentWakeMovesAnything main.TestSection71NothingButTrueIsDone"},
	{"12.8", "https, but for this machine in development", "webhook.TestURLsAreCheckedWhenTheyAreGiven main.TestSection62WhatIsNoConfigurationIsRefused"},
	{"12.8", "no private, link-local, loopback or metadata address, in any form of IPv4 or IPv6", "webhook.TestAddressesInsideNetworksAreRefusedInEveryForm webhook.TestURLsAreCheckedWhenTheyAreGiven"},
	{"12.8", "the address that a name resolves to is judged whenever it is connected to", "webhook.TestAddressesAreJudgedWhenTheyAreConnectedTo webhook.TestAConnectionToTheLocalMachineIsNotMade"},
	{"12.8", "redirects are not followed; answers are bounded in time and size", "webhook.TestAnAnswerIsJudged webhook.TestAReceiverThatDoesNotComeToAnEndIsGivenUp"},
	{"12.8", "allowed targets can be listed, and be the only ones", "webhook.TestAnAllowedTargetMustBeOne main.TestSettingsOfWebhooks"},
	{"12.8", "receivers call back only where the server is known to be", "main.TestReceiversCallBackOnlyWhereTheServerIs main.TestAWebhookSubscriptionUnderAnUnknownNameIsRefused main.TestWhoMayNotCreateASubscriptionIsToldThatFirst"},
	{"12.9", "tokens come in the header Authorization, and nowhere else", "main.TestSection129TokensAreOfOneWakeAndComeInTheHeader"},
	{"12.9", "tokens are signed, hold subscription, generation and expiry, and are checked on every request", "webhook.TestATokenIsRefused webhook.TestATokenExpires main.TestSection73OnlyTheTokenOfTheCurrentWakeMovesAnything"},
	{"12.10", "a receiver finds the key by its id, and refuses times outside the window", "webhook.TestASignatureIsVerified webhook.TestKeysAreFetchedAgainWhenTheyAreReplaced"},
	{"12.10", "a receiver can insist on its subscriptions and key set, before it does anything", "webhook.TestAReceiverHandlesOnlyWhatItBelieves webhook.TestASignatureIsVerified"},
}

func TestEveryRuleOfSubscriptionsHasATest(t *testing.T) {
	known := make(map[string]bool)
	for _, dir := range []string{".", "../../engine", "../../webhook"} {
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range parsed.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
					known[strings.TrimSuffix(parsed.Name.Name, "_test")+"."+f.Name.Name] = true
				}
			}
		}
	}
	for _, r := range subscriptionRules {
		if r.tests == "" {
			t.Errorf("%s: %s: there is no test", r.section, r.rule)
		}
		for test := range strings.FieldsSeq(r.tests) {
			if !known[test] {
				t.Errorf("%s: %s: there is no %s", r.section, r.rule, test)
			}
		}
	}
}
