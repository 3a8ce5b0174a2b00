package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestALargeFileComesBackThroughPipesAsItWasSent(t *testing.T) {
	s := serve(t, nil, "--addr", "127.0.0.1:0", "--data", t.TempDir())
	const size = 110_000_000
	sent, received := sha256.New(), sha256.New()
	in := command(t, nil, "append", "--close", s.streams()+"/large/file")
	in.Stdin = io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), sent)
	var complaint bytes.Buffer
	in.Stderr = &complaint
	if err := in.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &complaint)
	}
	out := command(t, nil, "read", s.streams()+"/large/file")
	out.Stdout, out.Stderr = received, &complaint
	if err := out.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &complaint)
	}
	if !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
		t.Error("the checksums differ")
	}
	if complaint.Len() > 0 {
		t.Errorf("without a terminal there should be no progress: %s", &complaint)
	}
}

func TestAnAppendGoesOnAfterTheServerWasKilled(t *testing.T) {
	data := t.TempDir()
	s := serve(t, nil, "--addr", "127.0.0.1:0", "--data", data)
	addr := strings.TrimPrefix(s.url, "http://")
	url := s.streams() + "/a"
	s.must("", "create", "--content-type", "application/json", "a")

	in := command(t, nil, "append", "--json", "--batch", "1KiB", url)
	stdin, err := in.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := new(buffer)
	in.Stderr = stderr
	if err := in.Start(); err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	write := func(from, to int) {
		for i := from; i < to; i++ {
			fmt.Fprintf(&want, "{\"n\":%d}\n", i)
			if _, err := fmt.Fprintf(stdin, "{\"n\":%d}\n", i); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(0, 5000)
	eventually(t, "something is appended", func() bool { return s.must("", "read", url) != "[]" })
	s.kill()
	write(5000, 5100)
	eventually(t, "the command tries again", func() bool { return strings.Contains(stderr.String(), "trying again") })
	s = serve(t, nil, "--addr", addr, "--data", data)
	write(5100, 10_000)
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := in.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	if got := s.must("", "read", "--json", url); got != want.String() {
		t.Errorf("got %d bytes, want %d", len(got), want.Len())
	}
}

func TestATailGoesOnAfterTheServerWasRestarted(t *testing.T) {
	data := t.TempDir()
	s := serve(t, nil, "--addr", "127.0.0.1:0", "--data", data)
	addr := strings.TrimPrefix(s.url, "http://")
	for _, how := range [][]string{{"--from", "-1"}, {"--from", "-1", "--long-poll"}} {
		url := s.streams() + "/a" + fmt.Sprint(len(how))
		s.must("one ", "append", url)
		tail := command(t, nil, append([]string{"tail", url}, how...)...)
		out := new(buffer)
		tail.Stdout = out
		if err := tail.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the tail has what was there", func() bool { return out.String() == "one " })
		s.must("two ", "append", url)
		eventually(t, "the tail has what came", func() bool { return out.String() == "one two " })
		s.kill()
		s = serve(t, nil, "--addr", addr, "--data", data)
		s.must("three", "append", "--close", url)
		if err := tail.Wait(); err != nil {
			t.Errorf("the tail of a closed stream ended with %v", err)
		}
		if out.String() != "one two three" {
			t.Errorf("got %q", out)
		}
	}
}

func TestATailEndsQuietlyWhenItIsInterrupted(t *testing.T) {
	s := inMemory(t)
	s.must("", "create", "--content-type", "application/json", "a")
	tail := command(t, nil, "tail", "--json", s.streams()+"/a")
	stdout, stderr := new(buffer), new(buffer)
	tail.Stdout, tail.Stderr = stdout, stderr
	if err := tail.Start(); err != nil {
		t.Fatal(err)
	}
	n := 0
	eventually(t, "the tail follows", func() bool {
		n++
		s.must("", "append", "a", fmt.Sprintf("{\"n\":\n%d}", n))
		return stdout.String() != ""
	})
	if line, _, _ := strings.Cut(stdout.String(), "\n"); !strings.HasPrefix(line, `{"n":`) || !strings.HasSuffix(line, "}") {
		t.Errorf("got %q", stdout)
	}
	if err := tail.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := tail.Wait(); err != nil || stderr.String() != "" {
		t.Errorf("ended with %v: %s", err, stderr)
	}
}

func TestTheSameInputFromTheSameProducerIsThereOnce(t *testing.T) {
	s := inMemory(t)
	input := strings.Repeat("0123456789", 1000)
	for range 3 {
		s.must(input, "append", "--producer", "import", "--batch", "1KB", "a")
	}
	if got := s.must("", "read", "a"); got != input {
		t.Errorf("got %d bytes, want %d", len(got), len(input))
	}
	o := runnelIn(t, nil, strings.NewReader(input), "append", "--producer", "import", "--batch", "1KB", s.streams()+"/a")
	if o.code != 0 || o.stderr != "runnel: 10 of 10 batches were there already, from producer \"import\"\n" {
		t.Errorf("ended with %d: %s", o.code, o.stderr)
	}
	s.must("more", "append", "--producer", "import", "--epoch", "1", "a")
	if got := s.must("", "read", "a"); got != input+"more" {
		t.Errorf("after a new epoch: %d bytes", len(got))
	}
}

func TestLinesOfJSONAreMessages(t *testing.T) {
	s := inMemory(t)
	lines := "{\"a\": 1}\n\n[1,2]\n  \"x\"  \r\n3"
	s.must(lines, "append", "--json", "m")
	if got := s.must("", "read", "--json", "m"); got != "{\"a\": 1}\n[1,2]\n\"x\"\n3\n" {
		t.Errorf("got %q", got)
	}
	if got := s.must("", "read", "m"); got != `[{"a": 1},[1,2],"x",3]` {
		t.Errorf("got %q", got)
	}
	o := runnelIn(t, nil, strings.NewReader("4\n{\"half\":\n5\n"), "append", s.streams()+"/m")
	if o.code != 1 || !strings.Contains(o.stderr, "line 2") || !strings.Contains(o.stderr, "not valid JSON") {
		t.Errorf("ended with %d: %s", o.code, o.stderr)
	}
	if got := s.must("", "read", "--json", "m"); !strings.HasSuffix(got, "3\n4\n") {
		t.Errorf("what came before the mistake: %q", got)
	}
}

func TestArgumentsAreAppendedAsTheyAre(t *testing.T) {
	s := inMemory(t)
	s.must("", "append", "a", "hello, ", "world")
	if got := s.must("", "read", "a"); got != "hello, world" {
		t.Errorf("got %q", got)
	}
	offset := strings.TrimSpace(s.must("!", "append", "--print-offset", "a"))
	s.must("", "append", "a", "later")
	if got := s.must("", "read", "--offset", offset, "a"); got != "later" {
		t.Errorf("behind %s: %q", offset, got)
	}
}

func TestAStreamIsCreatedDescribedForkedListedClosedAndDeleted(t *testing.T) {
	s := inMemory(t)
	s.must("", "create", "--content-type", "text/plain", "--ttl", "1h", "--retain-entries", "100", "--retain-bytes", "1MiB", "dir/a")
	s.must("", "append", "dir/a", "one")
	stat := s.must("", "stat", "dir/a")
	for _, want := range []string{"dir/a\n", "text/plain", "1h0m0s", "1048576 bytes, 100 entries", "closed        false"} {
		if !strings.Contains(stat, want) {
			t.Errorf("stat does not say %q:\n%s", want, stat)
		}
	}
	var d description
	if err := json.Unmarshal([]byte(s.must("", "stat", "--json", "dir/a")), &d); err != nil {
		t.Fatal(err)
	}
	if d.TTLSeconds != 3600 || d.RetentionEntries != 100 || d.ContentType != "text/plain" || d.Closed {
		t.Errorf("got %+v", d)
	}
	s.must("", "append", "dir/a", "two")
	s.must("", "fork", "dir/a", "dir/b", "--at", string(d.Offset), "--sub", "1")
	if got := s.must("", "read", "dir/b"); got != "onet" {
		t.Errorf("the fork holds %q", got)
	}
	s.must("", "close", "dir/b")
	if got := s.must("", "ls", "dir/"); strings.Count(got, "\n") != 3 || !strings.Contains(got, "dir/a") || !strings.Contains(got, "closed") {
		t.Errorf("ls: %s", got)
	}
	var listed listedLine
	if err := json.Unmarshal([]byte(s.must("", "ls", "--json", "dir/b")), &listed); err != nil || listed.Stream != "dir/b" || !listed.Closed {
		t.Errorf("ls --json: %+v %v", listed, err)
	}
	s.must("", "rm", "dir/b", "dir/a")
	s.must("", "rm", "-f", "dir/b")
	if got := s.must("", "ls", "dir/"); got != "" {
		t.Errorf("ls after rm: %s", got)
	}
}

func TestFailuresSayWhatTheServerSaid(t *testing.T) {
	s := inMemory(t)
	s.must("", "create", "closed")
	s.must("", "close", "closed")
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := gone.Addr().String()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"read missing", 1, "404 not_found: there is no such stream"},
		{"tail missing", 1, "404"},
		{"append --no-create missing x", 1, "404"},
		{"append closed x", 1, "409 closed: the stream is closed at offset"},
		{"create --content-type text/html closed", 1, "409 exists"},
		{"read --offset nonsense closed", 1, "400 invalid_offset"},
		{"read --json closed", 1, "--json is for application/json"},
		{"rm missing", 1, "404"},
		{"ls --url http://" + nobody, 1, "connection refused"},
		{"ls --url nowhere", 2, "url must be an http or https URL"},
		{"read", 2, "<stream>"},
		{"read --flag x", 2, "unknown flag --flag"},
		{"append --batch 0 x", 2, "--batch must be between"},
		{"append --epoch 1 x", 2, "--epoch needs --producer"},
		{"create --ttl 1h --expires 2030-01-01T00:00:00Z x", 2, "exclude each other"},
		{"read http://" + nobody + "/a?offset=now", 2, "--offset"},
		{"tail http://" + nobody + "/a?offset=now", 2, "--from"},
		{"append http://" + nobody + "/a?x y", 2, "must not have a query"},
		{"create https://" + nobody + "/a?", 2, "must not have a query"},
		{"close http://" + nobody + "/a?x", 2, "must not have a query"},
		{"stat http://" + nobody + "/a?x", 2, "must not have a query"},
		{"rm -f b http://" + nobody + "/a?x", 2, "must not have a query"},
		{"fork a http://" + nobody + "/a?x", 2, "must not have a query"},
		{"fork http://" + nobody + "/a?x b", 2, "must not have a query"},
		{"ls --url http://" + nobody + "/?x", 2, "url must not have a query"},
		{"read what?", 1, "404"},
		{"dance", 2, "unexpected argument dance"},
	} {
		o := runnelIn(t, []string{"STREAM_URL=" + s.streams()}, strings.NewReader(""), strings.Fields(c.args)...)
		if o.code != c.code || !strings.Contains(o.stderr, c.want) || o.stdout != "" {
			t.Errorf("runnel %s ended with %d and %q, want %d and %q", c.args, o.code, o.stderr, c.code, c.want)
		}
	}
}

