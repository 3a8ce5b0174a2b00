package items_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/items"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/memory"
)

// contracts are what those who know iii's streams count on, and what they wish were otherwise, with the tests
// that show it. A test is named with its directory, or its file where it is not in Go.
var contracts = []struct {
	says  string
	tests []string
}{
	// Functions.
	{"set, get, delete, update, send and the three lists have the inputs, results and error codes that are known", []string{
		"items.TestFunctions", "items.TestAFunctionThatFailsSaysSoUnderItsName", "items.TestTheDocumentDescribesTheServer",
	}},
	{"fields that are not known are ignored; a field that lacks or has another type fails the whole call", []string{"items.TestFunctions", "items.TestAnInputThatDoesNotFitFailsBeforeAnything"}},
	{"a stored null is something else than no item", []string{"items.TestFunctions", "items.TestResources"}},
	{"deleting what is not there succeeds and tells nobody; a deletion tells the old value", []string{"items.TestASubscriberIsGivenASnapshotAndThenEachChange"}},
	{"an update is told even if it changes nothing, or all of it failed", []string{"items.TestAnUpdateIsToldAlthoughNothingChanged"}},
	{"a send stores nothing and makes no group", []string{"items.TestASendMakesNoGroup", "items.TestFunctions"}},
	{"an empty group is the same before and after a restart", []string{"items.TestAnEmptyGroupIsTheSameAfterARestart"}},
	{"lists are bare values in one order, may be paged, and of what is not there are empty", []string{"items.TestFunctions", "items.TestResources"}},
	{"names do not collide and are no patterns", []string{"items.TestANameIsNoPatternAndCollidesWithNone"}},
	{"what is too large is refused with the numbers", []string{"items.TestWhatIsTooLargeIsRefusedWithTheNumbers"}},
	{"operations have the known results and codes, and one answer whatever the storage; paths go down in all of them", []string{"items/ops.TestOperations", "items/ops.TestAMergeOfTooManyKeys"}},
	{"operations may be applied all or not at all, with conditions and keys", []string{"items/ops.TestAWholeListIsAppliedOrNothingIs", "items.TestAnAtomicUpdateChangesNothingWhenAnOperationFails", "items.TestConditionsAndKeysOfFunctions"}},
	{"a list of operations that is none is refused before anything", []string{"items/ops.TestWhatIsNoListOfOperationsIsRefusedBeforeAnything"}},
	{"numbers of any size stay exact", []string{"items/ops.TestOperations", "items.TestNumbersStayExactOnTheirWay"}},
	{"what was acknowledged is there after the server was killed or stopped", []string{"cmd/runnel.TestItemsThatWereAcknowledgedSurviveAKill", "test/clients/items.test.mjs: the published Node client shows what the server says"}},
	{"writers at the same time leave every subscriber with what is stored", []string{"items.TestWritersAtTheSameTimeConverge"}},

	// WebSocket.
	{"one connects at the root and at the documented paths", []string{"items.TestThePathOfAConnectionJoins"}},
	{"a sub-protocol that is offered is agreed to, a token is not", []string{"items.TestTheFirstSubProtocolIsEchoedAndNoToken"}},
	{"pages of origins that are not allowed do not connect", []string{"items.TestPagesOfOtherOriginsMayNotConnect"}},
	{"the auth function is given headers, path, query and address, and gives a context", []string{"cmd/runnel.TestTheAuthFunctionDecides"}},
	{"an auth function that refuses, fails, hangs or is down lets nobody in", []string{"cmd/runnel.TestTheAuthFunctionDecides", "cmd/runnel.TestAHookThatIsDownRefuses", "items.TestAHookRefusesConnectionsAndFailsClosed", "items.TestAContextThatIsNoJSONIsARefusal"}},
	{"what was let in ends with its time, its token, or when it is revoked", []string{"items.TestAConnectionEndsWhenItsAdmissionDoes", "items.TestALiveSubscriptionEndsWithItsAuthorization", "items.TestALiveSubscriptionIsRevoked", "items.TestASubscriptionIsRevokedWhileItIsMade", "cmd/runnel.TestScopesHoldForItems"}},
	{"scopes hold for reads, writes and sends of a stream, a group and an item", []string{"cmd/runnel.TestScopesHoldForItems"}},
	{"frames that are wrong are answered and end nothing; a binary frame is like a text frame", []string{"items.TestFramesThatAreNoneAreAnsweredAndEndNothing", "items.TestWhatAClientSaysWrongIsToldToIt"}},
	{"a join under a taken id ends the other; a leave must name a subscription that is there", []string{"items.TestAJoinUnderAnIDThatIsTakenEndsTheOther", "items.TestALeaveEndsASubscription"}},
	{"every frame has the six keys of the envelope", []string{"items.TestAFrameHasAllKeysOfTheEnvelope"}},
	{"an item subscription is about its item, and a group subscription about all that is said in the group", []string{"items.TestAnItemSubscriptionIsAboutThatItem", "items.TestASendThatNamesAnItemReachesItsSubscribersAndTheGroup"}},
	{"there are subscriptions by prefix and to whole streams", []string{"items.TestSubscriptionsByPrefixAndToAWholeStream"}},
	{"a socket is told once, however many subscriptions it has", []string{"items.TestEachChangeComesOnceASocket", "items.TestTenThousandSubscriptionsOfOneSocket"}},
	{"the snapshot and the changes are one sequence, and a snapshot comes first", []string{"items.TestSnapshotAndChangesAreOneSequence", "test/clients/items.test.mjs: the published Node client shows what the server says"}},
	{"a snapshot that cannot be read is said to have failed", []string{"items.TestASnapshotThatCannotBeReadIsAnError"}},
	{"what published clients show is what is stored, at every step", []string{
		"test/clients/items.test.mjs: the published Node client shows what the server says",
		"test/clients/items.test.mjs: the published browser client shows what the server says, in a browser",
		"test/clients/items.test.mjs: a live board is the same in two tabs",
	}},
	{"timestamps of a group strictly increase, over restarts too", []string{"items.TestTimestampsOfAGroupStrictlyIncrease", "test/clients/items.test.mjs: the published Node client shows what the server says"}},
	{"what was missed comes after a reconnect, or a gap is told", []string{"items.TestASubscriberComesBackSinceACursor", "items.TestASinceThatIsFarBackIsAGap"}},
	{"a client that does not read holds up nobody, who is there or who comes", []string{"items.TestAFrozenClientIsNobodysProblem", "items.TestAFloodOfFramesIsNotAnsweredIntoMemory"}},
	{"the server pings, and lets go of who does not answer", []string{"items.TestAConnectionThatDoesNotAnswerPingsIsClosed"}},
	{"the server says goodbye", []string{"items.TestShutdownTellsConnectionsAndWaitsForNobodyForLong"}},
	{"an event reaches one subscription if it is for one", []string{"items.TestASendReachesOneSubscription"}},

	// Triggers.
	{"a trigger without a stream, a handler or a kind that there is is refused", []string{"items.TestATriggerThatIsNoneIsRefused", "cmd/runnel.TestURLsOfItemsAreThoseThatWebhooksMayHave"}},
	{"a trigger is on set, update, delete and send, of a stream, a group, an item, a prefix, a kind, under a condition", []string{"items.TestATriggerIsToldOfChangesThatMatch", "items.TestATriggerIsToldOfWhatIsSent"}},
	{"changes come in order, at least once, after crashes of the handler and of the server", []string{"items.TestATriggerGoesOnWhereItWas", "items.TestAHandlerThatCrashesIsCalledAgain", "cmd/runnel.TestATriggerSurvivesTheDeathOfItsHandlerAndOfTheServer"}},
	{"what a group had before it was deleted is told, and then that it was", []string{"items.TestATriggerIsToldThatAGroupWasDeleted", "items.TestAGroupIsDeletedWhileItsHandlerHangs"}},
	{"a handler that hangs holds up nobody else", []string{"items.TestAHandlerThatHangsHoldsUpNobodyElse", "items.TestAGroupThatHangsTakesNoRoomOfOthers", "items.TestAHandlerOfSentEventsThatHangsLeavesThemOut"}},
	{"what fails for good is parked, seen and replayed", []string{"items.TestAnEventIsParkedAndReplayed", "cmd/runnel.TestAParkedChangeIsSeenAndReplayed"}},
	{"a trigger of several processes is run once, whichever process writes", []string{"items.TestOneProcessRunsATriggerAtATime", "items.TestTwoProcessesOnOneStoreRunATriggerOnce", "items.TestAProcessThatHasLostItsLeaseStoresNothing"}},
	{"join and leave triggers are about what they name, and under their condition", []string{"items.TestAHookIsAboutWhatASubscriptionCouldBeGiven", "items.TestAConditionThatFailsRefuses"}},
	{"a join is refused before any data flows, and whatever goes wrong is a refusal", []string{"items.TestAJoinIsRefusedBeforeAnyDataFlows", "items.TestAJoinThatComesTooLateIsPaired"}},
	{"leaves are paired with joins, of a join that another refused too, and after a crash", []string{"items.TestEachJoinIsPairedWithALeave", "items.TestAJoinThatIsRefusedIsPairedToo", "items.TestLeavesAreToldAfterACrash", "items.TestALeaveIsNotForgottenWhileTheStorageFails", "cmd/runnel.TestLeavesAreToldThoughTheServerIsKilled"}},
	{"presence heals after a crash", []string{"items.TestMembersOfAGroupAreItems", "cmd/runnel.TestPresenceHealsAfterTheServerIsKilled"}},

	// Storage.
	{"subscribers of one process are told what another writes", []string{"items.TestASubscriberIsToldWhatAnotherProcessWrites"}},
}

