package auth_test

import (
	"context"
	"errors"
	"iter"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/auth"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

var _ auth.Log = (*engine.Engine)(nil)

// unguarded are methods of an engine that are not for whoever is asked about: those of the server itself,
// and those that come with the token of a wake.
var unguarded = []string{
	"Close", "Err",
	"AckWake", "ReleaseWake", "WebhookPending", "ClaimDelivery", "SettleDelivery",
	"LoadKeys", "StoreKeys", "Lags",
}

var (
	other = runnel.Store{1}
	room  = runnel.Segment{Space: "chats", Name: "42"}
	chats = runnel.Space{Name: "chats"}
)

// open returns an engine in memory, in which the segments of some paths hold an entry.
func open(t testing.TB, paths ...string) *engine.Engine {
	t.Helper()
	log, err := engine.Open(new(memory.Driver), engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	for _, path := range paths {
		fill(t, log, runnel.Store{}, path)
	}
	return log
}

func fill(t testing.TB, log *engine.Engine, store runnel.Store, path string) {
	t.Helper()
	seg, err := runnel.ParsePath(store, path)
	if err != nil {
		t.Fatal(err)
	}
	o := runnel.AppendOptions{Create: &runnel.CreateOptions{}}
	if _, err := log.Append(t.Context(), seg, o, runnel.Record{Payload: []byte("x")}); err != nil {
		t.Fatal(err)
	}
}

// as returns a context in which somebody asks who has scopes.
func as(ctx context.Context, scopes ...string) context.Context {
	return auth.WithPrincipal(ctx, principal(scopes...))
}

func principal(scopes ...string) *auth.Principal {
	parsed, err := auth.ParseScopes(scopes...)
	if err != nil {
		panic(err)
	}
	return auth.NewPrincipal("alice", time.Time{}, parsed...)
}

// first returns the error of the first step of a sequence, or nil.
func first[T any](seq iter.Seq2[T, error]) error {
	for _, err := range seq {
		return err
	}
	return nil
}

// operation is one thing that can be asked of a log.
type operation struct {
	name string // of the method
	what string // if there are several for a method
	// needs are scopes that together are enough, and each of them is needed.
	needs []string
	// besides is what else is needed, of which the table does not ask that it be.
	besides string
	// either is another scope that is enough.
	either string
	// listing says that nobody is refused: one sees what one may.
	listing bool
	do      func(ctx context.Context, g *auth.Guard) error
}

// operations has every method of a guard.
var operations = []operation{
	{name: "Append", needs: []string{"runnel:write:chats/42"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.Append(ctx, room, runnel.AppendOptions{}, runnel.Record{})
		return err
	}},
	{name: "Create", needs: []string{"runnel:write:chats/new"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.Create(ctx, chats.Segment("new"), runnel.CreateOptions{})
		return err
	}},
	{name: "Create", what: "a fork", needs: []string{"runnel:write:forks/a", "runnel:read:chats/42"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.Create(ctx, runnel.Segment{Space: "forks", Name: "a"}, runnel.CreateOptions{Fork: &runnel.ForkFrom{Source: room, Latest: true}})
		return err
	}},
	{name: "Commit", needs: []string{"runnel:write:chats/42", "runnel:write:chats/43"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.Commit(ctx, chats, runnel.Write{Segment: "42", Records: []runnel.Record{{}}}, runnel.Write{Segment: "43", Records: []runnel.Record{{}}})
		return err
	}},
	{name: "Transact", needs: []string{"runnel:write:chats/42"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.Transact(ctx, chats, runnel.Transaction{Writes: []runnel.Write{{Segment: "42", Records: []runnel.Record{{}}}}})
		return err
	}},
	{name: "Transact", what: "a cursor of a segment", needs: []string{"runnel:write:chats/42"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.Transact(ctx, chats, runnel.Transaction{Cursors: []runnel.CursorMove{{Segment: "42", Name: "c", Place: 1}}})
		return err
	}},
	{name: "Transact", what: "a cursor of the space, besides", needs: []string{"runnel:write:chats"}, besides: "runnel:write:chats/42", do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.Transact(ctx, chats, runnel.Transaction{
			Writes: []runnel.Write{{Segment: "42", Records: []runnel.Record{{}}}}, Cursors: []runnel.CursorMove{{Name: "c", Place: 1}},
		})
		return err
	}},
	{name: "Transact", what: "a lease, besides", needs: []string{"runnel:write:chats"}, besides: "runnel:write:chats/42", do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.Transact(ctx, chats, runnel.Transaction{
			Writes: []runnel.Write{{Segment: "42", Records: []runnel.Record{{}}}}, Fences: []runnel.Fence{{Key: "k", Number: 1}},
		})
		return ignore(err, runnel.ErrLeaseLost)
	}},
	{name: "Transact", what: "an item", needs: []string{"runnel:write:chats/room#alice"}, do: func(ctx context.Context, g *auth.Guard) error {
		return transactItems(ctx, g, runnel.ItemWrites{Segment: "room", Writes: []runnel.ItemWrite{{ItemKey: runnel.ItemKey{Key: "alice"}, Value: []byte("1")}}})
	}},
	{name: "Transact", what: "items", needs: []string{"runnel:write:chats/room#alice", "runnel:write:chats/room#bob"}, do: func(ctx context.Context, g *auth.Guard) error {
		return transactItems(ctx, g, runnel.ItemWrites{Segment: "room", Writes: []runnel.ItemWrite{
			{ItemKey: runnel.ItemKey{Type: "item", Key: "alice"}}, {ItemKey: runnel.ItemKey{Key: "bob"}},
		}})
	}},
	{name: "Transact", what: "an item of another type", needs: []string{"runnel:write:chats/room"}, besides: "runnel:write:chats/room#alice", do: func(ctx context.Context, g *auth.Guard) error {
		return transactItems(ctx, g, runnel.ItemWrites{Segment: "room", Writes: []runnel.ItemWrite{{ItemKey: runnel.ItemKey{Type: "user", Key: "alice"}}}})
	}},
	{name: "Transact", what: "an item, and how its segment is made", needs: []string{"runnel:write:chats/room"}, besides: "runnel:write:chats/room#alice", do: func(ctx context.Context, g *auth.Guard) error {
		return transactItems(ctx, g, runnel.ItemWrites{
			Segment: "room", Create: &runnel.CreateOptions{Items: true, TTL: time.Hour}, Writes: []runnel.ItemWrite{{ItemKey: runnel.ItemKey{Key: "alice"}}},
		})
	}},
	{name: "Transact", what: "nothing", needs: []string{"runnel:write:chats"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.Transact(ctx, chats, runnel.Transaction{})
		return ignore(err, runnel.ErrInvalid)
	}},
	{name: "WriteItems", needs: []string{"runnel:write:chats/room#alice"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.WriteItems(ctx, chats, runnel.ItemWrites{Segment: "room", Writes: []runnel.ItemWrite{{ItemKey: runnel.ItemKey{Key: "alice"}, Value: []byte("1")}}})
		return err
	}},
	{name: "Item", needs: []string{"runnel:read:chats/room#alice"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.Item(ctx, runnel.Segment{Space: "chats", Name: "room"}, runnel.ItemKey{Key: "alice"})
		return ignore(err, runnel.ErrNotFound)
	}},
	{name: "Items", needs: []string{"runnel:read:chats/room"}, besides: "runnel:read:chats/room#alice", do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.Items(ctx, runnel.Segment{Space: "chats", Name: "room"}, runnel.ItemQuery{})
		return ignore(err, runnel.ErrNotFound)
	}},
	{name: "TailItems", needs: []string{"runnel:read:chats/room"}, do: func(ctx context.Context, g *auth.Guard) error {
		return ignore(first(g.TailItems(ctx, runnel.Segment{Space: "chats", Name: "room"}, 0, 0)), runnel.ErrNotFound)
	}},
	{name: "SpaceItems", needs: []string{"runnel:read:chats"}, besides: "runnel:read:chats/42", do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.SpaceItems(ctx, chats, "", runnel.ItemQuery{})
		return err
	}},
	{name: "TailSpaceItems", needs: []string{"runnel:read:chats"}, besides: "runnel:read:chats/42", do: func(ctx context.Context, g *auth.Guard) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		return ignore(first(g.TailSpaceItems(ctx, chats, "", 0)), context.DeadlineExceeded)
	}},
	{name: "FollowItems", needs: []string{"runnel:read:chats", "runnel:write:chats"}, besides: "runnel:read:chats/42", do: func(ctx context.Context, g *auth.Guard) error {
		return ignore(first(g.FollowItems(ctx, runnel.CursorName{Space: chats, Name: "c"}, "", 0)), runnel.ErrNotFound)
	}},
	{name: "WatchItems", needs: []string{"runnel:read:chats/room#alice"}, do: func(ctx context.Context, g *auth.Guard) error {
		return first(g.WatchItems(ctx, runnel.ItemWatch{Space: chats, Group: "room", Item: new("alice")}))
	}},
	{name: "WatchItems", what: "of a group", needs: []string{"runnel:read:chats/room"}, besides: "runnel:read:chats/room#alice", do: func(ctx context.Context, g *auth.Guard) error {
		return first(g.WatchItems(ctx, runnel.ItemWatch{Space: chats, Group: "room"}))
	}},
	{name: "WatchItems", what: "of several groups", needs: []string{"runnel:read:chats"}, besides: "runnel:read:chats/42", do: func(ctx context.Context, g *auth.Guard) error {
		return first(g.WatchItems(ctx, runnel.ItemWatch{Space: chats, GroupPrefix: "4"}))
	}},
	{name: "SendItem", needs: []string{"runnel:send:chats/room#alice"}, do: func(ctx context.Context, g *auth.Guard) error {
		return g.SendItem(ctx, runnel.ItemEvent{Segment: chats.Segment("room"), Item: new("alice"), Type: "typing", Data: []byte("1")})
	}},
	{name: "SendItem", what: "to a group", needs: []string{"runnel:send:chats/room"}, besides: "runnel:send:chats/room#alice", do: func(ctx context.Context, g *auth.Guard) error {
		return g.SendItem(ctx, runnel.ItemEvent{Segment: chats.Segment("room"), Type: "typing", Data: []byte("1")})
	}},
	{name: "ItemGroups", listing: true, do: func(ctx context.Context, g *auth.Guard) error { return first(g.ItemGroups(ctx, chats, "", "")) }},
	{name: "ItemSpaces", listing: true, do: func(ctx context.Context, g *auth.Guard) error {
		return first(g.ItemSpaces(ctx, runnel.Store{}, "", ""))
	}},
	{name: "CompactItems", needs: []string{"runnel:admin:chats/room"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.CompactItems(ctx, runnel.Segment{Space: "chats", Name: "room"})
		return ignore(err, runnel.ErrNotFound)
	}},
	{name: "DeleteItemSpace", needs: []string{"runnel:admin:chats"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.DeleteItemSpace(ctx, chats)
		return err
	}},
	{name: "Delete", needs: []string{"runnel:admin:chats/42"}, do: func(ctx context.Context, g *auth.Guard) error {
		return g.Delete(ctx, room)
	}},
	{name: "Stat", needs: []string{"runnel:read:chats/42"}, either: "runnel:write:chats/42", do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.Stat(ctx, room)
		return err
	}},
	{name: "StatSpace", needs: []string{"runnel:read:chats"}, either: "runnel:write:chats", do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.StatSpace(ctx, chats)
		return err
	}},
	{name: "Peek", needs: []string{"runnel:read:chats/42"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.Peek(ctx, room)
		return err
	}},
	{name: "SequenceAt", needs: []string{"runnel:read:chats/42"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.SequenceAt(ctx, room, time.Now())
		return err
	}},
	{name: "PositionAt", needs: []string{"runnel:read:chats"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.PositionAt(ctx, chats, time.Now())
		return err
	}},
	{name: "Read", needs: []string{"runnel:read:chats/42"}, do: func(ctx context.Context, g *auth.Guard) error {
		v, err := g.Read(ctx, room, 0, 0)
		if err != nil {
			return err
		}
		return errors.Join(first(v.Batches), first(v.Stream))
	}},
	{name: "ReadStart", needs: []string{"runnel:read:chats/42"}, do: func(ctx context.Context, g *auth.Guard) error {
		v, err := g.ReadStart(ctx, room)
		if err != nil {
			return err
		}
		return errors.Join(first(v.Batches), first(v.Stream))
	}},
	{name: "MayRead", needs: []string{"runnel:read:chats/42"}, do: func(ctx context.Context, g *auth.Guard) error {
		return g.MayRead(ctx, room)
	}},
	{name: "MayWrite", needs: []string{"runnel:write:chats/42"}, do: func(ctx context.Context, g *auth.Guard) error {
		return g.MayWrite(ctx, room)
	}},
	{name: "Wait", needs: []string{"runnel:read:chats/42"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.Wait(ctx, room, 0, 0)
		return err
	}},
	{name: "Tail", needs: []string{"runnel:read:chats/42"}, do: func(ctx context.Context, g *auth.Guard) error {
		return first(g.Tail(ctx, room, 0, 0))
	}},
	{name: "ReadSpace", needs: []string{"runnel:read:chats"}, do: func(ctx context.Context, g *auth.Guard) error {
		line, err := g.ReadSpace(ctx, chats, 0)
		if err != nil {
			return err
		}
		return first(line.Batches)
	}},
	{name: "WaitSpace", needs: []string{"runnel:read:chats"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.WaitSpace(ctx, chats, 0)
		return err
	}},
	{name: "TailSpace", needs: []string{"runnel:read:chats"}, do: func(ctx context.Context, g *auth.Guard) error {
		return first(g.TailSpace(ctx, chats, 0))
	}},
	{name: "Query", what: "a segment", needs: []string{"runnel:read:chats/42"}, do: func(ctx context.Context, g *auth.Guard) error {
		return first(g.Query(ctx, runnel.Query{Sources: []runnel.Source{{Space: chats, Segment: "42"}}}))
	}},
	{name: "Query", what: "a space, of which little is let through", needs: []string{"runnel:read:chats"}, do: func(ctx context.Context, g *auth.Guard) error {
		return first(g.Query(ctx, runnel.Query{Sources: []runnel.Source{{Space: chats}}, Filter: runnel.Filter{SegmentPrefix: "42"}}))
	}},
	{name: "Query", what: "several spaces", needs: []string{"runnel:read:chats", "runnel:read:forks"}, do: func(ctx context.Context, g *auth.Guard) error {
		return first(g.Query(ctx, runnel.Query{Sources: []runnel.Source{{Space: chats}, {Space: runnel.Space{Name: "forks"}}}}))
	}},
	{name: "CreateSubscription", needs: []string{"runnel:admin"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, _, err := g.CreateSubscription(ctx, runnel.Store{}, "s", runnel.SubscriptionConfig{Type: runnel.PullWake, Pattern: "chats/*", WakeStream: "wakes", LeaseTTL: time.Minute})
		return err
	}},
	{name: "Subscription", needs: []string{"runnel:read"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.Subscription(ctx, runnel.Store{}, "s")
		return ignore(err, runnel.ErrNotFound)
	}},
	{name: "Subscriptions", needs: []string{"runnel:read"}, do: func(ctx context.Context, g *auth.Guard) error {
		return first(g.Subscriptions(ctx, runnel.Store{}, ""))
	}},
	{name: "SubscriptionLinks", needs: []string{"runnel:read"}, do: func(ctx context.Context, g *auth.Guard) error {
		return ignore(first(g.SubscriptionLinks(ctx, runnel.Store{}, "s")), runnel.ErrNotFound)
	}},
	{name: "DeleteSubscription", needs: []string{"runnel:admin"}, do: func(ctx context.Context, g *auth.Guard) error {
		return ignore(g.DeleteSubscription(ctx, runnel.Store{}, "s"), runnel.ErrNotFound)
	}},
	{name: "LinkStreams", needs: []string{"runnel:admin"}, do: func(ctx context.Context, g *auth.Guard) error {
		return ignore(g.LinkStreams(ctx, runnel.Store{}, "s", []string{"chats/42"}), runnel.ErrNotFound)
	}},
	{name: "UnlinkStream", needs: []string{"runnel:admin"}, do: func(ctx context.Context, g *auth.Guard) error {
		return ignore(g.UnlinkStream(ctx, runnel.Store{}, "s", "chats/42"), runnel.ErrNotFound)
	}},
	{name: "ClaimWake", needs: []string{"runnel:write"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.ClaimWake(ctx, runnel.Store{}, "s", "w")
		return ignore(err, runnel.ErrNotFound)
	}},
	{name: "ReplayDelivery", needs: []string{"runnel:admin"}, do: func(ctx context.Context, g *auth.Guard) error {
		return ignore(g.ReplayDelivery(ctx, runnel.Store{}, "s"), runnel.ErrNotFound)
	}},
	{name: "DropDelivery", needs: []string{"runnel:admin"}, do: func(ctx context.Context, g *auth.Guard) error {
		return ignore(g.DropDelivery(ctx, runnel.Store{}, "s"), runnel.ErrNotFound)
	}},
	{name: "Stores", listing: true, do: func(ctx context.Context, g *auth.Guard) error { return first(g.Stores(ctx, runnel.Store{})) }},
	{name: "Spaces", listing: true, do: func(ctx context.Context, g *auth.Guard) error { return first(g.Spaces(ctx, runnel.Store{}, "", "")) }},
	{name: "List", listing: true, do: func(ctx context.Context, g *auth.Guard) error {
		return first(g.List(ctx, runnel.Store{}, runnel.ListOptions{}))
	}},
	{name: "WatchSegments", listing: true, do: func(ctx context.Context, g *auth.Guard) error {
		return first(g.WatchSegments(ctx, runnel.Store{}, runnel.SegmentWatch{}))
	}},
	{name: "HearItemEvents", needs: []string{"runnel:read:chats"}, besides: "runnel:read:chats/42", do: func(ctx context.Context, g *auth.Guard) error {
		return g.HearItemEvents(ctx, chats, func(runnel.ItemEvent) {})
	}},
	{name: "Watch", listing: true, do: func(ctx context.Context, g *auth.Guard) error {
		ctx, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel()
		events := g.Watch(ctx, runnel.Store{})
		if auth.PrincipalOf(ctx) == nil {
			for range events {
				return nil
			}
			return runnel.ErrUnauthorized // it ended by itself
		}
		cancel()
		for range events {
			return nil
		}
		return nil
	}},
	{name: "Cursor", needs: []string{"runnel:read:chats/42"}, either: "runnel:write:chats/42", do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.Cursor(ctx, runnel.CursorName{Space: chats, Segment: "42", Name: "c"})
		return ignore(err, runnel.ErrNotFound)
	}},
	{name: "Cursors", what: "of a segment", needs: []string{"runnel:read:chats/42"}, do: func(ctx context.Context, g *auth.Guard) error {
		return first(g.Cursors(ctx, chats, "42", "", ""))
	}},
	{name: "Cursors", what: "of the space", needs: []string{"runnel:read:chats"}, do: func(ctx context.Context, g *auth.Guard) error {
		return first(g.Cursors(ctx, chats, "", "", ""))
	}},
	{name: "DeleteCursor", needs: []string{"runnel:write:chats/42"}, do: func(ctx context.Context, g *auth.Guard) error {
		return ignore(g.DeleteCursor(ctx, runnel.CursorName{Space: chats, Segment: "42", Name: "c"}), runnel.ErrNotFound)
	}},
	{name: "AcquireLease", needs: []string{"runnel:write:chats"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.AcquireLease(ctx, chats, runnel.LeaseRequest{Key: "k", Holder: "h", TTL: time.Minute})
		return err
	}},
	{name: "RenewLease", needs: []string{"runnel:write:chats"}, do: func(ctx context.Context, g *auth.Guard) error {
		_, err := g.RenewLease(ctx, chats, runnel.Fence{Key: "k", Number: 1})
		return ignore(err, runnel.ErrLeaseLost)
	}},
	{name: "ReleaseLease", needs: []string{"runnel:write:chats"}, do: func(ctx context.Context, g *auth.Guard) error {
		return ignore(g.ReleaseLease(ctx, chats, runnel.Fence{Key: "k", Number: 1}), runnel.ErrLeaseLost)
	}},
	{name: "Leases", needs: []string{"runnel:read:chats"}, do: func(ctx context.Context, g *auth.Guard) error {
		return first(g.Leases(ctx, chats, "", ""))
	}},
	{name: "WatchLeases", needs: []string{"runnel:read:chats"}, do: func(ctx context.Context, g *auth.Guard) error {
		return first(g.WatchLeases(ctx, chats, ""))
	}},
}

