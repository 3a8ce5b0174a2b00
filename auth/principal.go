package auth

import (
	"context"
	"runtime"
	"slices"
	"time"

	"github.com/runnelhq/runnel"
)

// Principal is who asks: a subject, and what it may do until when. It may be shared by any number of
// requests.
type Principal struct {
	subject string
	expires time.Time
	scopes  []Scope
	ending  *ending
}

// ending is what ends with a principal. Principals of one token may share one.
type ending struct {
	revoked context.Context //nolint:containedctx // done when it is revoked; what is bound to it ends with it
	end     context.CancelCauseFunc
}

func newEnding() *ending {
	e := new(ending)
	e.revoked, e.end = context.WithCancelCause(context.Background())
	return e
}

// NewPrincipal returns a principal that expires at a time, the zero time for never.
func NewPrincipal(subject string, expires time.Time, scopes ...Scope) *Principal {
	return &Principal{subject: subject, expires: expires, scopes: slices.Clone(scopes), ending: newEnding()}
}

// Subject is the name of who asks.
func (p *Principal) Subject() string { return p.subject }

// Expires is when the principal may do nothing any more; zero for never.
func (p *Principal) Expires() time.Time { return p.expires }

// Scopes is what the principal may do.
func (p *Principal) Scopes() []Scope { return slices.Clone(p.scopes) }

var (
	errExpired = &runnel.UnauthorizedError{Reason: "has expired"}
	errRevoked = &runnel.UnauthorizedError{Reason: "has been revoked"}
)

// Revoke ends what the principal may do, at once and for good. What is bound to it ends.
func (p *Principal) Revoke() { p.ending.end(errRevoked) }

// Err returns nil while the principal may be served, and then a [*runnel.UnauthorizedError].
func (p *Principal) Err() error {
	switch {
	case p.ending.revoked.Err() != nil:
		return errRevoked
	case !p.expires.IsZero() && !time.Now().Before(p.expires):
		return errExpired
	}
	return nil
}

// Bind returns a context that also ends when the principal expires or is revoked, with the
// [*runnel.UnauthorizedError] as its cause. The function that comes with it must be called when it is not needed any more.
func (p *Principal) Bind(ctx context.Context) (context.Context, context.CancelFunc) {
	bound, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(p.ending.revoked, func() { cancel(errRevoked) })
	// What is bound keeps the principal, so that a revocation finds it.
	if p.expires.IsZero() {
		return bound, func() { stop(); cancel(nil); runtime.KeepAlive(p) }
	}
	timed, end := context.WithDeadlineCause(bound, p.expires, errExpired)
	return timed, func() { stop(); cancel(nil); end(); runtime.KeepAlive(p) }
}

// Request is something that somebody wants to do.
type Request struct {
	// Action is a verb with its preposition, such as "append to", for the error.
	Action string
	// Needs are the verbs any one of which allows it.
	Needs Verb
	// Kind is what Path names, such as "segment" or "space", for the error.
	Kind  string
	Store runnel.Store
	// Path is what it is to be done to; empty for the root space.
	Path string
	// Item is the item of the segment that it is about; empty where it is about all of them, or none.
	Item string
}

// Check returns nil if the principal may do what is requested, a [*runnel.UnauthorizedError] if it may do
// nothing any more, and else a [*runnel.ForbiddenError].
func (p *Principal) Check(r Request) error {
	if err := p.Err(); err != nil {
		return err
	}
	for i := range p.scopes {
		if s := &p.scopes[i]; s.Verbs.with()&r.Needs != 0 && s.covers(r.Store, r.Path, r.Item) {
			return nil
		}
	}
	return r.forbidden()
}

func (r *Request) forbidden() error {
	what := r.Kind
	if r.Path != "" {
		what += " " + r.Path
	}
	if r.Item != "" {
		what += ", item " + r.Item
	}
	needed := Scope{Verbs: r.Needs & -r.Needs, Store: r.Store, Path: r.Path, Item: r.Item}
	return &runnel.ForbiddenError{Action: r.Action, What: what, Scope: needed.String()}
}

// reads returns what may be read in a store, as paths none of which is below another one. One that is empty is
// the whole store.
func (p *Principal) reads(store runnel.Store) []string {
	var paths []string
	for i := range p.scopes {
		if s := &p.scopes[i]; s.Verbs.with()&Read != 0 && s.within(store) && s.Item == "" {
			paths = append(paths, s.Path)
		}
	}
	slices.SortFunc(paths, func(a, b string) int { return len(a) - len(b) })
	tops := paths[:0]
	for _, path := range paths {
		if !slices.ContainsFunc(tops, func(top string) bool { return below(path, top) }) {
			tops = append(tops, path)
		}
	}
	return tops
}

// knows tells whether the principal may do anything in a store.
func (p *Principal) knows(store runnel.Store) bool {
	return slices.ContainsFunc(p.scopes, func(s Scope) bool { return s.Verbs != 0 && s.within(store) })
}

type contextKey struct{}

// WithPrincipal returns a context in which the principal asks.
func WithPrincipal(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// PrincipalOf returns who asks in a context, nil if nobody is known to.
func PrincipalOf(ctx context.Context) *Principal {
	p, _ := ctx.Value(contextKey{}).(*Principal)
	return p
}

// SubjectOf returns the name of who asks in a context, empty if nobody is known to.
func SubjectOf(ctx context.Context) string {
	if p := PrincipalOf(ctx); p != nil {
		return p.Subject()
	}
	return ""
}

// BindPrincipal is [Principal.Bind] for who asks in the context. Where nobody is known to, the context that it
// returns ends by nothing else.
func BindPrincipal(ctx context.Context) (context.Context, context.CancelFunc) {
	if p := PrincipalOf(ctx); p != nil {
		return p.Bind(ctx)
	}
	return context.WithCancel(ctx)
}

// CheckEverywhere is Check of what is about all stores and everything in them, such as the metrics of a server.
func CheckEverywhere(ctx context.Context, action string, needs Verb) error {
	p := PrincipalOf(ctx)
	if p == nil {
		return &runnel.UnauthorizedError{}
	}
	if err := p.Err(); err != nil {
		return err
	}
	for i := range p.scopes {
		if s := &p.scopes[i]; s.AnyStore && s.Path == "" && s.Item == "" && s.Verbs.with()&needs != 0 {
			return nil
		}
	}
	return &runnel.ForbiddenError{Action: action, What: "all stores", Scope: Scope{Verbs: needs, AnyStore: true}.String()}
}

// Check returns nil if whoever asks in the context may do what is requested. Where nobody is known to ask
// nothing is allowed.
func Check(ctx context.Context, r Request) error {
	p := PrincipalOf(ctx)
	if p == nil {
		return &runnel.UnauthorizedError{}
	}
	return p.Check(r)
}
