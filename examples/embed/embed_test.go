package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// most is the first number of lines that is too many for a program that only embeds the log.
const most = 40

func TestTheProgramIsTheOneOfTheReadmeAndShort(t *testing.T) {
	program, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(program), "package main")
	if !strings.Contains(string(readme), "package main"+code) {
		t.Error("README.md does not show examples/embed/main.go as it is")
	}
	if n := strings.Count(string(program), "\n"); n >= most {
		t.Errorf("it has %d lines", n)
	}
}

func TestTheProgramHasNoneOfTheServersFaces(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	const module = "github.com/runnelhq/runnel"
	allowed := []string{"", "/engine", "/examples/embed", "/items/ops", "/record", "/storage", "/storage/pebblestore", "/state"}
	for dep := range strings.FieldsSeq(string(out)) {
		if ours, ok := strings.CutPrefix(dep, module); ok && !slices.Contains(allowed, ours) {
			t.Errorf("it contains %s", dep)
		}
		for _, face := range []string{"github.com/coder/websocket", "github.com/xtaci/smux", "google.golang.org/grpc"} {
			if dep == face {
				t.Errorf("it contains %s", dep)
			}
		}
	}
}

func TestTheProgramAppendsAndFollows(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "embed")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for run := 1; run <= 2; run++ {
		cmd := exec.CommandContext(t.Context(), binary)
		cmd.Dir = dir
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stdout)
		want := []string{fmt.Sprint("on disk at ", run)}
		for i := 1; i <= run; i++ {
			want = append(want, fmt.Sprint(i, " placed"))
		}
		for _, line := range want {
			if !lines.Scan() || lines.Text() != line {
				t.Fatalf("run %d printed %q, not %q", run, lines.Text(), line)
			}
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("run %d: %v", run, err)
		}
	}
}