// transactItems passes on refusals, and no other answer.
func transactItems(ctx context.Context, g *auth.Guard, w runnel.ItemWrites) error {
	_, err := g.Transact(ctx, chats, runnel.Transaction{Items: []runnel.ItemWrites{w}})
	if errors.Is(err, runnel.ErrForbidden) || errors.Is(err, runnel.ErrUnauthorized) {
		return err
	}
	return nil
}

// ignore is nil for an answer that only somebody gets who is let in.
func ignore(err, answer error) error {
	if errors.Is(err, answer) {
		return nil
	}
	return err
}

func TestEveryMethodOfAnEngineIsGuardedAndEveryOneOfAGuardIsTested(t *testing.T) {
	guard, tested := reflect.TypeFor[*auth.Guard](), make(map[string]bool)
	for _, o := range operations {
		tested[o.name] = true
	}
	for m := range guard.Methods() {
		if !tested[m.Name] {
			t.Errorf("no operation of the table uses %s", m.Name)
		}
	}
	for _, log := range []reflect.Type{reflect.TypeFor[*engine.Engine](), reflect.TypeFor[auth.Log](), reflect.TypeFor[runnel.Log]()} {
		for m := range log.Methods() {
			if _, ok := guard.MethodByName(m.Name); !ok && !slices.Contains(unguarded, m.Name) {
				t.Errorf("%s of %s has no guard", m.Name, log)
			}
		}
	}
}

