package auth

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// Verifier tells whose a token is.
type Verifier interface {
	// Verify returns the principal that a token stands for. It fails with [ErrNotMine] for tokens of
	// another kind than its own, and with a *runnel.UnauthorizedError for its own that are not valid. Any other error is a failure to
	// find out, and refuses too.
	Verify(ctx context.Context, token string) (*Principal, error)
}

// ErrNotMine is what a verifier fails with that does not know tokens of this kind.
var ErrNotMine = errors.New("auth: a token of another kind")

// MaxTokenBytes is the longest token, in bytes.
const MaxTokenBytes = 8 << 10

// DefaultMaxFailures is how many tokens of one address are refused in a minute before others are not looked at.
const DefaultMaxFailures = 100

// Config tunes an Authenticator. The zero Config is right for most servers that are not behind a proxy.
type Config struct {
	// MaxFailures is how many tokens that are not valid one address may send in a minute; of IPv6, a network
	// of 64 bits. What it sends beyond is answered 429, and not looked at, unless it is a token that was good
	// before. A request without a token does not count. 0 means DefaultMaxFailures, and less means any number.
	MaxFailures int
	// Forwarded says that requests come through a proxy that adds the address of its client to
	// X-Forwarded-For.
	Forwarded bool
}

// Authenticator finds out who makes a request. All methods may be called concurrently.
type Authenticator struct {
	verifiers []Verifier
	forwarded bool
	attempts  attempts
}

// New returns an authenticator that asks the verifiers in turn. Without any it admits nobody.
func New(cfg Config, verifiers ...Verifier) *Authenticator {
	return &Authenticator{
		verifiers: verifiers, forwarded: cfg.Forwarded, attempts: attempts{most: cmp.Or(cfg.MaxFailures, DefaultMaxFailures)},
	}
}

// Verify returns whose a token is. The error matches runnel.ErrUnauthorized unless it could not be found out.
func (a *Authenticator) Verify(ctx context.Context, token string) (*Principal, error) {
	switch {
	case token == "":
		return nil, &runnel.UnauthorizedError{}
	case len(token) > MaxTokenBytes:
		return nil, &runnel.UnauthorizedError{Reason: "is too long"}
	}
	for _, v := range a.verifiers {
		p, err := v.Verify(ctx, token)
		if errors.Is(err, ErrNotMine) {
			continue
		}
		if err == nil {
			err = p.Err()
		}
		return p, err
	}
	return nil, &runnel.UnauthorizedError{Reason: "is of no kind that is known here"}
}

// Admit finds the token of a request and whose it is. It returns the request with the principal in its
// context, and without the token, so that it does not get into logs. The token is in the header
// Authorization, as RFC 6750 has it; where a browser cannot set that, in the query parameter of a GET, or
// among the subprotocols of a WebSocket (wire.QueryToken, wire.HeaderSubprotocol). The error matches
// runnel.ErrUnauthorized, runnel.ErrInvalid if there are several tokens, or runnel.ErrUnavailable if too many
// that are not valid have come from the address of the request.
func (a *Authenticator) Admit(r *http.Request) (*http.Request, error) {
	token, clean, err := takeToken(r)
	if err != nil {
		return nil, err
	}
	p, err := a.verify(r, token)
	if err != nil {
		return nil, err
	}
	return clean.WithContext(WithPrincipal(clean.Context(), p)), nil
}

// verify is Verify, for as long as the address of the request has not sent too much that is not valid.
func (a *Authenticator) verify(r *http.Request, token string) (*Principal, error) {
	if token == "" {
		return a.Verify(r.Context(), token)
	}
	done, err := a.attempts.try(addressOf(r, a.forwarded), token)
	if err != nil {
		return nil, err
	}
	p, err := a.Verify(r.Context(), token)
	done(err == nil, errors.Is(err, runnel.ErrUnauthorized))
	return p, err
}

// Before returns a handler that admits requests to next, and answers others with 401, or 429.
func (a *Authenticator) Before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		admitted, err := a.Admit(r)
		if err != nil {
			wire.Refuse(w, err)
			return
		}
		next.ServeHTTP(w, admitted)
	})
}

// takeToken returns the token of a request, empty if it has none, and the request without it.
func takeToken(r *http.Request) (token string, clean *http.Request, err error) {
	header, inHeader, err := bearer(r.Header[wire.HeaderAuthorization])
	if err != nil {
		return "", nil, err
	}
	query, rest, inQuery, err := cutQuery(r.URL.RawQuery, wire.QueryToken)
	if err != nil {
		return "", nil, err
	}
	protocol, others, inProtocol := cutProtocol(r.Header[wire.HeaderSubprotocol])
	if !inHeader && !inQuery && !inProtocol {
		protocol, others, inProtocol = cutAnnounced(r.Header[wire.HeaderSubprotocol])
	}
	switch {
	case inHeader && (inQuery || inProtocol) || inQuery && inProtocol:
		return "", nil, wire.Invalid(wire.CodeInvalidRequest, "there is more than one token")
	case inQuery && r.Method != http.MethodGet && r.Method != http.MethodHead:
		return "", nil, wire.Invalid(wire.CodeInvalidRequest, "a token in the query is for GET and HEAD; others send the header Authorization")
	case inHeader:
		return header, without(r, func(c *http.Request) { c.Header.Del(wire.HeaderAuthorization) }), nil
	case inQuery:
		return query, without(r, func(c *http.Request) { c.URL.RawQuery, c.RequestURI = rest, "" }), nil
	case inProtocol:
		return protocol, without(r, func(c *http.Request) {
			if c.Header[wire.HeaderSubprotocol] = others; len(others) == 0 {
				c.Header.Del(wire.HeaderSubprotocol)
			}
		}), nil
	}
	return "", r, nil
}

