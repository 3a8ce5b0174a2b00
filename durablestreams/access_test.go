package durablestreams_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/auth"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/wire"
)

// people are verified by their names.
type people map[string]*auth.Principal

func (p people) Verify(_ context.Context, token string) (*auth.Principal, error) {
	if who := p[token]; who != nil {
		return who, nil
	}
	return nil, &runnel.UnauthorizedError{Reason: "is not known"}
}

// add lets somebody in who has scopes, until a time.
func (p people) add(name string, expires time.Time, scopes ...string) {
	parsed, err := auth.ParseScopes(scopes...)
	if err != nil {
		panic(err)
	}
	p[name] = auth.NewPrincipal(name, expires, parsed...)
}

// guard puts people between a handler and a log.
func (p people) guard(log *engine.Engine, cfg *durablestreams.Config) durablestreams.Log {
	cfg.Admit, cfg.Store, cfg.Bind, cfg.Own, cfg.Private = auth.New(auth.Config{}, p).Admit, auth.Store, auth.BindRequest, log, true
	return auth.NewGuard(log)
}

// serveTo starts a server on a real connection for people, and for an administrator of the name root.
func serveTo(t *testing.T, p people, cfg durablestreams.Config) *server {
	t.Helper()
	p.add("root", time.Time{}, "runnel:admin@*")
	log := openEngine(t)
	handler := durablestreams.New(p.guard(log, &cfg), cfg)
	host := httptest.NewServer(handler)
	t.Cleanup(host.Close)
	t.Cleanup(func() { _ = handler.Close() })
	return &server{t: t, url: host.URL, log: log, handler: handler, client: host.Client()}
}

func openEngine(t *testing.T) *engine.Engine {
	log, handler := open(t, durablestreams.Config{}, nil)
	t.Cleanup(func() { _ = handler.Close() })
	return log
}

// bearer are the headers of somebody's request.
func bearer(name string) []string { return []string{"Authorization", "Bearer " + name} }

func (p people) sample() people {
	p.add("reader", time.Time{}, "runnel:read:chats")
	p.add("writer", time.Time{}, "runnel:write:chats")
	p.add("owner", time.Time{}, "runnel:admin:chats")
	p.add("tenant", time.Time{}, "runnel:admin@"+tenant.String())
	return p
}

var tenant = runnel.Store{9}