func TestEveryFieldThatNamesSomethingIsLookedAt(t *testing.T) {
	for of, fields := range map[reflect.Type]string{
		reflect.TypeFor[runnel.Transaction]():   "Writes Cursors Fences Items",
		reflect.TypeFor[runnel.Write]():         "Segment Options Records",
		reflect.TypeFor[runnel.AppendOptions](): "ContentType Producer StreamSeq HasStreamSeq Expect Create Absent Key Close",
		reflect.TypeFor[runnel.CreateOptions](): "ContentType TTL HasTTL ExpiresAt Retention Closed Records Fork Items",
		reflect.TypeFor[runnel.ForkFrom]():      "Source At Latest Sub",
		reflect.TypeFor[runnel.CursorMove]():    "Segment Name Place Expect Rewind",
		reflect.TypeFor[runnel.ItemWrites]():    "Segment Create TxID Key Sum Writes",
		reflect.TypeFor[runnel.ItemWrite]():     "ItemKey IfVersion IfExists Value Apply Ops Partial TTL KeepTTL",
		reflect.TypeFor[runnel.ItemWatch]():     "Space Group GroupPrefix Type Prefix Item ID After",
		reflect.TypeFor[runnel.ItemEvent]():     "Segment Item Subscription Type Data ID Tail",
		reflect.TypeFor[runnel.Query]():         "Sources Through Since Until Last Limit Backwards Follow Filter",
		reflect.TypeFor[runnel.Source]():        "Space Segment ID After",
		reflect.TypeFor[runnel.LeaseRequest]():  "Key Holder TTL Wait Metadata",
	} {
		var got []string
		for f := range of.Fields() {
			got = append(got, f.Name)
		}
		if strings.Join(got, " ") != fields {
			t.Errorf("%s has the fields %v, and the guard knows %s: see whether it must look at one more", of, got, fields)
		}
	}
}

