package auth_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/auth"
)

func TestAScopeIsReadAndWritten(t *testing.T) {
	for text, want := range map[string]auth.Scope{
		"runnel:read":                        {Verbs: auth.Read},
		"runnel:read:chats":                  {Verbs: auth.Read, Path: "chats"},
		"runnel:read+write:chats/42":         {Verbs: auth.Read | auth.Write, Path: "chats/42"},
		"runnel:admin@*":                     {Verbs: auth.Admin, AnyStore: true},
		"runnel:send@*:a":                    {Verbs: auth.Send, AnyStore: true, Path: "a"},
		"runnel:read@" + other.String():      {Verbs: auth.Read, Store: other},
		"runnel:write:presence/room-1#alice": {Verbs: auth.Write, Path: "presence/room-1", Item: "alice"},
		"runnel:read:user:42":                {Verbs: auth.Read, Path: "user:42"},
		"runnel:read:a%20b/%2A%23%25":        {Verbs: auth.Read, Path: "a b/*#%"},
		"runnel:read:caf%C3%A9":              {Verbs: auth.Read, Path: "café"},
	} {
		got, err := auth.ParseScope(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%s: %+v, written as %s, %v", text, got, got, err)
		}
	}
	for text, want := range map[string]string{
		"runnel:write+read:a": "runnel:read+write:a", "runnel:read:café": "runnel:read:caf%C3%A9", "runnel:read:%61": "runnel:read:a",
		"runnel:read@00000000-0000-0000-0000-000000000000": "runnel:read", "runnel:read+read": "runnel:read",
	} {
		if got, err := auth.ParseScope(text); err != nil || got.String() != want {
			t.Errorf("%s is written as %s, %v", text, got, err)
		}
	}
}

func TestWhatIsNoScopeIsRefusedWithItsRule(t *testing.T) {
	for text, rule := range map[string]string{
		"": "begin with runnel:", "read": "begin with", "Runnel:read": "begin with", "runnel:": "verb", "runnel:Read": "verb", "runnel:delete": "verb",
		"runnel:read+": "verb", "runnel:read,write": "verb", "runnel:*": "verb", "runnel:read@": "UUID", "runnel:read@x": "UUID", "runnel:read@**": "UUID",
		"runnel:read:": "empty element", "runnel:read:/a": "empty element", "runnel:read:a/": "empty element", "runnel:read:a//b": "empty element",
		"runnel:read:.": "element", "runnel:read:a/../b": "element", "runnel:read:a/%2e%2E/b": "element", "runnel:read:chats/*": "star", "runnel:read:*": "star",
		"runnel:read:a b": "percent-encoded", "runnel:read:a\x00": "percent-encoded", `runnel:read:a"`: "percent-encoded", "runnel:read:a%00": "control",
		"runnel:read:%": "escape", "runnel:read:%zz": "escape", "runnel:read:%FF": "UTF-8", "runnel:read:a#": "item", "runnel:read:#x": "empty element",
		"runnel:read:a#b#c": "percent-encoded", "runnel:read:" + strings.Repeat("a", 800): "limit", "runnel:read:" + strings.Repeat("%61", 2000): "limit",
		"runnel:read:user@*": "star",
	} {
		_, err := auth.ParseScope(text)
		broken, ok := errors.AsType[*auth.ScopeError](err)
		if !ok || !strings.Contains(broken.Rule, rule) || !errors.Is(err, runnel.ErrInvalid) {
			t.Errorf("%.60q: %v, want something about %q", text, err, rule)
		}
	}
}

