package auth_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/auth"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

// collect returns all values of a sequence as text.
func collect[T any](t testing.TB, seq iter.Seq2[T, error], text func(T) string) string {
	t.Helper()
	var all []string
	for v, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, text(v))
	}
	return strings.Join(all, " ")
}

func TestListingsShowWhatMayBeReadInOrderAndOnce(t *testing.T) {
	all := []string{"a", "a/1", "a/2", "a/b/3", "ab/4", "b/5", "b/c/6", "b/c/d/7", "ba", "z/8"}
	log := open(t, all...)
	fill(t, log, other, "a/1")
	g := auth.NewGuard(log)
	for _, scopes := range [][]string{
		{"runnel:read"}, {"runnel:admin@*"}, {"runnel:read:a"}, {"runnel:read:a", "runnel:read:a/b", "runnel:read:a"}, {"runnel:read:b/c", "runnel:read:a/1", "runnel:read:ba"},
		{"runnel:read:a/2", "runnel:read:a/1", "runnel:read:z"}, {"runnel:write"}, {"runnel:read@" + other.String()}, {"runnel:read:b", "runnel:read:ab/4"}, {"runnel:read:a#1"},
	} {
		p := principal(scopes...)
		ctx := auth.WithPrincipal(t.Context(), p)
		for _, o := range []runnel.ListOptions{
			{}, {Prefix: "a"}, {Prefix: "a/"}, {Prefix: "b/c"}, {Prefix: "b/c/"}, {Limit: 2}, {Limit: 1, After: "a"}, {After: "a/1"}, {After: "b/5", Limit: 3}, {Prefix: "zz"}, {Prefix: "a/1"},
			{Direct: true}, {Prefix: "a", Direct: true}, {Prefix: "a/", Direct: true}, {Prefix: "b/c/", Direct: true}, {Prefix: "b/", Direct: true, Limit: 1}, {Prefix: "a/", Direct: true, After: "a/1"},
		} {
			without := o
			without.Limit = 0
			var want []string
			for info, err := range log.List(t.Context(), runnel.Store{}, without) {
				path := info.Segment.Path()
				if err == nil && p.Check(auth.Request{Needs: auth.Read, Path: path}) == nil && (o.Limit == 0 || len(want) < o.Limit) {
					want = append(want, path)
				}
			}
			got := collect(t, g.List(ctx, runnel.Store{}, o), func(i runnel.Info) string { return i.Segment.Path() })
			if got != strings.Join(want, " ") {
				t.Errorf("%v list %+v: %s, want %s", scopes, o, got, strings.Join(want, " "))
			}
		}
		for _, prefix := range []string{"", "a", "b/", "b/c"} {
			for _, after := range []string{"", "a", "b"} {
				var want []string
				for space, err := range log.Spaces(t.Context(), runnel.Store{}, prefix, after) {
					if err == nil && p.Check(auth.Request{Needs: auth.Read, Path: space.Name}) == nil {
						want = append(want, space.Name)
					}
				}
				if got := collect(t, g.Spaces(ctx, runnel.Store{}, prefix, after), func(s runnel.Space) string { return s.Name }); got != strings.Join(want, " ") {
					t.Errorf("%v spaces %q after %q: %q, want %q", scopes, prefix, after, got, want)
				}
			}
		}
		for _, w := range []runnel.SegmentWatch{
			{}, {Prefix: "a"}, {Prefix: "b/"}, {Prefix: "b/c"}, {Direct: true}, {Prefix: "a/", Direct: true}, {Prefix: "b/c/", Direct: true}, {Prefix: "a", Exact: true}, {Prefix: "a/1", Exact: true}, {Prefix: "b/c", Exact: true},
		} {
			got := statuses(t, g, ctx, w)
			var want []string
			for _, path := range all {
				if w.Match(path) && p.Check(auth.Request{Needs: auth.Read, Path: path}) == nil {
					want = append(want, path)
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%v watch %+v: %v, want %v", scopes, w, got, want)
			}
		}
	}
	for scopes, want := range map[string]string{
		"runnel:admin@*": runnel.Store{}.String() + " " + other.String(), "runnel:send:x": runnel.Store{}.String(), "runnel:read@" + other.String(): other.String(),
		"runnel:read@" + runnel.Store{7}.String(): "", "runnel:read runnel:read:a runnel:write@" + other.String(): runnel.Store{}.String() + " " + other.String(),
	} {
		if got := collect(t, g.Stores(as(t.Context(), strings.Fields(scopes)...), runnel.Store{}), runnel.Store.String); got != want {
			t.Errorf("%s: stores %s, want %s", scopes, got, want)
		}
	}
}

// statuses are the segments of which the first snapshot tells.
func statuses(t *testing.T, g *auth.Guard, ctx context.Context, w runnel.SegmentWatch) (paths []string) { //nolint:revive // whose context it is comes with the guard
	t.Helper()
	for s, err := range g.WatchSegments(ctx, runnel.Store{}, w) {
		if err != nil {
			t.Fatal(err)
		}
		if s.Mark {
			return paths
		}
		paths = append(paths, s.Info.Segment.Path())
	}
	return paths
}

func TestWatchersAreToldOfWhatTheyMayRead(t *testing.T) {
	log := open(t)
	g := auth.NewGuard(log)
	ctx, cancel := context.WithCancel(as(t.Context(), "runnel:read:chats", "runnel:write"))
	defer cancel()
	events := g.Watch(ctx, runnel.Store{})
	for _, path := range []string{"secret/1", "chatsx", "chats/1", "secret/2", "chats"} {
		fill(t, log, runnel.Store{}, path)
	}
	var got []string
	for e := range events {
		if got = append(got, e.Info.Segment.Path()); len(got) == 2 {
			break
		}
	}
	if want := []string{"chats/1", "chats"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestALeaseIsItsSubjects(t *testing.T) {
	g := auth.NewGuard(open(t, "chats/42"))
	named := func(subject string, verb auth.Verb) context.Context {
		return auth.WithPrincipal(t.Context(), auth.NewPrincipal(subject, time.Time{}, auth.Scope{Verbs: verb}))
	}
	ann, bob, root := named("ann", auth.Read|auth.Write), named("bob", auth.Read|auth.Write), named("root", auth.Admin)
	metadata := map[string]string{runnel.LeaseSubject: "bob", "color": "red"}
	q := runnel.LeaseRequest{Key: "k", Holder: "worker", TTL: time.Minute, Metadata: metadata}
	lease, err := g.AcquireLease(ann, chats, q)
	if err != nil || lease.Metadata[runnel.LeaseSubject] != "ann" || lease.Metadata["color"] != "red" || metadata[runnel.LeaseSubject] != "bob" {
		t.Fatalf("%+v %v", lease, err)
	}
	if _, err := g.AcquireLease(bob, chats, q); !errors.Is(err, runnel.ErrLeaseHeld) {
		t.Errorf("another subject under the same holder's name: %v", err)
	}
	if _, err := g.RenewLease(bob, chats, lease.Fence()); !errors.Is(err, runnel.ErrForbidden) {
		t.Errorf("another subject renews: %v", err)
	}
	if err := g.ReleaseLease(bob, chats, lease.Fence()); !errors.Is(err, runnel.ErrForbidden) {
		t.Errorf("another subject releases: %v", err)
	}
	if _, err := g.RenewLease(ann, chats, lease.Fence()); err != nil {
		t.Error(err)
	}
	if err := g.ReleaseLease(root, chats, lease.Fence()); err != nil {
		t.Errorf("an administrator releases: %v", err)
	}
	if err := g.ReleaseLease(ann, chats, lease.Fence()); !errors.Is(err, runnel.ErrLeaseLost) {
		t.Error(err)
	}
}

// follows are all the ways to wait in a guarded log.
var follows = map[string]func(ctx context.Context, g *auth.Guard) error{
	"Wait":      func(ctx context.Context, g *auth.Guard) error { _, err := g.Wait(ctx, room, 0, 1); return err },
	"WaitSpace": func(ctx context.Context, g *auth.Guard) error { _, err := g.WaitSpace(ctx, chats, 100); return err },
	"Tail":      func(ctx context.Context, g *auth.Guard) error { return last(g.Tail(ctx, room, 0, 0)) },
	"TailSpace": func(ctx context.Context, g *auth.Guard) error { return last(g.TailSpace(ctx, chats, 0)) },
	"Query": func(ctx context.Context, g *auth.Guard) error {
		return last(g.Query(ctx, runnel.Query{Sources: []runnel.Source{{Space: chats}}, Follow: true}))
	},
	"WatchSegments": func(ctx context.Context, g *auth.Guard) error {
		return last(g.WatchSegments(ctx, runnel.Store{}, runnel.SegmentWatch{}))
	},
	"WatchLeases": func(ctx context.Context, g *auth.Guard) error { return last(g.WatchLeases(ctx, chats, "")) },
	"AcquireLease": func(ctx context.Context, g *auth.Guard) error {
		_, err := g.AcquireLease(ctx, chats, runnel.LeaseRequest{Key: "held", Holder: "h", TTL: time.Second, Wait: true})
		return err
	},
	"Watch": func(ctx context.Context, g *auth.Guard) error {
		for range g.Watch(ctx, runnel.Store{}) {
		}
		return &runnel.UnauthorizedError{Reason: "has ended it"}
	},
}

// last returns the error that a sequence ends with.
func last[T any](seq iter.Seq2[T, error]) (last error) {
	for _, err := range seq {
		last = err
	}
	return last
}

func TestWhateverWaitsEndsWithItsPrincipal(t *testing.T) {
	for name, follow := range follows {
		for _, end := range []string{"expires", "is revoked", "gives up"} {
			t.Run(name+" of one who "+end, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					log, err := engine.Open(new(memory.Driver), engine.Config{})
					if err != nil {
						t.Fatal(err)
					}
					defer log.Close()
					fill(t, log, runnel.Store{}, "chats/42")
					if _, err := log.AcquireLease(t.Context(), chats, runnel.LeaseRequest{Key: "held", Holder: "somebody", TTL: time.Hour}); err != nil {
						t.Fatal(err)
					}
					expires := time.Time{}
					if end == "expires" {
						expires = time.Now().Add(10 * time.Second)
					}
					p := auth.NewPrincipal("ann", expires, auth.Scope{Verbs: auth.Admin})
					ctx, cancel := context.WithCancel(auth.WithPrincipal(t.Context(), p))
					defer cancel()
					ended := make(chan error, 1)
					begin := time.Now()
					go func() { ended <- follow(ctx, auth.NewGuard(log)) }()
					time.Sleep(5 * time.Second) //nolint:forbidigo // the time of the bubble
					want := runnel.ErrUnauthorized
					switch end {
					case "is revoked":
						p.Revoke()
					case "gives up":
						cancel()
						if want = context.Canceled; name == "Watch" {
							want = runnel.ErrUnauthorized
						}
					}
					if err := <-ended; !errors.Is(err, want) {
						t.Errorf("it ended with %v", err)
					}
					took := time.Since(begin)
					if end == "expires" && took != 10*time.Second || end != "expires" && took != 5*time.Second {
						t.Errorf("it ended after %s", took)
					}
				})
			})
		}
	}
}

