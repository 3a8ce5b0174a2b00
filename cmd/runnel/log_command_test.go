package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
)

func TestLinesAreRecordsAndComeBackInEveryForm(t *testing.T) {
	s := inMemory(t)
	if got := s.must("one\n\n three \r\nfour", "produce", "--print-sequence", "--meta", "kind=a,b", "orders/1"); got != "4\n" {
		t.Errorf("the last sequence is %q", got)
	}
	for args, want := range map[string]string{
		"":                      "one\n\n three \nfour\n",
		"--raw":                 "one three four",
		"--after 2":             " three \nfour\n",
		"--after 1 --through 3": "\n three \n",
		"--last 1":              "four\n",
		"--backwards --limit 2": "four\n three \n",
		"--limit 1":             "one\n",
		"--since 1h":            "one\n\n three \nfour\n",
		"--until 1h":            "",
		"--filter kind=a,b":     "one\n\n three \nfour\n",
		"--filter kind=a*":      "one\n\n three \nfour\n",
		"--filter kind=a":       "",
		"--after latest":        "",
		"--since 2000-01-01T00:00:00Z --until 2001-01-01T00:00:00Z": "",
	} {
		if got := s.must("", append([]string{"consume", "orders/1"}, strings.Fields(args)...)...); got != want {
			t.Errorf("consume %s: got %q, want %q", args, got, want)
		}
	}
	var line entryLine
	if err := json.Unmarshal([]byte(s.must("", "consume", "--json", "--last", "1", "orders/1")), &line); err != nil {
		t.Fatal(err)
	}
	if line.Segment != "orders/1" || line.Sequence != 4 || line.Position == 0 || line.Time.IsZero() || *line.Payload != "four" || line.Metadata["kind"] != "a,b" {
		t.Errorf("got %+v", line)
	}
}

func TestWhatConsumePrintsAsJSONProduceTakes(t *testing.T) {
	s := inMemory(t)
	s.must(`{"payload":"text","metadata":{"n":"1"}}
		{"base64":"/wA="}
		{"json":{"a": [1, 2]}}`, "produce", "--json", "--meta", "n=0", "--meta", "m=x", "a")
	lines := s.must("", "consume", "--json", "a")
	s.must(lines, "produce", "--json", "b")
	if got := s.must("", "consume", "--raw", "b"); got != "text\xff\x00{\"a\": [1, 2]}" {
		t.Errorf("got %q", got)
	}
	if got := s.must("", "consume", "--filter", "n=1", "--filter", "m=x", "b"); got != "text\n" {
		t.Errorf("the record's own metadata: %q", got)
	}
}

func TestSpacesAreReadInOneOrderAndFollowed(t *testing.T) {
	s := inMemory(t)
	for i := range 6 {
		s.must("", "produce", fmt.Sprintf("a/%d", i%2), fmt.Sprint("a", i))
		s.must("", "produce", "b/x", fmt.Sprint("b", i))
	}
	if got := s.must("", "consume", "--space", "a"); got != "a0\na1\na2\na3\na4\na5\n" {
		t.Errorf("the space: %q", got)
	}
	if got := s.must("", "consume", "--space", "a", "b"); got != "a0\nb0\na1\nb1\na2\nb2\na3\nb3\na4\nb4\na5\nb5\n" {
		t.Errorf("both: %q", got)
	}
	if got := s.must("", "consume", "--space", "--segments", "1", "--last", "4", "a"); got != "a3\na5\n" {
		t.Errorf("of some segments: %q", got)
	}
	tail := command(t, nil, "tail", "--space", "--from", "-1", "--json", "--url", s.url, "a")
	stdout, stderr := new(buffer), new(buffer)
	tail.Stdout, tail.Stderr = stdout, stderr
	if err := tail.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the tail has what was there", func() bool { return strings.Count(stdout.String(), "\n") == 6 })
	s.must("", "produce", "a/new", "live")
	eventually(t, "the tail has what came", func() bool { return strings.Contains(stdout.String(), `"segment":"a/new"`) })
	if err := tail.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := tail.Wait(); err != nil || stderr.String() != "" {
		t.Errorf("ended with %v: %s", err, stderr)
	}
}

func TestAFollowingConsumeGoesOnAfterTheServerWasKilled(t *testing.T) {
	data := t.TempDir()
	s := serve(t, nil, "--addr", "127.0.0.1:0", "--data", data)
	addr := strings.TrimPrefix(s.url, "http://")
	s.must("one", "produce", "a")
	follow := command(t, nil, "consume", "--follow", "--url", s.url, "a")
	stdout, stderr := new(buffer), new(buffer)
	follow.Stdout, follow.Stderr = stdout, stderr
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has what was there", func() bool { return stdout.String() == "one\n" })
	s.kill()
	s = serve(t, nil, "--addr", addr, "--data", data)
	s.must("two", "produce", "--close", "a")
	if err := follow.Wait(); err != nil || stdout.String() != "one\ntwo\n" {
		t.Errorf("ended with %v: %q, %s", err, stdout, stderr)
	}
	if !strings.Contains(stderr.String(), "trying again") {
		t.Errorf("the user was not told: %q", stderr)
	}
}

