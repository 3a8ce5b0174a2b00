package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/runnelhq/runnel/session"
)

const (
	testSecret  = "0123456789abcdef0123456789abcdef"
	testSecret2 = "fedcba9876543210fedcba9876543210"
)

func TestAServerThatOthersCanReachNeedsAccessControl(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0"} {
		if strings.HasPrefix(addr, "[") && !hasIPv6(t) {
			continue
		}
		o := runnelIn(t, nil, nil, "serve", "--driver", "memory", "--addr", addr)
		if o.code != 1 || o.stdout != "" {
			t.Errorf("%s: ended with %d, and printed %q", addr, o.code, o.stdout)
		}
		for _, want := range []string{"other machines can connect", "runnel token create", "--tokens", "--jwks-url", "127.0.0.1", "--open"} {
			if !strings.Contains(o.stderr, want) {
				t.Errorf("%s: the error does not say %q: %s", addr, want, o.stderr)
			}
		}
	}
	if o := runnelIn(t, nil, nil, "serve", "--driver", "memory", "--addr", "127.0.0.1:0", "--items-addr", "0.0.0.0:0"); o.code != 1 || !strings.Contains(o.stderr, "items-addr: other machines can connect") {
		t.Errorf("items-addr: ended with %d: %s", o.code, o.stderr)
	}
	for _, args := range [][]string{{"--open"}, {"--jwt-secret", testSecret}} {
		s := serve(t, nil, append([]string{"--driver", "memory", "--addr", "0.0.0.0:0"}, args...)...)
		code, _ := get(t, strings.Replace(s.url, "localhost", "127.0.0.1", 1)+"/readyz")
		if told := strings.Contains(s.stderr.String(), "everybody who can connect"); code != 200 || told != (args[0] == "--open") {
			t.Errorf("%v: %d\n%s", args, code, s.stderr)
		}
		s.stop()
	}
	s := inMemory(t, "--addr", "localhost:0")
	s.must("x", "append", "a")
}

func hasIPv6(t *testing.T) bool {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "[::]:0")
	if err != nil {
		return false
	}
	l.Close()
	return true
}

func TestSettingsOfAccessThatDoNotGoTogetherAreRefused(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args, env, want string
		code            int
	}{
		{args: "--open --tokens x", want: "open is for a server without tokens", code: 2},
		{args: "--jwt-issuer x", want: "need jwt-secret", code: 2},
		{args: "--jwks-url https://id.example/keys", want: "needs jwt-audience", code: 2},
		{args: "--jwt-revoked x", want: "jwt-revoked needs jwt-secret", code: 2},
		{args: "--jwt-revoked /nowhere --jwt-secret " + testSecret, want: "jwt-revoked: ", code: 1},
		{args: "--max-auth-failures -1", want: "max-auth-failures must not be negative", code: 2},
		{args: "--max-sessions -1", want: "max-sessions must not be negative", code: 2},
		{args: "--jwt-leeway 2h", want: "jwt-leeway must be between", code: 2},
		{args: "--jwt-secret short", want: "at least 32", code: 1},
		{args: "--jwt-secret-file " + empty, want: "is empty", code: 1},
		{args: "--jwt-secret-file /nowhere", want: "jwt-secret-file: open /nowhere", code: 1},
		{args: "--tokens /nowhere", want: "tokens: ", code: 1},
		{args: "--jwks-url http://id.example/keys --jwt-audience a", want: "https", code: 1},
		{env: "RUNNEL_TOKENS=", want: "RUNNEL_TOKENS is set and empty", code: 2},
		{env: "RUNNEL_JWT_SECRET=", want: "RUNNEL_JWT_SECRET is set and empty", code: 2},
	} {
		o := runnelIn(t, strings.Fields(c.env), nil, append([]string{"serve", "--driver", "memory", "--addr", "127.0.0.1:0"}, strings.Fields(c.args)...)...)
		if o.code != c.code || !strings.Contains(o.stderr, c.want) {
			t.Errorf("%s%s: ended with %d: %s", c.args, c.env, o.code, o.stderr)
		}
	}
}