func TestAScopeCoversWhatIsBelowAtTheBoundariesOfElements(t *testing.T) {
	for _, c := range []struct {
		scope, path, item string
		needs             auth.Verb
		want              bool
	}{
		{"runnel:read", "a", "", auth.Read, true},
		{"runnel:read", "", "", auth.Read, true},
		{"runnel:read", "a", "i", auth.Read, true},
		{"runnel:read", "a", "", auth.Write, false},
		{"runnel:write", "a", "", auth.Read, false},
		{"runnel:write", "a", "", auth.Send, true},
		{"runnel:send", "a", "", auth.Write, false},
		{"runnel:admin", "a", "", auth.Read, true},
		{"runnel:read+write", "a", "", auth.Admin, false},
		{"runnel:write", "a", "", auth.Read | auth.Write, true},
		{"runnel:read:chats", "chats", "", auth.Read, true},
		{"runnel:read:chats", "chats/42", "", auth.Read, true},
		{"runnel:read:chats", "chats/a/b", "", auth.Read, true},
		{"runnel:read:chats", "chatsx", "", auth.Read, false},
		{"runnel:read:chats", "chat", "", auth.Read, false},
		{"runnel:read:chats", "", "", auth.Read, false},
		{"runnel:read:chats/42", "chats", "", auth.Read, false},
		{"runnel:read:chats#42", "chats/42", "", auth.Read, false},
		{"runnel:write:p/r#alice", "p/r", "alice", auth.Write, true},
		{"runnel:write:p/r#alice", "p/r", "bob", auth.Write, false},
		{"runnel:write:p/r#alice", "p/r", "", auth.Write, false},
		{"runnel:write:p/r#alice", "p/r/s", "alice", auth.Write, false},
		{"runnel:write:p", "p/r", "alice", auth.Write, true},
		{"runnel:read@" + other.String(), "a", "", auth.Read, false},
	} {
		err := principal(c.scope).Check(auth.Request{Action: "use", Needs: c.needs, Kind: "segment", Path: c.path, Item: c.item})
		if (err == nil) != c.want {
			t.Errorf("%s for %v of %q %q: %v", c.scope, c.needs, c.path, c.item, err)
		}
	}
}

func TestAStoreIsNoOtherOne(t *testing.T) {
	at := func(store runnel.Store) auth.Request {
		return auth.Request{Action: "read", Needs: auth.Read, Kind: "segment", Store: store, Path: "a"}
	}
	one, all := principal("runnel:read@"+other.String()), principal("runnel:read@*")
	if one.Check(at(other)) != nil || one.Check(at(runnel.Store{})) == nil || one.Check(at(runnel.Store{2})) == nil {
		t.Error("a scope for a store is for another one")
	}
	if all.Check(at(other)) != nil || all.Check(at(runnel.Store{})) != nil {
		t.Error("a scope for all stores is not for each")
	}
}

func TestARefusalIsShortAndSaysWhatWouldDo(t *testing.T) {
	err := principal("runnel:read").Check(auth.Request{Action: "append to", Needs: auth.Write, Kind: "segment", Store: other, Path: "chats/a b"})
	want := `runnel: forbidden: to append to "segment chats/a b" needs the scope "runnel:write@` + other.String() + `:chats/a%20b"`
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant\n%s", err, want)
	}
}

func FuzzParseScope(f *testing.F) {
	for _, seed := range []string{
		"runnel:read", "runnel:read+write@*:chats/42#item", "runnel:admin@0192f0c1-5bd1-7cc3-a3b6-1b1f0c8e9d11:a%2Fb", "runnel:read:%2e%2e", "openid", "runnel:read:a*",
	} {
		f.Add(seed, "chats/42")
	}
	f.Fuzz(func(t *testing.T, text, path string) {
		s, err := auth.ParseScope(text)
		if err != nil {
			return
		}
		again, err := auth.ParseScope(s.String())
		if err != nil || again != s || again.String() != s.String() {
			t.Fatalf("%q is %+v, written as %q, which is %+v, %v", text, s, s, again, err)
		}
		for _, c := range []byte(s.String()) {
			if c <= ' ' || c > '~' || c == '"' || c == '\\' {
				t.Fatalf("%q is written as %q, which no header can hold", text, s)
			}
		}
		seg, err := runnel.ParsePath(s.Store, path)
		if err != nil || s.Item != "" || s.Verbs&auth.Read == 0 {
			return
		}
		covered := auth.NewPrincipal("x", time.Time{}, s).Check(auth.Request{Needs: auth.Read, Store: s.Store, Path: seg.Path()}) == nil
		if want := s.Path == "" || strings.HasPrefix(seg.Path()+"/", s.Path+"/"); covered != want {
			t.Fatalf("%s covers %s: %v", s, seg.Path(), covered)
		}
	})
}