func TestARefusedCallerLearnsInOneRoundTripWhatIsMissing(t *testing.T) {
	s := serveTo(t, people{}.sample(), durablestreams.Config{})
	as := func(name string, more ...string) []string { return append(bearer(name), more...) }
	s.put("chats/42", "text/plain", "x", append(as("root"), "Runnel-Store", runnel.Store{}.String())...).want(201)
	for _, c := range []struct {
		name, method, path, who string
		status                  int
		scope                   string
	}{
		{"a read by a reader", "GET", "chats/42?offset=-1", "reader", 200, ""},
		{"a look by a reader", "HEAD", "chats/42", "reader", 200, ""},
		{"an append by a reader", "POST", "chats/42", "reader", 403, "runnel:write:chats/42"},
		{"a creation by a reader", "PUT", "chats/43", "reader", 403, "runnel:write:chats/43"},
		{"a deletion by a reader", "DELETE", "chats/42", "reader", 403, "runnel:admin:chats/42"},
		{"a read by a writer", "GET", "chats/42?offset=-1", "writer", 403, "runnel:read:chats/42"},
		{"a live read by a writer", "GET", "chats/42?offset=-1&live=sse", "writer", 403, "runnel:read:chats/42"},
		{"a long-poll by a writer", "GET", "chats/42?offset=now&live=long-poll", "writer", 403, "runnel:read:chats/42"},
		{"a look by a writer", "HEAD", "chats/42", "writer", 200, ""},
		{"an append by a writer", "POST", "chats/42", "writer", 204, ""},
		{"a deletion by a writer", "DELETE", "chats/42", "writer", 403, "runnel:admin:chats/42"},
		{"what is not there and may not be read", "GET", "secret/no", "reader", 403, "runnel:read:secret/no"},
		{"what is not there and may not be looked at", "HEAD", "secret/no", "reader", 403, ""},
		{"what is not there and may not be appended to", "POST", "secret/no", "reader", 403, "runnel:write:secret/no"},
		{"what is not there and may not be deleted", "DELETE", "secret/no", "owner", 403, "runnel:admin:secret/no"},
		{"what is not there and may be read", "GET", "chats/no", "reader", 404, ""},
		{"a name that begins like the scope's", "GET", "chatsx/42", "reader", 403, "runnel:read:chatsx/42"},
		{"an escaped slash is a slash", "GET", "chats%2F42?offset=-1", "reader", 200, ""},
		{"an escaped slash is a slash in a refusal", "GET", "secret%2Fno", "reader", 403, "runnel:read:secret/no"},
		{"dots are no way up", "GET", "chats/../secret/no", "reader", 400, ""},
		{"escaped dots are no way up", "GET", "chats/%2e%2e/secret/no", "reader", 400, ""},
		{"dots behind an escaped slash are no way up", "GET", "chats%2F..%2Fsecret%2Fno", "reader", 400, ""},
		{"an empty element", "GET", "chats//42", "reader", 400, ""},
		{"a backslash is a character", "GET", `chats%5C42`, "reader", 403, `runnel:read:chats%5C42`},
		{"a NUL", "GET", "chats%00/42", "reader", 400, ""},
		{"another case", "GET", "CHATS/42", "reader", 403, "runnel:read:CHATS/42"},
		{"the registry of all names", "GET", "__registry__?offset=-1", "reader", 403, "runnel:read:__registry__"},
		{"a look at the registry", "HEAD", "__registry__", "writer", 403, ""},
		{"the registry, created", "PUT", "__registry__", "writer", 403, "runnel:write:__registry__"},
		{"the reserved paths", "GET", "__ds/x", "reader", 501, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := *s
			s.t = t
			a := s.do(c.method, c.path, "x", as(c.who, "Content-Type", "text/plain")...)
			if c.status == 403 && c.method != "HEAD" {
				d := a.wantError(403, wire.CodeForbidden, "WWW-Authenticate", `Bearer error="insufficient_scope", scope="`+c.scope+`"`)
				if d.Scope != c.scope {
					t.Errorf("the scope in the body is %q", d.Scope)
				}
				return
			}
			a.want(c.status)
		})
		t.Run(c.name+" by nobody", func(t *testing.T) {
			s := *s
			s.t = t
			a := s.do(c.method, c.path, "x", "Content-Type", "text/plain").want(401, "WWW-Authenticate", "Bearer")
			if c.method != "HEAD" {
				a.wantError(401, wire.CodeUnauthorized)
			}
		})
	}
}

func TestTheRegistryIsNotMadeForWhoMayNotReadIt(t *testing.T) {
	s := serveTo(t, people{}.sample(), durablestreams.Config{})
	s.get("__registry__?offset=-1", bearer("reader")...).want(403)
	s.head("__registry__", bearer("writer")...).want(403)
	s.get("__registry__?offset=-1").want(401)
	if _, err := s.log.Stat(t.Context(), runnel.Segment{Name: "__registry__"}); !errors.Is(err, runnel.ErrNotFound) {
		t.Errorf("it is there: %v", err)
	}
}

func TestAMethodCannotBeOverridden(t *testing.T) {
	s := serveTo(t, people{}.sample(), durablestreams.Config{})
	s.put("chats/42", "text/plain", "x", bearer("owner")...).want(201)
	for _, name := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method"} {
		s.get("chats/42?offset=-1&_method=DELETE", append(bearer("owner"), name, "DELETE")...).want(200)
	}
	s.head("chats/42", bearer("reader")...).want(200)
}