// say runs a command against the server as whoever has a token.
func (s *server) say(token, stdin string, args ...string) outcome {
	s.t.Helper()
	return runnelIn(s.t, []string{"RUNNEL_URL=" + s.streams(), "RUNNEL_TOKEN=" + token}, strings.NewReader(stdin), args...)
}

// mustToken runs "runnel token" and returns what it prints.
func mustToken(t *testing.T, args ...string) string {
	t.Helper()
	o := runnelIn(t, nil, nil, append([]string{"token"}, args...)...)
	if o.code != 0 {
		t.Fatalf("runnel token %v ended with %d\n%s", args, o.code, o.stderr)
	}
	return strings.TrimSpace(o.stdout)
}

func TestTokensOfAFileAreMadeListedUsedAndRevoked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	admin := mustToken(t, "create", "--tokens", file, "ops", "runnel:admin")
	reader := mustToken(t, "create", "--tokens", file, "--expires-in", "24h", "web", "runnel:read:chats", "runnel:read:news")
	s := serve(t, []string{"RUNNEL_TOKENS=" + file}, "--addr", "127.0.0.1:0", "--driver", "memory")
	if o := s.say(admin, "x", "append", "chats/42"); o.code != 0 {
		t.Fatal(o.stderr)
	}
	if o := s.say(reader, "", "read", "chats/42"); o.code != 0 || o.stdout != "x" {
		t.Error(o)
	}
	if o := s.say(reader, "x", "append", "chats/42"); o.code != 1 || !strings.Contains(o.stderr, "403 forbidden") || !strings.Contains(o.stderr, "runnel:write:chats/42") {
		t.Errorf("ended with %d: %s", o.code, o.stderr)
	}
	if o := s.say(reader, "", "tail", "secret"); o.code != 1 || !strings.Contains(o.stderr, "runnel:read:secret") {
		t.Errorf("ended with %d: %s", o.code, o.stderr)
	}
	if o := s.say("", "", "read", "chats/42"); o.code != 1 || !strings.Contains(o.stderr, "401 unauthorized: a token is needed") {
		t.Errorf("ended with %d: %s", o.code, o.stderr)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, _ := get(t, s.url+path); code != 200 {
			t.Errorf("%s: %d", path, code)
		}
	}

	list := mustToken(t, "ls", "--tokens", file)
	if lines := strings.Split(list, "\n"); len(lines) != 2 || !strings.Contains(lines[0], "ops  until revoked") || !strings.Contains(lines[1], "runnel:read:chats runnel:read:news") || strings.Contains(list, "rnl_") {
		t.Errorf("the list is\n%s", list)
	}
	id, _, _ := strings.Cut(strings.Split(list, "\n")[1], " ")
	tail := command(t, []string{"RUNNEL_URL=" + s.streams(), "RUNNEL_TOKEN=" + reader}, "tail", "--from", "-1", "chats/42")
	out, stderr := new(buffer), new(buffer)
	tail.Stdout, tail.Stderr = out, stderr
	if err := tail.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the tail follows", func() bool { return out.String() == "x" })
	if o := runnelIn(t, nil, nil, "token", "revoke", "--tokens", file, "nobody"); o.code != 1 || !strings.Contains(o.stderr, "nobody") {
		t.Errorf("ended with %d: %s", o.code, o.stderr)
	}
	mustToken(t, "revoke", "--tokens", file, id)
	ended := make(chan struct{})
	go func() { _ = tail.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(within):
		t.Fatal("the tail goes on")
	}
	if !strings.Contains(stderr.String(), "401 unauthorized") {
		t.Errorf("the tail ended with %s", stderr)
	}
	if o := s.say(admin, "", "read", "chats/42"); o.code != 0 {
		t.Errorf("who was not revoked: %s", o.stderr)
	}
	mustToken(t, "revoke", "--tokens", file, "--subject", "ops")
	if left := mustToken(t, "ls", "--tokens", file, "--json"); left != "" {
		t.Errorf("left are %s", left)
	}
}