func TestAReadUnderWayEndsWithItsPrincipal(t *testing.T) {
	log := open(t, "chats/42")
	for range 10 {
		fill(t, log, runnel.Store{}, "chats/42")
	}
	g := auth.NewGuard(log)
	p := principal("runnel:read")
	ctx := auth.WithPrincipal(t.Context(), p)
	v, err := g.Read(ctx, room, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	line, err := g.ReadSpace(ctx, chats, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(last(v.Batches), last(v.Stream), last(line.Batches)); err != nil {
		t.Fatal(err)
	}
	p.Revoke()
	for what, err := range map[string]error{"Batches": last(v.Batches), "Stream": last(v.Stream), "the timeline": last(line.Batches)} {
		if !errors.Is(err, runnel.ErrUnauthorized) {
			t.Errorf("%s ended with %v", what, err)
		}
	}
}

func TestARefusalDoesNotTellWhatThereIs(t *testing.T) {
	log := open(t, "secret/here")
	g := auth.NewGuard(log)
	ctx := as(t.Context(), "runnel:admin:chats")
	for _, o := range []func(seg runnel.Segment) error{
		func(seg runnel.Segment) error { _, err := g.Stat(ctx, seg); return err },
		func(seg runnel.Segment) error { _, err := g.Read(ctx, seg, 0, 0); return err },
		func(seg runnel.Segment) error { _, err := g.Append(ctx, seg, runnel.AppendOptions{}); return err },
		func(seg runnel.Segment) error { _, err := g.Create(ctx, seg, runnel.CreateOptions{}); return err },
		func(seg runnel.Segment) error { return g.Delete(ctx, seg) },
		func(seg runnel.Segment) error {
			_, err := g.Create(ctx, chats.Segment("fork"), runnel.CreateOptions{Fork: &runnel.ForkFrom{Source: seg}})
			return err
		},
	} {
		here, gone := o(runnel.Segment{Space: "secret", Name: "here"}), o(runnel.Segment{Space: "secret", Name: "gone"})
		if !errors.Is(here, runnel.ErrForbidden) || strings.ReplaceAll(here.Error(), "here", "gone") != gone.Error() {
			t.Errorf("%v\n%v", here, gone)
		}
	}
}

func TestANameThatIsNoneIsCoveredByNothing(t *testing.T) {
	g := auth.NewGuard(open(t, "secret/x"))
	ctx := as(t.Context(), "runnel:admin:chats")
	for _, seg := range []runnel.Segment{
		{Space: "chats/..", Name: "secret"}, {Space: "chats", Name: "../secret/x"}, {Space: "chats/", Name: "x"}, {Space: "chats", Name: ""},
		{Space: "chats//a", Name: "x"}, {Space: "", Name: "chats/42"}, {Space: "chats/.", Name: "x"}, {Space: "__ds", Name: "x"},
	} {
		if _, err := g.Read(ctx, seg, 0, 0); !errors.Is(err, runnel.ErrInvalid) {
			t.Errorf("%+v: %v", seg, err)
		}
		if _, err := g.Read(t.Context(), seg, 0, 0); !errors.Is(err, runnel.ErrUnauthorized) {
			t.Errorf("%+v by nobody: %v", seg, err)
		}
	}
}
