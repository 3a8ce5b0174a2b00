package bugs

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// root is the repository, seen from this package.
const root = "../.."

// bringBack makes copies of the files that the bug's diff is about, applies it, and returns an overlay
// for the go command, a file.
func (b *bug) bringBack(t *testing.T) (overlay string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	diff, err := filepath.Abs(b.file())
	if err != nil {
		t.Fatal(err)
	}
	top, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	replace := make(map[string]string)
	for line := range strings.Lines(b.git(t, dir, "apply", "--numstat", diff)) {
		name := filepath.FromSlash(strings.Fields(line)[2]) // after how many lines come and go
		original, broken := filepath.Join(top, name), filepath.Join(dir, name)
		copyFile(t, original, broken)
		replace[original] = broken
	}
	b.git(t, dir, "apply", "--whitespace=nowarn", diff)
	list, err := json.Marshal(struct{ Replace map[string]string }{replace})
	if err != nil {
		t.Fatal(err)
	}
	overlay = filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, list, 0o600); err != nil {
		t.Fatal(err)
	}
	return overlay
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// git runs git in a directory that is in no repository.
func (b *bug) git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	// A hook that runs the tests has variables that say which repository it is about.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GIT_") })
	cmd.Env = append(cmd.Env, "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s cannot be applied to the code of today: %v\n%s\nBreak the code again in the way of the bug, save it with\n\n\tgit diff > proof/bugs/%s\n\nand undo it.",
			b.file(), err, complaint.String(), b.file())
	}
	return out.String()
}

// patience bounds a build and a test. A test that the bug makes hang has a bound of its own.
const patience = 10 * time.Minute

// goTest runs the test that sees a bug, and returns what it prints. The overlay, if not empty, also holds
// for what the test itself builds.
func (b *bug) goTest(t *testing.T, overlay string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	args := []string{"go", "test", "-timeout=" + cmp.Or(b.hangs, 2*time.Minute).String(), "-run=" + b.test, b.pkg}
	if len(b.args) > 0 {
		args = append(append(args, "-args"), b.args...)
	}
	if nice, err := exec.LookPath("nice"); err == nil {
		args = append([]string{nice}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = root
	if overlay != "" {
		cmd.Args = slices.Insert(cmd.Args, slices.Index(cmd.Args, "test")+1, "-count=1")
		cmd.Env = append(os.Environ(), fmt.Sprintf("GOFLAGS=%s '-overlay=%s'", os.Getenv("GOFLAGS"), overlay))
	}
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// shown are the first lines of what a test said, up to the words that were looked for.
func shown(out string, says *regexp.Regexp) string {
	const lines = 12
	if end := says.FindStringIndex(out); end != nil {
		rest, _, _ := strings.Cut(out[end[1]:], "\n")
		out = out[:end[1]] + rest
	}
	all := strings.Split(out, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