func TestRecordsAreProducedUnderConditionsAndOnce(t *testing.T) {
	s := inMemory(t)
	s.must("a\nb\n", "produce", "--expect", "none", "x")
	refused := func(want string, args ...string) {
		t.Helper()
		o := runnelIn(t, []string{"RUNNEL_URL=" + s.streams()}, strings.NewReader("more\n"), args...)
		if o.code != 1 || !strings.Contains(o.stderr, want) {
			t.Errorf("%v ended with %d: %s", args, o.code, o.stderr)
		}
	}
	refused("exists", "produce", "--expect", "none", "x")
	refused("not found", "produce", "--expect", "exists", "y")
	refused("2", "produce", "--expect", "1", "x")
	s.must("c", "produce", "--expect", "2", "x")
	for range 2 {
		s.must("d\ne\n", "produce", "--key", "event-1", "x")
	}
	refused("event-1", "produce", "--key", "event-1", "x")
	var input strings.Builder
	for i := range 25 {
		fmt.Fprintln(&input, i)
	}
	for range 2 {
		s.must(input.String(), "produce", "--producer", "import", "--batch", "10", "p")
	}
	s.must("", "produce", "--close", "p")
	if got := s.must("", "consume", "p"); got != input.String() {
		t.Errorf("the producer's: %q", got)
	}
	if got := s.must("", "consume", "x"); got != "a\nb\nc\nd\ne\n" {
		t.Errorf("got %q", got)
	}
	refused("closed", "produce", "p")
}

func TestACursorRemembersWhatWasPrinted(t *testing.T) {
	s := inMemory(t)
	for _, c := range []struct{ name, flag string }{{"a/x", "--space=false"}, {"a", "--space"}} {
		s.must("one\ntwo\n", "produce", "a/x")
		first := s.must("", "consume", c.flag, "--cursor", "me", "--limit", "1", c.name)
		rest := s.must("", "consume", c.flag, "--cursor", "me", c.name)
		if first != "one\n" || !strings.HasPrefix(rest, "two\n") {
			t.Errorf("%s: got %q and %q", c.name, first, rest)
		}
		if got := s.must("", "consume", c.flag, "--cursor", "me", c.name); got != "" {
			t.Errorf("%s: nothing is left, got %q", c.name, got)
		}
		place := s.must("", "cursor", "get", c.flag, c.name, "me")
		s.must("", "produce", "a/x", "three")
		var line cursorLine
		if err := json.Unmarshal([]byte(s.must("", "cursor", "get", "--json", c.flag, c.name, "me")), &line); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintln(line.Place) != place || line.Lag != 1 || line.End != line.Place+1 {
			t.Errorf("%s: got %+v, behind %q", c.name, line, place)
		}
		s.must("", "cursor", "set", c.flag, c.name, "me", "latest")
		s.must("", "cursor", "set", c.flag, "--rewind", c.name, "me", "1")
		s.must("", "cursor", "set", c.flag, c.name, "you", "1", "--expect", "0")
		if got := s.must("", "cursor", "ls", c.flag, c.name); strings.Count(got, "\n") != 3 || !strings.Contains(got, "LAG") {
			t.Errorf("%s: ls: %s", c.name, got)
		}
		o := runnelIn(t, []string{"RUNNEL_URL=" + s.streams()}, nil, "cursor", "set", c.flag, "--expect", "7", c.name, "me", "2")
		if o.code != 1 || !strings.Contains(o.stderr, "cursor") {
			t.Errorf("%s: a wrong expectation ended with %d: %s", c.name, o.code, o.stderr)
		}
		s.must("", "cursor", "rm", c.flag, c.name, "me", "you")
		if got := s.must("", "cursor", "ls", c.flag, c.name); got != "" {
			t.Errorf("%s: ls after rm: %s", c.name, got)
		}
		s.must("", "rm", "a/x")
	}
}