func TestABodyIsNotTakenFromWhoMayNotWrite(t *testing.T) {
	s := serveTo(t, people{}.sample(), durablestreams.Config{})
	never := make(chan struct{})
	defer close(never)
	body := readerFunc(func([]byte) (int, error) { <-never; return 0, errors.New("over") })
	resp, err := s.start(t.Context(), "PUT", "secret/large", body, append(bearer("writer"), "Content-Type", "text/plain", "Expect", "100-continue")...)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 403 {
		t.Errorf("got %s", resp.Status)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestAListingShowsWhatMayBeRead(t *testing.T) {
	s := serveTo(t, people{}.sample(), durablestreams.Config{})
	root := append(bearer("root"), "Runnel-Store", runnel.Store{}.String())
	for _, path := range []string{"chats", "chats/1", "chats/2", "chats/a/3", "chatsx", "chatsx/4", "secret/5", "z"} {
		s.put(path, "text/plain", "", root...).want(201)
	}
	for query, want := range map[string]string{
		"": "chats chats/1 chats/2 chats/a/3", "prefix=c": "chats chats/1 chats/2 chats/a/3", "prefix=chats/": "chats/1 chats/2 chats/a/3",
		"prefix=chatsx": "", "prefix=s": "", "prefix=secret/": "", "limit=2": "chats chats/1", "after=chats/1": "chats/2 chats/a/3",
		"after=chats&limit=2": "chats/1 chats/2", "prefix=chats/2": "chats/2", "after=secret/5": "",
	} {
		a := s.get("?"+query, bearer("reader")...).want(200)
		if got := strings.Join(paths(t, a), " "); got != want {
			t.Errorf("with %q: %s, want %s", query, got, want)
		}
	}
	if got := paths(t, s.get("", bearer("writer")...).want(200)); len(got) > 0 {
		t.Errorf("who may read nothing is shown %v", got)
	}
	s.get("").want(401)
	s.get("", bearer("tenant")...).want(200).wantBody("{\"streams\":[]}\n")
}

func TestAForkNeedsToReadItsSourceAndToWriteItself(t *testing.T) {
	p := people{}
	p.add("both", time.Time{}, "runnel:write:forks", "runnel:read:chats")
	p.add("blind", time.Time{}, "runnel:write:forks", "runnel:write:chats")
	p.add("mute", time.Time{}, "runnel:read:forks", "runnel:read:chats")
	s := serveTo(t, p, durablestreams.Config{})
	s.put("chats/42", "text/plain", "secret", append(bearer("root"), "Runnel-Store", runnel.Store{}.String())...).want(201)
	from := func(who string) []string { return append(bearer(who), "Stream-Forked-From", "/v1/stream/chats/42") }
	if d := s.put("forks/a", "", "", from("blind")...).wantError(403, wire.CodeForbidden); d.Scope != "runnel:read:chats/42" {
		t.Errorf("needs %s", d.Scope)
	}
	if d := s.put("forks/a", "", "more", from("blind")...).wantError(403, wire.CodeForbidden); d.Scope != "runnel:read:chats/42" {
		t.Errorf("with a body: needs %s", d.Scope)
	}
	if d := s.put("forks/a", "", "", from("mute")...).wantError(403, wire.CodeForbidden); d.Scope != "runnel:write:forks/a" {
		t.Errorf("needs %s", d.Scope)
	}
	s.put("forks/b", "", "", append(bearer("both"), "Stream-Forked-From", "/v1/stream/secret/none")...).wantError(403, wire.CodeForbidden)
	s.put("forks/a", "", "", from("both")...).want(201)
}

func TestTheStoreComesFromTheToken(t *testing.T) {
	p := people{}.sample()
	second := runnel.Store{8}
	p.add("two", time.Time{}, "runnel:admin@"+tenant.String(), "runnel:admin@"+second.String())
	s := serveTo(t, p, durablestreams.Config{})
	in := func(who string, store runnel.Store) []string {
		return append(bearer(who), "Runnel-Store", store.String())
	}
	s.put("a", "text/plain", "of the tenant", bearer("tenant")...).want(201)
	s.get("a?offset=-1", in("root", tenant)...).want(200).wantBody("of the tenant")
	s.get("a?offset=-1&store="+tenant.String(), bearer("root")...).want(200).wantBody("of the tenant")
	s.get("a?offset=-1", in("tenant", tenant)...).want(200)
	s.get("a?offset=-1", in("root", runnel.Store{})...).want(404)
	s.get("a?offset=-1", in("two", second)...).want(404)
	s.get("a?offset=-1", in("two", tenant)...).want(200)

	s.get("a?offset=-1", bearer("two")...).wantError(400, wire.CodeInvalidRequest)
	s.get("a?offset=-1", bearer("root")...).wantError(400, wire.CodeInvalidRequest)
	s.get("", bearer("root")...).wantError(400, wire.CodeInvalidRequest)
	s.get("a?offset=-1", in("tenant", second)...).wantError(403, wire.CodeForbidden)
	s.get("", in("tenant", second)...).wantError(403, wire.CodeForbidden)
	s.get("a?offset=-1", in("tenant", runnel.Store{})...).wantError(403, wire.CodeForbidden)
	s.get("a?offset=-1&store="+second.String(), in("root", tenant)...).wantError(400, wire.CodeInvalidRequest)
	s.get("a?offset=-1&store=tenant", bearer("root")...).wantError(400, wire.CodeInvalidRequest)
	s.get("a?offset=-1&store=", bearer("tenant")...).wantError(400, wire.CodeInvalidRequest)
}

func TestATokenMayComeInTheQueryOfAGet(t *testing.T) {
	s := serveTo(t, people{}.sample(), durablestreams.Config{})
	s.put("chats/42", "text/plain", "x", bearer("owner")...).want(201)
	s.get("chats/42?offset=-1&token=reader").want(200)
	s.get("chats/42?offset=-1&tok%65n=reader").want(200)
	s.head("chats/42?token=reader").want(200)
	s.get("chats/42?offset=-1&token=nobody").wantError(401, wire.CodeUnauthorized)
	s.get("chats/42?offset=-1&token=").wantError(401, wire.CodeUnauthorized)
	s.get("chats/42?offset=-1&token=reader", bearer("reader")...).wantError(400, wire.CodeInvalidRequest)
	s.get("chats/42?offset=-1&token=reader&token=owner").wantError(400, wire.CodeInvalidRequest)
	s.post("chats/42?token=owner", "text/plain", "x").wantError(400, wire.CodeInvalidRequest)
	s.do("DELETE", "chats/42?token=owner", "").wantError(400, wire.CodeInvalidRequest)
	if a := s.put("chats/43", "text/plain", "x", bearer("owner")...); strings.Contains(a.header.Get("Location"), "owner") {
		t.Errorf("the location is %s", a.header.Get("Location"))
	}
	for _, wrong := range []string{"owner", "Basic owner", "Bearer", "Bearer ", "Bearer owner reader"} {
		s.get("chats/42?offset=-1", "Authorization", wrong).wantError(401, wire.CodeUnauthorized)
	}
	s.get("chats/42?offset=-1", "Authorization", "bearer reader").want(200)
	s.get("chats/42?offset=-1", "Authorization", "Bearer reader", "Authorization", "Bearer owner").wantError(400, wire.CodeInvalidRequest)
}

func TestABrowserNeedsNoTokenToAskWhetherItMayAsk(t *testing.T) {
	s := serveTo(t, people{}.sample(), durablestreams.Config{})
	a := s.do("OPTIONS", "chats/42", "", "Origin", "https://app.example", "Access-Control-Request-Method", "POST",
		"Access-Control-Request-Headers", "authorization,runnel-store").want(204, "Access-Control-Allow-Origin", "*", "WWW-Authenticate", "-")
	for _, name := range []string{"Authorization", "Runnel-Store"} {
		if !strings.Contains(a.header.Get("Access-Control-Allow-Headers"), name) {
			t.Errorf("%s is not allowed", name)
		}
	}
	s.get("chats/42", "Origin", "https://app.example").want(401, "Access-Control-Allow-Origin", "*")
}

func TestNoSharedCacheKeepsWhatNeedsAToken(t *testing.T) {
	s := serveTo(t, people{}.sample(), durablestreams.Config{})
	s.put("chats/42", "text/plain", "x", bearer("owner")...).want(201)
	a := s.get("chats/42?offset=-1", bearer("reader")...).want(200, "Vary", "Authorization")
	if c := a.header.Get("Cache-Control"); !strings.HasPrefix(c, "private") {
		t.Errorf("Cache-Control: %s", c)
	}
	tag := a.header.Get("ETag")
	s.get("chats/42?offset=-1", append(bearer("reader"), "If-None-Match", tag)...).want(304)
	s.get("chats/42?offset=-1", append(bearer("writer"), "If-None-Match", tag)...).want(403, "ETag", "-")
	s.get("chats/42?offset=-1", "If-None-Match", tag).want(401, "ETag", "-")
}

// ways are the two ways in which a live reader is served.
var ways = map[string]bool{"on a connection that was taken over": false, "inside net/http": true}

func TestALiveReaderIsLetGoWhenItsTokenExpires(t *testing.T) {
	for name, keep := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := people{}
				p.add("owner", time.Time{}, "runnel:admin")
				p.add("reader", time.Now().Add(10*time.Second), "runnel:read")
				s, stop := serveLogInBubble(t, durablestreams.Config{KeepConnections: keep, SSERotation: -1}, p.guard)
				defer stop()
				s.put("a", "text/plain", "", bearer("owner")...).want(201)
				begin := time.Now()
				e, stays := s.live("a?offset=-1&live=sse", bearer("reader")...), s.live("a?offset=-1&live=sse", bearer("owner")...)
				e.pair()
				stays.pair()
				s.post("a", "text/plain", "in time", bearer("owner")...).want(204)
				if data, _, _ := e.pair(); data != "in time" {
					t.Errorf("got %q", data)
				}
				e.wantEnd()
				if took := time.Since(begin); took != 10*time.Second {
					t.Errorf("it ended after %s", took)
				}
				s.post("a", "text/plain", "late", bearer("owner")...).want(204)
				stays.pair()
				if data, _, _ := stays.pair(); data != "late" {
					t.Errorf("who shares the stream got %q", data)
				}
				if d := s.get("a?offset=-1&live=sse", bearer("reader")...).wantError(401, wire.CodeUnauthorized); d.Message != "the token has expired" {
					t.Errorf("it is told %q", d.Message)
				}
			})
		})
	}
}