func TestALiveReaderIsLetGoWhenItsTokenIsRevoked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	token := mustToken(t, "create", "--tokens", file, "web", "runnel:admin")
	s := inMemory(t, "--tokens", file, "--sse-rotation", "0")
	if o := s.say(token, "x", "append", "a"); o.code != 0 {
		t.Fatal(o.stderr)
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.streams()+"/a?offset=-1&live=sse&token="+token, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := new(http.Client).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	if line, err := r.ReadString('\n'); err != nil || line != "event: data\n" {
		t.Fatalf("got %q %v", line, err)
	}
	mustToken(t, "revoke", "--tokens", file, "--subject", "web")
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Errorf("it was not let go: %v", err)
	}
	if s.stop(); strings.Contains(s.stderr.String(), token) {
		t.Errorf("the log shows the token\n%s", s.stderr)
	}
}

func TestSignedTokensAreAdmittedAlsoWhileTheSecretIsChanged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(file, []byte(testSecret2+"\n\n"+testSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := inMemory(t, "--jwt-secret-file", file, "--jwt-issuer", "us", "--jwt-audience", "a,b")
	before := mustToken(t, "sign", "--jwt-secret", testSecret, "--jwt-issuer", "us", "--jwt-audience", "b", "ann", "runnel:write:logs")
	after := mustToken(t, "sign", "--jwt-secret-file", file, "--jwt-issuer", "us", "--jwt-audience", "b", "ann", "runnel:read:logs", "runnel:admin@00000000-0000-0000-0000-000000000001")
	if o := s.say(before, "x", "append", "logs/1"); o.code != 0 {
		t.Error(o.stderr)
	}
	if o := s.say(after, "", "read", "--store", "00000000-0000-0000-0000-000000000000", "logs/1"); o.code != 0 || o.stdout != "x" {
		t.Errorf("%+v", o)
	}
	if o := s.say(after, "", "read", "logs/1"); o.code != 1 || !strings.Contains(o.stderr, "Runnel-Store") {
		t.Errorf("ended with %d: %s", o.code, o.stderr)
	}
	if o := s.say(after, "y", "append", "--store", "00000000-0000-0000-0000-000000000001", "logs/1"); o.code != 0 {
		t.Error(o.stderr)
	}
	for what, args := range map[string][]string{
		"of another issuer": {"--jwt-secret", testSecret, "--jwt-issuer", "them", "--jwt-audience", "b"}, "for another audience": {"--jwt-secret", testSecret, "--jwt-issuer", "us", "--jwt-audience", "c"},
		"signature": {"--jwt-secret", strings.Repeat("x", 32), "--jwt-issuer", "us", "--jwt-audience", "b"},
	} {
		if o := s.say(mustToken(t, append(append([]string{"sign"}, args...), "ann", "runnel:admin")...), "", "read", "logs/1"); o.code != 1 || !strings.Contains(o.stderr, what) {
			t.Errorf("%s: ended with %d: %s", what, o.code, o.stderr)
		}
	}
}

func TestASignedTokenIsRevokedWhileItsConnectionsAreOpen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "revoked")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := inMemory(t, "--jwt-secret", testSecret, "--jwt-revoked", file)
	sign := func() (token, id string) {
		o := runnelIn(t, nil, nil, "token", "sign", "--jwt-secret", testSecret, "ann", "runnel:admin")
		_, rest, _ := strings.Cut(o.stderr, "signed token ")
		id, _, _ = strings.Cut(rest, " of ann")
		return strings.TrimSpace(o.stdout), id
	}
	first, _ := sign()
	second, id := sign()
	mustBe := func(what, token string, status int) {
		t.Helper()
		if resp := s.page("GET", "/v1/stream/", "", "", "Authorization", "Bearer "+token); resp.status != status {
			t.Errorf("%s: %+v", what, resp)
		}
	}
	mustBe("the first", first, 200)
	mustBe("the second", second, 200)
	ws, _, err := websocket.Dial(t.Context(), s.url+session.Path, &websocket.DialOptions{ //nolint:bodyclose // Dial has read it
		Subprotocols: []string{session.Subprotocol}, HTTPHeader: http.Header{"Authorization": {"Bearer " + first}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.CloseNow() }()
	if o := runnelIn(t, nil, strings.NewReader(first+"\n"), "token", "revoke", "--jwt-revoked", file, "-"); o.code != 0 {
		t.Fatal(o.stderr)
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for err == nil {
		_, _, err = ws.Read(ctx)
	}
	if closed, ok := errors.AsType[websocket.CloseError](err); !ok || closed.Code != websocket.StatusPolicyViolation || !strings.Contains(closed.Reason, "has been revoked") {
		t.Errorf("the connection ended with %v", err)
	}
	mustBe("one that was revoked", first, 401)
	mustBe("the other one", second, 200)
	mustToken(t, "revoke", "--jwt-revoked", file, id)
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for s.page("GET", "/v1/stream/", "", "", "Authorization", "Bearer "+second).status != 401 {
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatal("a token that was revoked by its id is still admitted")
		}
	}
}

func TestWhoGuessesTokensIsHeldUp(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	token := mustToken(t, "create", "--tokens", file, "web", "runnel:read")
	s := inMemory(t, "--tokens", file, "--max-auth-failures", "3")
	ask := func(token string) reply {
		return s.page("GET", "/v1/stream/", "", "", "Authorization", "Bearer "+token)
	}
	if resp := ask(token); resp.status != 200 {
		t.Fatal(resp)
	}
	for range 3 {
		if resp := ask("rnl_guess"); resp.status != 401 {
			t.Fatal(resp)
		}
	}
	resp := ask("rnl_guess")
	if resp.status != 429 || resp.header.Get("Retry-After") == "" || !strings.Contains(resp.body, `"limit":3`) {
		t.Errorf("%+v", resp)
	}
	for _, path := range []string{"/v1/items/s/g", session.Path} {
		if resp := s.page("GET", path, "", "", "Authorization", "Bearer rnl_guess"); resp.status != 429 {
			t.Errorf("%s: %+v", path, resp)
		}
	}
	if resp := ask(token); resp.status != 200 {
		t.Errorf("who was there before: %+v", resp)
	}
}

func TestOneSubjectHasOnlySoManySessions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	greedy, modest := mustToken(t, "create", "--tokens", file, "greedy", "runnel:read"), mustToken(t, "create", "--tokens", file, "modest", "runnel:read")
	s := inMemory(t, "--tokens", file, "--max-sessions-each", "2", "--max-sessions", "3")
	open := func(token string) int {
		ws, resp, err := websocket.Dial(t.Context(), s.url+session.Path, &websocket.DialOptions{ //nolint:bodyclose // Dial has read it
			Subprotocols: []string{session.Subprotocol}, HTTPHeader: http.Header{"Authorization": {"Bearer " + token}},
		})
		if err == nil {
			t.Cleanup(func() { _ = ws.CloseNow() })
		}
		return resp.StatusCode
	}
	for i, c := range []struct {
		token string
		want  int
	}{{greedy, 101}, {greedy, 101}, {greedy, 429}, {modest, 101}, {modest, 503}} {
		if got := open(c.token); got != c.want {
			t.Errorf("connection %d: %d, want %d", i, got, c.want)
		}
	}
}