func TestALeaseIsHeldByOneAtATime(t *testing.T) {
	s := inMemory(t)
	env := []string{"RUNNEL_URL=" + s.streams()}
	number := strings.TrimSpace(s.must("", "lease", "acquire", "jobs", "nightly", "--ttl", "1h", "--holder", "me", "--meta", "where=here"))
	if o := runnelIn(t, env, nil, "lease", "acquire", "jobs", "nightly"); o.code != exitHeld || !strings.Contains(o.stderr, "held by") {
		t.Errorf("a second holder ended with %d: %s", o.code, o.stderr)
	}
	if o := runnelIn(t, env, nil, "lease", "run", "jobs", "nightly", "--", "true"); o.code != exitHeld {
		t.Errorf("a command of a second holder ended with %d: %s", o.code, o.stderr)
	}
	s.must("", "lease", "renew", "jobs", "nightly", number)
	var line leaseLine
	if err := json.Unmarshal([]byte(s.must("", "lease", "ls", "--json", "jobs")), &line); err != nil {
		t.Fatal(err)
	}
	if line.Key != "nightly" || fmt.Sprint(line.Number) != number || line.Holder != "me" || line.TTLSeconds != 3600 || line.Metadata["where"] != "here" {
		t.Errorf("got %+v", line)
	}
	if got := s.must("", "lease", "ls", "jobs"); strings.Count(got, "\n") != 2 || !strings.Contains(got, "HOLDER") {
		t.Errorf("ls: %s", got)
	}
	s.must("", "produce", "--fence", "nightly="+number, "jobs/report", "mine")
	s.must("", "lease", "release", "jobs", "nightly", number)
	if o := runnelIn(t, env, nil, "produce", "--fence", "nightly="+number, "jobs/report", "too late"); o.code != 1 || !strings.Contains(o.stderr, "not held") {
		t.Errorf("a write after the release ended with %d: %s", o.code, o.stderr)
	}
	if got := s.must("", "consume", "jobs/report"); got != "mine\n" {
		t.Errorf("got %q", got)
	}
	if o := runnelIn(t, env, nil, "lease", "renew", "jobs", "nightly", number); o.code != 1 || !strings.Contains(o.stderr, "not held") {
		t.Errorf("a renewal after the release ended with %d: %s", o.code, o.stderr)
	}
}

func TestACommandRunsWhileALeaseIsHeld(t *testing.T) {
	s := inMemory(t)
	env := []string{"RUNNEL_URL=" + s.streams()}
	out := s.must("to cat", "lease", "run", "jobs", "k", "--", "sh", "-c", `cat; echo " $RUNNEL_LEASE_SPACE $RUNNEL_LEASE_KEY $RUNNEL_LEASE_NUMBER"`)
	if !strings.HasPrefix(out, "to cat jobs k ") {
		t.Errorf("got %q", out)
	}
	if got := s.must("", "lease", "ls", "jobs"); got != "" {
		t.Errorf("the lease is not released: %s", got)
	}
	for code, script := range map[int]string{7: "exit 7", 128 + 15: "kill -TERM $$"} {
		if o := runnelIn(t, env, nil, "lease", "run", "jobs", "k", "--", "sh", "-c", script); o.code != code || o.stderr != "" {
			t.Errorf("%s ended with %d: %s", script, o.code, o.stderr)
		}
	}
	if o := runnelIn(t, env, nil, "lease", "run", "jobs", "k", "--", "/no/such/command"); o.code != 1 || !strings.Contains(o.stderr, "no such file") {
		t.Errorf("a missing command ended with %d: %s", o.code, o.stderr)
	}
}

func TestACommandIsKilledWhenItsLeaseIsLost(t *testing.T) {
	s := inMemory(t)
	run := command(t, []string{"RUNNEL_URL=" + s.streams()}, "lease", "run", "jobs", "k", "--ttl", "3s", "--", "sh", "-c", "echo $RUNNEL_LEASE_NUMBER; sleep 1000; echo survived")
	stdout, stderr := new(buffer), new(buffer)
	run.Stdout, run.Stderr = stdout, stderr
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command runs", func() bool { return strings.HasSuffix(stdout.String(), "\n") })
	s.must("", "lease", "release", "jobs", "k", strings.TrimSpace(stdout.String()))
	began := time.Now()
	err := run.Wait()
	exit := (*exec.ExitError)(nil)
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(stderr.String(), "the lease was lost, and the command killed") {
		t.Errorf("ended with %v: %s", err, stderr)
	}
	if strings.Contains(stdout.String(), "survived") || time.Since(began) > within {
		t.Errorf("after %s: %q", time.Since(began), stdout)
	}
}

func TestACommandUnderALeaseIsAskedToEndBeforeTheLeaseIs(t *testing.T) {
	s := inMemory(t)
	run := command(t, []string{"RUNNEL_URL=" + s.streams()}, "lease", "run", "jobs", "k", "--", "sh", "-c", `trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.05; done`)
	stdout, stderr := new(buffer), new(buffer)
	run.Stdout, run.Stderr = stdout, stderr
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command runs", func() bool { return stdout.String() == "ready\n" })
	if err := run.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = run.Wait()
	if code := run.ProcessState.ExitCode(); code != 5 || stdout.String() != "ready\nasked\n" {
		t.Errorf("ended with %d: %q %s", code, stdout, stderr)
	}
	if got := s.must("", "lease", "ls", "jobs"); got != "" {
		t.Errorf("the lease is not released: %s", got)
	}
}