// without returns a copy of a request that something is taken out of.
func without(r *http.Request, take func(*http.Request)) *http.Request {
	c := r.WithContext(r.Context())
	u := *r.URL
	c.URL, c.Header = &u, r.Header.Clone()
	take(c)
	return c
}

// bearer reads the header Authorization.
func bearer(values []string) (token string, ok bool, err error) {
	switch len(values) {
	case 0:
		return "", false, nil
	case 1:
	default:
		return "", false, wire.Invalid(wire.CodeInvalidRequest, "Authorization is given more than once")
	}
	scheme, token, _ := strings.Cut(strings.TrimSpace(values[0]), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", false, &runnel.UnauthorizedError{Reason: "must be sent as \"Authorization: Bearer …\""}
	}
	return token, true, nil
}

// cutQuery takes a parameter out of a query.
func cutQuery(raw, name string) (value, rest string, ok bool, err error) {
	if !strings.Contains(raw, name) && !strings.Contains(raw, "%") {
		return "", raw, false, nil
	}
	var kept []string
	for pair := range strings.SplitSeq(raw, "&") {
		key, v, _ := strings.Cut(pair, "=")
		if key, err := url.QueryUnescape(key); err != nil || key != name {
			kept = append(kept, pair)
			continue
		}
		if ok {
			return "", "", false, wire.Invalid(wire.CodeInvalidRequest, "the parameter "+name+" is given more than once")
		}
		if value, err = url.QueryUnescape(v); err != nil {
			return "", "", false, wire.Invalid(wire.CodeInvalidRequest, "the parameter "+name+" has an invalid escape")
		}
		ok = true
	}
	return value, strings.Join(kept, "&"), ok, nil
}

// cutProtocol takes a token out of a list of subprotocols.
func cutProtocol(values []string) (token string, others []string, ok bool) {
	for _, list := range values {
		for name := range strings.SplitSeq(list, ",") {
			name = strings.TrimSpace(name)
			if t, is := strings.CutPrefix(name, wire.SubprotocolToken); is && !ok {
				token, ok = t, true
			} else if name != "" && !is {
				others = append(others, name)
			}
		}
	}
	if ok && len(others) > 0 {
		others = []string{strings.Join(others, ", ")}
	}
	return token, others, ok
}

// cutAnnounced takes the subprotocol that comes after one named Authorization out of a list of them.
func cutAnnounced(values []string) (token string, others []string, ok bool) {
	names := strings.Split(strings.Join(values, ","), ",")
	for i := range names {
		names[i] = strings.TrimSpace(names[i])
	}
	if at := slices.Index(names, wire.HeaderAuthorization) + 1; at > 0 && at < len(names) && names[at] != "" {
		token = names[at]
		return token, []string{strings.Join(slices.Delete(names, at, at+1), ", ")}, true
	}
	return "", nil, false
}

// Store returns the store that a request is about: the one that it names in the header or the query, and
// else the only one that the principal has scopes for. Where nobody is known to ask, which is where
// everybody may do everything, that is the default store.
func Store(r *http.Request) (runnel.Store, error) {
	store, named, err := namedStore(r)
	p := PrincipalOf(r.Context())
	switch {
	case err != nil || named && p == nil:
		return store, err
	case p == nil:
		return runnel.Store{}, nil
	case named && p.knows(store):
		return store, nil
	case named:
		f := Request{Action: "use", Needs: Read, Kind: "store " + store.String(), Store: store}
		return store, f.forbidden()
	}
	return p.onlyStore()
}

// namedStore reads the store that a request names.
func namedStore(r *http.Request) (store runnel.Store, named bool, err error) {
	values := r.Header[wire.HeaderStore]
	query, _, inQuery, err := cutQuery(r.URL.RawQuery, wire.QueryStore)
	if err != nil {
		return store, false, err
	}
	if inQuery {
		values = append(slices.Clip(values), query)
	}
	for _, value := range values {
		s, err := runnel.ParseStore(value)
		switch {
		case err != nil || value == "":
			return store, true, wire.Invalid(wire.CodeInvalidRequest, wire.HeaderStore+" must be a UUID")
		case named && s != store:
			return store, true, wire.Invalid(wire.CodeInvalidRequest, "the request names two stores")
		}
		store, named = s, true
	}
	return store, named, nil
}

// onlyStore returns the store that all scopes are for.
func (p *Principal) onlyStore() (runnel.Store, error) {
	var store runnel.Store
	for i, s := range p.scopes {
		if s.AnyStore || i > 0 && s.Store != store {
			return store, wire.Invalid(wire.CodeInvalidRequest, "the token is for several stores; the header "+wire.HeaderStore+" must say which one is meant")
		}
		store = s.Store
	}
	return store, nil
}

// BindRequest is [Principal.Bind] for the principal that a request was admitted for. Without one the context is as it was.
func BindRequest(ctx context.Context, r *http.Request) (context.Context, context.CancelFunc) {
	p := PrincipalOf(r.Context())
	if p == nil {
		return ctx, func() {}
	}
	return p.Bind(ctx)
}