func FuzzParseTokens(f *testing.F) {
	token, _, err := auth.NewToken("ann o'brien", time.Now().Add(time.Hour), auth.Scope{Verbs: auth.Read, Path: "a b"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("# tokens\n\n" + token.String() + "\n"))
	f.Add([]byte("id " + strings.Repeat("0", 64) + " never s runnel:read\n"))
	f.Add([]byte("id " + strings.Repeat("0", 64) + " 0000-01-01T00:00:00+01:00 s runnel:read"))
	f.Add([]byte("id " + strings.Repeat("0", 64) + " 9999-12-31T23:59:59-01:00 s runnel:read"))
	f.Add([]byte("id " + strings.Repeat("0", 64) + " 0001-01-01T00:00:00Z s runnel:read"))
	f.Add([]byte("id " + strings.Repeat("0", 64) + " 2027-01-31T12:00:00+01:00 s runnel:read runnel:write:a"))
	f.Fuzz(func(t *testing.T, data []byte) {
		tokens, err := auth.ParseTokens(data)
		if err != nil {
			return
		}
		var lines strings.Builder
		for _, token := range tokens {
			lines.WriteString(token.String() + "\n")
		}
		again, err := auth.ParseTokens([]byte(lines.String()))
		if err != nil || len(again) != len(tokens) {
			t.Fatalf("%q is written as %q, %v", data, lines.String(), err)
		}
		for i := range again {
			if again[i].String() != tokens[i].String() {
				t.Fatalf("%s is read as %s", tokens[i], again[i])
			}
		}
		rest, gone, err := auth.RemoveTokens(data, func(token auth.Token) bool { return token.ID == "id" })
		if err != nil || len(gone) > 1 {
			t.Fatal(gone, err)
		}
		if left, err := auth.ParseTokens(rest); err != nil || len(left)+len(gone) != len(tokens) {
			t.Fatalf("%d of %d tokens are left in %q, %v", len(left), len(tokens), rest, err)
		}
	})
}

func FuzzTheTokenOfARequest(f *testing.F) {
	f.Add("Bearer tok", "offset=-1&token=tok", "runnel.bearer.tok, runnel.v1")
	f.Add("", "tok%65n=a%20b&x", "")
	f.Add("", "", "a,runnel.bearer.x,,runnel.bearer.y")
	f.Add("Bearer tok", "", "xrunnel.bearer.y")
	f.Add("", "", "Authorization, tok")
	f.Fuzz(func(t *testing.T, authorization, query, protocol string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.URL.RawQuery = query
		if authorization != "" {
			r.Header["Authorization"] = []string{authorization}
		}
		if protocol != "" {
			r.Header["Sec-Websocket-Protocol"] = []string{protocol}
		}
		seen := new(listener)
		clean, err := auth.New(auth.Config{}, seen).Admit(r)
		if err != nil {
			if !errors.Is(err, runnel.ErrUnauthorized) && !errors.Is(err, runnel.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if r.URL.RawQuery != query || clean.URL == r.URL && clean.URL.Query().Has("token") {
			t.Fatal("the caller's request was changed")
		}
		inProtocol := slices.ContainsFunc(strings.Split(clean.Header.Get("Sec-Websocket-Protocol"), ","), func(name string) bool {
			return strings.HasPrefix(strings.TrimSpace(name), "runnel.bearer.")
		})
		if clean.Header.Get("Authorization") != "" || clean.URL.Query().Has("token") || inProtocol {
			t.Fatalf("the token is left in the request: %v %v", clean.URL, clean.Header)
		}
		if auth.PrincipalOf(clean.Context()) == nil || seen.token == "" {
			t.Fatal("nobody is in the context")
		}
	})
}