func TestWorkersAreListedAndFollowed(t *testing.T) {
	s := inMemory(t)
	c, err := client.Dial(t.Context(), s.url, client.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	jobs := runnel.Space{Name: "jobs"}
	if _, err := c.Join(t.Context(), jobs, client.Worker{ID: "w1", Metadata: map[string]string{"zone": "a"}}); err != nil {
		t.Fatal(err)
	}
	if got := s.must("", "workers", "jobs"); !strings.HasPrefix(got, "present  w1  since ") || !strings.HasSuffix(got, "zone=a\n") {
		t.Errorf("got %q", got)
	}
	follow := command(t, nil, "workers", "--follow", "--json", "--url", s.url, "jobs")
	stdout := new(buffer)
	follow.Stdout = stdout
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the worker is told", func() bool { return strings.Contains(stdout.String(), `"event":"present","worker":"w1"`) })
	w2, err := c.Join(t.Context(), jobs, client.Worker{ID: "w2"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other joins", func() bool { return strings.Contains(stdout.String(), `"event":"joined","worker":"w2"`) })
	if err := w2.Leave(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other leaves", func() bool { return strings.Contains(stdout.String(), `"event":"left","worker":"w2"`) })
	if err := follow.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := follow.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestMistakesWithTheLogAreExplained(t *testing.T) {
	s := inMemory(t)
	s.must("", "produce", "a", "x")
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"consume missing", 1, "not found"},
		{"consume --after 5 a", 1, "beyond"},
		{"consume --after x a", 2, "after: must be a number or latest"},
		{"consume --since yesterday a", 2, "since: must be a time"},
		{"consume a b", 2, "--space"},
		{"consume --json --raw a", 2, "exclude each other"},
		{"consume --follow --last 1 a", 2, "follows"},
		{"consume --cursor c --last 1 a", 2, "--cursor"},
		{"consume http://127.0.0.1/a", 2, "takes names"},
		{"consume a//b", 2, "empty element"},
		{"consume --url http://127.0.0.1:1 a", 1, "connection refused"},
		{"consume --url nowhere a", 2, "url must be"},
		{"tail --space --from x a", 2, "from must be a position"},
		{"produce --expect maybe a", 2, "--expect must be"},
		{"produce --batch 0 a", 2, "--batch"},
		{"produce --producer p --key k a", 2, "--producer excludes"},
		{"produce --json a {}", 1, "record 1: needs one of payload"},
		{"produce --json a {", 1, "record 1: not valid JSON"},
		{"cursor get a nobody", 1, "not found"},
		{"cursor set a c 99", 1, "99"},
		{"cursor set a c many", 2, "place: must be a number"},
		{"lease acquire --ttl 1ms s k", 2, "--ttl must be between"},
		{"lease release s k 9", 1, "not held"},
		{"lease run s k", 2, "command"},
	} {
		o := runnelIn(t, []string{"RUNNEL_URL=" + s.streams()}, strings.NewReader(""), strings.Fields(c.args)...)
		if o.code != c.code || !strings.Contains(o.stderr, c.want) || o.stdout != "" {
			t.Errorf("runnel %s ended with %d and %q, want %d and %q", c.args, o.code, o.stderr, c.code, c.want)
		}
	}
}

func TestTheLogIsForWhoHasATokenAndInTheStoreThatIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	token := mustToken(t, "create", "--tokens", file, "ops", "runnel:admin@*")
	s := inMemory(t, "--tokens", file)
	env := []string{"RUNNEL_URL=" + s.streams()}
	if o := runnelIn(t, env, nil, "consume", "a"); o.code != 1 || !strings.Contains(o.stderr, "unauthorized") {
		t.Errorf("without a token: %d, %s", o.code, o.stderr)
	}
	env = append(env, "RUNNEL_TOKEN="+token)
	const store = "6a1cbd80-1c5f-4c2e-9b0a-0d6f5a3f2a11"
	if o := runnelIn(t, env, nil, "produce", "--store", store, "a", "theirs"); o.code != 0 {
		t.Fatalf("%d, %s", o.code, o.stderr)
	}
	if o := runnelIn(t, env, nil, "consume", "--store", store, "a"); o.code != 0 || o.stdout != "theirs\n" {
		t.Errorf("%d, %q, %s", o.code, o.stdout, o.stderr)
	}
	if o := runnelIn(t, env, nil, "consume", "a"); o.code != 1 || !strings.Contains(o.stderr, "not found") {
		t.Errorf("in another store: %d, %s", o.code, o.stderr)
	}
}