func TestTokensOfAFileAndJWTsAreRevokedTogether(t *testing.T) {
	dir := t.TempDir()
	file, revoked := filepath.Join(dir, "tokens"), filepath.Join(dir, "revoked")
	first := mustToken(t, "create", "--tokens", file, "ann", "runnel:read")
	mustToken(t, "create", "--tokens", file, "ben", "runnel:read")
	cleo := mustToken(t, "create", "--tokens", file, "cleo", "runnel:read")
	signed := mustToken(t, "sign", "--jwt-secret", testSecret, "dora", "runnel:read")
	ids := func() (tokens, jwts int) {
		data, err := os.ReadFile(revoked)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.Count(mustToken(t, "ls", "--tokens", file, "--json"), "id"), strings.Count(string(data), "\n")
	}
	for _, c := range []struct {
		what         string
		env, args    []string
		stdin        string
		code         int
		tokens, jwts int // that are left in their files
	}{
		{what: "one of each, themselves", args: []string{"--tokens", file, "--jwt-revoked", revoked, "-"}, stdin: first + "\n" + signed + "\n", tokens: 2, jwts: 1},
		{what: "a token that is gone, which is no JWT", args: []string{"--tokens", file, "--jwt-revoked", revoked, "-"}, stdin: first + "\nx\n", code: 1, tokens: 2, jwts: 1},
		{what: "a JWT, beside the file of tokens of the environment", env: []string{"RUNNEL_TOKENS=" + file}, args: []string{"--jwt-revoked", revoked, "x"}, tokens: 2, jwts: 2},
		{what: "a subject and a JWT", env: []string{"RUNNEL_TOKENS=" + file}, args: []string{"--jwt-revoked", revoked, "--subject", "ben", "y"}, tokens: 1, jwts: 3},
		{what: "a JWT, and a subject without a token", args: []string{"--tokens", file, "--jwt-revoked", revoked, "--subject", "nobody", "z"}, code: 1, tokens: 1, jwts: 3},
		{what: "a token of the file, and a subject without a token", args: []string{"--tokens", file, "--jwt-revoked", revoked, "--subject", "nobody", "-"}, stdin: cleo + "\nz\n", code: 1, tokens: 1, jwts: 3},
		{what: "a JWT without a file for it", args: []string{"--tokens", file, signed}, code: 1, tokens: 1, jwts: 3},
		{what: "a subject without tokens", args: []string{"--tokens", file, "--subject", "ben"}, code: 1, tokens: 1, jwts: 3},
	} {
		o := runnelIn(t, c.env, strings.NewReader(c.stdin), append([]string{"token", "revoke"}, c.args...)...)
		tokens, jwts := ids()
		if o.code != c.code || tokens != c.tokens || jwts != c.jwts {
			t.Errorf("%s: ended with %d and leaves %d tokens and %d revoked JWTs: %s", c.what, o.code, tokens, jwts, o.stderr)
		}
		if strings.Contains(o.stderr, first) || strings.Contains(o.stderr, signed) {
			t.Errorf("%s: a token is shown: %s", c.what, o.stderr)
		}
	}
}

func TestTheTokenCommandSaysWhatIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	for _, c := range []struct {
		args, want string
		code       int
	}{
		{"create --tokens " + file + " ann", "scope", 2},
		{"create ann runnel:read", "tokens", 2},
		{"create --tokens " + file + " ann chats", "does not begin with runnel:", 2},
		{"create --tokens " + file + " --expires-in -1h ann runnel:read", "negative", 2},
		{"create --tokens /nowhere/tokens ann runnel:read", "/nowhere/tokens", 1},
		{"ls --tokens " + file, "no such file", 1},
		{"revoke --tokens " + file, "say which", 2},
		{"revoke --tokens " + file + " x", "no such file", 1},
		{"revoke x", "one of tokens and jwt-revoked", 2},
		{"revoke --jwt-revoked " + file, "JWTs, or their ids", 2},
		{"revoke --jwt-revoked " + file + " --subject ann x", "JWTs, or their ids", 2},
		{"revoke --jwt-revoked " + file + " --tokens " + file + " --subject ann", "JWTs, or their ids", 2},
		{"revoke --jwt-revoked " + file + " --tokens " + file + " x", "no such file", 1},
		{"revoke --jwt-revoked " + file + " -", "no token on standard input", 2},
		{"sign ann runnel:read", "jwt-secret", 2},
		{"sign --jwt-secret short ann runnel:read", "at least 32", 1},
		{"sign --jwt-secret " + testSecret + " --expires-in 0s ann runnel:read", "more than 0", 2},
	} {
		o := runnelIn(t, nil, nil, append([]string{"token"}, strings.Fields(c.args)...)...)
		if o.code != c.code || !strings.Contains(o.stderr, c.want) {
			t.Errorf("%s: ended with %d: %s", c.args, o.code, o.stderr)
		}
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was made: %v", err)
	}
	if o := runnelIn(t, nil, nil, "read", "--token", "a", "--auth", "b", "x"); o.code != 2 || !strings.Contains(o.stderr, "exclude each other") {
		t.Errorf("ended with %d: %s", o.code, o.stderr)
	}
}