func TestALongPollIsToldWhenItsTokenEnds(t *testing.T) {
	for name, end := range map[string]func(p people){
		"by its time":    func(people) { time.Sleep(11 * time.Second) },                        //nolint:forbidigo // the time of the bubble
		"by revoking it": func(p people) { time.Sleep(3 * time.Second); p["reader"].Revoke() }, //nolint:forbidigo // the same
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := people{}
				p.add("owner", time.Time{}, "runnel:admin")
				p.add("reader", time.Now().Add(10*time.Second), "runnel:read")
				s, stop := serveLogInBubble(t, durablestreams.Config{}, p.guard)
				defer stop()
				s.put("a", "text/plain", "", bearer("owner")...).want(201)
				go end(p)
				begin := time.Now()
				s.get("a?offset=now&live=long-poll", bearer("reader")...).wantError(401, wire.CodeUnauthorized)
				if took := time.Since(begin); took > 10*time.Second {
					t.Errorf("it was told after %s", took)
				}
				synctest.Wait()
				time.Sleep(10 * time.Second) //nolint:forbidigo // until end is over
			})
		})
	}
}

func TestALiveReaderIsLetGoWhenItsTokenIsRevoked(t *testing.T) {
	for name, keep := range ways {
		t.Run(name, func(t *testing.T) {
			p := people{}
			p.add("owner", time.Time{}, "runnel:admin")
			p.add("reader", time.Time{}, "runnel:read")
			s := serveTo(t, p, durablestreams.Config{KeepConnections: keep})
			s.put("a", "text/plain", "", bearer("owner")...).want(201)
			e, stays := s.live("a?offset=-1&live=sse", bearer("reader")...), s.live("a?offset=-1&live=sse", bearer("owner")...)
			e.pair()
			stays.pair()
			s.post("a", "text/plain", "in time", bearer("owner")...).want(204) // which the attached are sent
			e.pair()
			stays.pair()
			p["reader"].Revoke()
			e.wantEnd()
			s.post("a", "text/plain", "late", bearer("owner")...).want(204)
			if data, _, _ := stays.pair(); data != "late" {
				t.Errorf("who shares the stream got %q", data)
			}
			s.get("a?offset=-1", bearer("reader")...).wantError(401, wire.CodeUnauthorized)
		})
	}
}

func TestALongReadIsCutOffWhenItsTokenIsRevoked(t *testing.T) {
	p := people{}
	p.add("owner", time.Time{}, "runnel:admin")
	p.add("reader", time.Time{}, "runnel:read")
	s := serveTo(t, p, durablestreams.Config{})
	s.put("a", "text/plain", "", bearer("owner")...).want(201)
	for range 64 {
		s.post("a", "text/plain", strings.Repeat("x", 1<<20), bearer("owner")...).want(204)
	}
	resp, err := s.start(t.Context(), "GET", "a?offset=-1", http.NoBody, bearer("reader")...)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	p["reader"].Revoke()
	buf, n := make([]byte, 64<<10), 0
	for err == nil {
		var m int
		m, err = resp.Body.Read(buf)
		n += m
	}
	if n == 64<<20 {
		t.Error("all of it was sent")
	}
}

// paths are the streams of a listing.
func paths(t *testing.T, a *answer) []string {
	t.Helper()
	var listing struct {
		Streams []struct{ Path string }
	}
	if err := json.Unmarshal([]byte(a.body), &listing); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, one := range listing.Streams {
		all = append(all, one.Path)
	}
	return all
}
