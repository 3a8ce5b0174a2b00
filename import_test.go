package runnel_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// whatImportsDo is a program that imports packages, and says what it has without having asked for it.
const whatImportsDo = `package main

import (
	"expvar"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"runtime"
	"syscall"

%s)

func main() {
	for fd := 3; fd < 100; fd++ {
		if to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%%d", fd)); err == nil {
			fmt.Println("open:", to)
		}
	}
	if n := runtime.NumGoroutine(); n > 1 {
		stacks := make([]byte, 1<<20)
		fmt.Printf("goroutines: %%d\n%%s\n", n, stacks[:runtime.Stack(stacks, true)])
	}
	flag.VisitAll(func(f *flag.Flag) { fmt.Println("flag:", f.Name) })
	expvar.Do(func(v expvar.KeyValue) {
		if v.Key != "cmdline" && v.Key != "memstats" { // which expvar has by itself
			fmt.Println("variable:", v.Key)
		}
	})
	for _, path := range []string{"/", "/v1/stream/a", "/v1/session", "/v1/items/a", "/metrics", "/healthz"} {
		r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: path}}
		if _, pattern := http.DefaultServeMux.Handler(r); pattern != "" {
			fmt.Println("served:", pattern)
		}
	}
	if h := fmt.Sprintf("%%T", slog.Default().Handler()); h != "*slog.defaultHandler" {
		fmt.Println("logger:", h)
	}
	if signal.Ignored(syscall.SIGPIPE) || signal.Ignored(syscall.SIGTERM) {
		fmt.Println("a signal is ignored")
	}
}
`

func TestImportingAPackageStartsNothingAndCallsNobody(t *testing.T) {
	// Packages that help tests may have what tests have, such as flags.
	const listed = `{{if and (ne .Name "main") .GoFiles}}{{.ImportPath}} {{.Imports}}{{end}}`
	list, err := exec.CommandContext(t.Context(), "go", "list", "-f", listed, "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var imports strings.Builder
	for line := range strings.Lines(string(list)) {
		path, its, _ := strings.Cut(strings.TrimSpace(line), " ")
		if path != "" && !slices.Contains(strings.Fields(strings.Trim(its, "[]")), "testing") && !strings.Contains(path, "/internal/") {
			fmt.Fprintf(&imports, "\t_ %q\n", path)
		}
	}
	if n := strings.Count(imports.String(), "\n"); n < 10 {
		t.Fatalf("these are not all packages:\n%s", imports.String())
	}
	// Protocol Buffers look at the file of the program when they are imported.
	with, without := whatIsThere(t, imports.String()), whatIsThere(t, "\t_ \"google.golang.org/protobuf/proto\"\n")
	if with != without {
		t.Errorf("a program that imports all packages has\n%s\nand one that imports none has\n%s", with, without)
	}
}

// whatIsThere builds the program with imports, and runs it where there are no files.
func whatIsThere(t *testing.T, imports string) string {
	t.Helper()
	dir := t.TempDir()
	source, program, home := filepath.Join(dir, "main.go"), filepath.Join(dir, "program"), filepath.Join(dir, "home")
	if err := os.WriteFile(source, fmt.Appendf(nil, whatImportsDo, imports), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	run := exec.CommandContext(t.Context(), program)
	run.Dir, run.Env = home, []string{"HOME=" + home, "TMPDIR=" + home}
	out, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	made, err := os.ReadDir(home)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range made {
		out = fmt.Appendln(out, "made:", file.Name())
	}
	return string(out)
}