func TestEveryOperationIsRefusedWithoutItsScopes(t *testing.T) {
	for _, o := range operations {
		t.Run(strings.TrimSpace(o.name+" "+o.what), func(t *testing.T) {
			guard := func() *auth.Guard { return auth.NewGuard(open(t, "chats/42", "chats/43", "forks/x")) }
			ctx := t.Context()
			if err := o.do(ctx, guard()); !errors.Is(err, runnel.ErrUnauthorized) {
				t.Errorf("nobody: %v", err)
			}
			revoked := principal("runnel:admin@*")
			revoked.Revoke()
			if err := o.do(auth.WithPrincipal(ctx, revoked), guard()); o.name != "Watch" && !errors.Is(err, runnel.ErrUnauthorized) {
				t.Errorf("somebody revoked: %v", err)
			}
			expired := auth.NewPrincipal("alice", time.Now().Add(-time.Second), auth.Scope{Verbs: auth.Admin, AnyStore: true})
			if err := o.do(auth.WithPrincipal(ctx, expired), guard()); o.name != "Watch" && !errors.Is(err, runnel.ErrUnauthorized) {
				t.Errorf("somebody expired: %v", err)
			}
			if err := o.do(as(ctx, "runnel:admin"), guard()); err != nil {
				t.Errorf("an administrator: %v", err)
			}
			if o.listing {
				return
			}
			if err := o.do(as(ctx, o.needs...), guard()); err != nil {
				t.Errorf("with %v: %v", o.needs, err)
			}
			if o.either != "" {
				if err := o.do(as(ctx, o.either), guard()); err != nil {
					t.Errorf("with %s: %v", o.either, err)
				}
			}
			wrong := []string{
				"runnel:admin:chat", "runnel:admin:chatsx", "runnel:admin:chats/4", "runnel:admin:chats/42/43", "runnel:admin@" + other.String(),
				"runnel:admin:chats/42#item", "runnel:admin:CHATS",
			}
			if o.name != "SendItem" {
				wrong = append(wrong, "runnel:send")
			}
			if err := o.do(as(ctx, wrong...), guard()); !errors.Is(err, runnel.ErrForbidden) {
				t.Errorf("with %v: %v", wrong, err)
			}
			for i, needed := range o.needs {
				less := slices.Delete(slices.Clone(o.needs), i, i+1)
				switch scope, err := auth.ParseScope(needed); {
				case err != nil:
					t.Fatal(err)
				case scope.Verbs == auth.Admin:
					less = append(less, "runnel:read+write")
				case scope.Verbs == auth.Write, scope.Verbs == auth.Send:
					less = append(less, "runnel:read")
				case o.either == "":
					less = append(less, "runnel:write")
				}
				if o.besides != "" {
					less = append(less, o.besides)
				}
				err := o.do(as(ctx, less...), guard())
				forbidden, ok := errors.AsType[*runnel.ForbiddenError](err)
				if !ok {
					t.Errorf("with %v: %v", less, err)
				} else if forbidden.Scope != needed {
					t.Errorf("with %v it is said that %s is needed, not %s", less, forbidden.Scope, needed)
				}
			}
		})
	}
}