func TestEachContractHasItsTests(t *testing.T) {
	known := make(map[string]map[string]bool)
	for _, c := range contracts {
		for _, test := range c.tests {
			if file, name, ok := strings.Cut(test, ": "); ok {
				text, err := os.ReadFile(filepath.Join("..", file))
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(string(text), `test("`+name+`"`) {
					t.Errorf("%s: there is no test %s", c.says, test)
				}
				continue
			}
			dot := strings.LastIndexByte(test, '.')
			dir := test[:dot]
			if known[dir] == nil {
				known[dir] = testsIn(t, filepath.Join("..", dir))
			}
			if !known[dir][test[dot+1:]] {
				t.Errorf("%s: there is no test %s", c.says, test)
			}
		}
	}
}

// testsIn returns the names of the tests of a directory.
func testsIn(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				names[f.Name.Name] = true
			}
		}
	}
	return names
}

// overEngine serves items of an engine on a driver.
func overEngine(t *testing.T, driver storage.Driver) *server {
	t.Helper()
	e, err := engine.Open(driver, engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return serveHandler(t, items.New(e, items.Config{}))
}

func TestAnUpdateIsToldAlthoughNothingChanged(t *testing.T) {
	s := overEngine(t, new(memory.Driver))
	s.set("m", `{"a":"x"}`)
	c := s.dial("/stream/chat/room")
	c.want(`sync - [{"a":"x"}]`)
	for _, ops := range []string{`[]`, `[{"type":"increment","path":"a","by":1},{"type":"append","path":"a","value":1}]`} {
		s.call("update", `{"stream_name":"chat","group_id":"room","item_id":"m","ops":`+ops+`}`)
		c.want(`update m {"a":"x"}`)
	}
	s.call("update", `{"stream_name":"chat","group_id":"room","item_id":"none","ops":[{"type":"increment","path":"__proto__","by":1}]}`)
	c.want(`create none {}`)
}

func TestASendMakesNoGroup(t *testing.T) {
	s := overEngine(t, new(memory.Driver))
	c := s.dial("/stream/chat/room")
	c.want(`sync - []`)
	s.call("send", `{"stream_name":"chat","group_id":"room","type":"t","data":1}`)
	c.want(`event - {"type":"t","data":1}`)
	if got := s.call("list_all", `{}`); got != `{"stream":[],"count":0}` {
		t.Errorf("there is %s", got)
	}
}

func TestAnEmptyGroupIsTheSameAfterARestart(t *testing.T) {
	driver := &memory.Driver{Shared: true}
	s := overEngine(t, driver)
	s.set("m", `1`)
	s.call("delete", `{"stream_name":"chat","group_id":"room","item_id":"m"}`)
	before := s.call("list_all", `{}`)
	if after := overEngine(t, driver).call("list_all", `{}`); after != before || !strings.Contains(before, `"room"`) {
		t.Errorf("%s, and after a restart %s", before, after)
	}
}

func TestANameIsNoPatternAndCollidesWithNone(t *testing.T) {
	s := overEngine(t, new(memory.Driver))
	set := func(stream, group string) {
		s.call("set", fmt.Sprintf(`{"stream_name":%q,"group_id":%q,"item_id":"i","data":%q}`, stream, group, stream+" "+group))
	}
	for _, names := range [][2]string{{"a", "b:c"}, {"a:b", "c"}, {"a*", "x"}, {"ab", "y"}, {"a?", "z"}, {"[ab]", "w"}} {
		set(names[0], names[1])
	}
	for stream, groups := range map[string]string{"a": `["b:c"]`, "a:b": `["c"]`, "a*": `["x"]`, "ab": `["y"]`, "a?": `["z"]`, "[ab]": `["w"]`, "a:": `[]`, "*": `[]`} {
		if got := s.call("list_groups", fmt.Sprintf(`{"stream_name":%q}`, stream)); got != groups {
			t.Errorf("the groups of %s: %s", stream, got)
		}
	}
	if got := s.call("list_all", `{}`); !strings.Contains(got, `{"id":"a:b","groups":["c"]}`) || !strings.HasSuffix(got, `"count":6}`) {
		t.Errorf("all: %s", got)
	}
}

func TestASnapshotThatCannotBeReadIsAnError(t *testing.T) {
	log := newFake()
	s := serveHandler(t, items.New(log, items.Config{Logger: slog.New(slog.DiscardHandler)}))
	c := s.dial("/")
	log.mu.Lock()
	log.failing = errors.New("out of order")
	log.mu.Unlock()
	c.join("g", room)
	if f := c.next(); f.Event.Type != "error" || f.Subscription != "g" {
		t.Errorf("%s", f.raw)
	}
	log.mu.Lock()
	log.failing = nil
	log.mu.Unlock()
	s.call("set", `{"stream_name":"chat","group_id":"room","item_id":"m","data":1}`)
	c.join("g", room) // it is not there
	c.want(`sync - [1]`)
}

func TestASendThatNamesAnItemReachesItsSubscribersAndTheGroup(t *testing.T) {
	s := overEngine(t, new(memory.Driver))
	group, one, other := s.dial("/stream/chat/room"), s.dial("/stream/chat/room/m1"), s.dial("/stream/chat/room/m2")
	group.want(`sync - []`)
	one.want(`sync m1 null`)
	other.want(`sync m2 null`)
	s.call("send", `{"stream_name":"chat","group_id":"room","type":"t","data":1,"id":"m1"}`)
	s.call("send", `{"stream_name":"chat","group_id":"room","type":"t","data":2}`)
	s.call("send", `{"stream_name":"chat","group_id":"room","type":"t","data":3,"id":"m2"}`)
	group.want(`event m1 {"type":"t","data":1}`, `event - {"type":"t","data":2}`, `event m2 {"type":"t","data":3}`)
	one.want(`event m1 {"type":"t","data":1}`)
	other.want(`event m2 {"type":"t","data":3}`)
}

// Several write the same items at the same time, in several ways: every subscriber has seen each version of each
// item in its order, and ends with what is stored.
func TestWritersAtTheSameTimeConverge(t *testing.T) {
	s := overEngine(t, new(memory.Driver))
	const writers, writes = 8, 40
	subscribers := []*client{s.dial("/stream/chat/room"), s.dial("/stream/chat/room"), s.dial("/stream/chat/room/m0")}
	for _, c := range subscribers {
		c.next()
	}
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range writes {
				item := fmt.Sprint("m", i%3)
				call, in := "set", fmt.Sprintf(`"data":{"by":%d,"n":%d}`, w, i)
				if i%4 == 3 {
					call, in = "update", `"ops":[{"type":"increment","path":"n","by":1000}]`
				}
				if a := s.do("POST", "/v1/items/call/"+call, `{"stream_name":"chat","group_id":"room","item_id":"`+item+`",`+in+`}`); a.status != 200 {
					t.Errorf("%s: %d %s", call, a.status, a.body)
				}
			}
		})
	}
	writing.Wait()
	s.call("send", `{"stream_name":"chat","group_id":"room","type":"end","data":0}`)
	s.call("send", `{"stream_name":"chat","group_id":"room","type":"end","data":0,"id":"m0"}`)
	for _, c := range subscribers {
		state := make(map[string]string)
		last := int64(0)
		for f := c.next(); f.Event.Type != "event"; f = c.next() {
			if f.Timestamp <= last {
				t.Fatalf("%s comes after %d", f.raw, last)
			}
			last = f.Timestamp
			state[*f.ID] = string(f.Event.Data)
		}
		for item, value := range state {
			if got := s.call("get", `{"stream_name":"chat","group_id":"room","item_id":"`+item+`"}`); got != value {
				t.Errorf("a subscriber ends with %s = %s, and stored is %s", item, value, got)
			}
		}
	}
}

func TestASubscriberIsToldWhatAnotherProcessWrites(t *testing.T) {
	driver := &memory.Driver{Shared: true}
	one, other := overEngine(t, driver), overEngine(t, driver)
	c := one.dial("/stream/chat/room")
	c.want(`sync - []`)
	other.set("m", `1`)
	other.set("m", `2`)
	c.want(`create m 1`, `update m 2`)
	one.set("m", `3`)
	c.want(`update m 3`)
}

func TestATriggerThatIsNoneIsRefused(t *testing.T) {
	var seen recorder
	for what, trigger := range map[string]items.Trigger{
		"no stream":            {Name: "t", Handle: seen.handle},
		"no handler":           {Name: "t", Stream: "chat"},
		"no name":              {Stream: "chat", Handle: seen.handle},
		"a name with a slash":  {Name: "a/b", Stream: "chat", Handle: seen.handle},
		"a kind that is none":  {Name: "t", Stream: "chat", Handle: seen.handle, Events: []string{"sync"}},
		"a kind of other ones": {Name: "t", Stream: "chat", Handle: seen.handle, Events: []string{"join"}},
	} {
		if err := trigger.Run(t.Context(), newFake()); !errors.Is(err, runnel.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