func TestForceDoesNotMindWhatIsGone(t *testing.T) {
	s := inMemory(t)
	s.must("", "create", "a")
	s.must("", "fork", "a", "b")
	s.must("", "rm", "a")
	if o := runnelIn(t, []string{"STREAM_URL=" + s.streams()}, strings.NewReader(""), "rm", "a"); o.code != 1 || !strings.Contains(o.stderr, "410") {
		t.Errorf("without -f: %d, %q", o.code, o.stderr)
	}
	s.must("", "rm", "-f", "a", "missing", "b")
}

func TestAReaderThatGoesAwayEndsACommandQuietly(t *testing.T) {
	s := inMemory(t)
	s.must(strings.Repeat("x", 1<<20), "append", "a")
	cmd := command(t, nil, "read", s.streams()+"/a")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := new(buffer)
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := stdout.Close(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if stderr.String() != "" || !ok || !(status.Signaled() && status.Signal() == syscall.SIGPIPE || status.ExitStatus() == 1) {
		t.Errorf("ended with %v: %s", cmd.ProcessState, stderr)
	}
}

func TestAnAppendEndsWhenTheStreamIsClosedWhileTheInputWaits(t *testing.T) {
	s := inMemory(t)
	s.must("", "create", "a")
	cmd := command(t, nil, "append", s.streams()+"/a")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stderr := new(buffer)
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stdin, "first"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first data is there", func() bool { return s.must("", "read", "a") == "first" })
	s.must("", "close", "a")
	if _, err := io.WriteString(stdin, "second"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "closed: the stream is closed") {
		t.Errorf("ended with %v: %s", err, stderr)
	}
}

func TestTheVersionIsPrinted(t *testing.T) {
	o := runnelIn(t, nil, nil, "version")
	if o.code != 0 || !strings.HasPrefix(o.stdout, "runnel ") || !strings.Contains(o.stdout, " go1.") {
		t.Errorf("ended with %d: %q %q", o.code, o.stdout, o.stderr)
	}
}

func TestHelpIsNoFailure(t *testing.T) {
	for _, args := range [][]string{{}, {"--help"}, {"serve", "--help"}, {"append", "--help"}} {
		if o := runnelIn(t, nil, nil, args...); o.code != 0 || !strings.Contains(o.stdout, "Usage: runnel") || o.stderr != "" {
			t.Errorf("%q ended with %d: %q %q", args, o.code, o.stdout, o.stderr)
		}
	}
}

func TestLinesMayBeOfAnyLength(t *testing.T) {
	long := strings.Repeat("x", 1_000_000)
	for _, in := range []string{"a\n" + long + "\nb", "a\r\n\r\n" + long + "\r\n" + "b\n"} {
		var got []string
		err := eachLine(strings.NewReader(in), func(_ int, line []byte) error {
			got = append(got, string(line))
			return nil
		})
		if err != nil || len(got) != 3 || got[0] != "a" || got[1] != long || got[2] != "b" {
			t.Errorf("got %d lines, %v", len(got), err)
		}
	}
}
