package bugs

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var (
	all     = flag.Bool("all", false, "bring every bug back, not only a few quick ones")
	control = flag.Bool("control", true, "also check that each test passes without its bug")
)

// TestEachBugIsSeen brings bugs back, one at a time, and looks for the words in which its test complains.
// All diffs are applied; which of them are run is for the flags and for -run to say.
func TestEachBugIsSeen(t *testing.T) {
	named := strings.Contains(flag.Lookup("test.run").Value.String(), "/")
	slots := make(chan struct{}, 2)
	for i := range bugs {
		b := &bugs[i]
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			slots <- struct{}{}
			defer func() { <-slots }()
			overlay := b.bringBack(t)
			if !*all && !named && (!b.quick || testing.Short()) {
				t.Skip("the diff applies; whether a test sees the bug is looked at with -all, or by its name")
			}
			out, err := b.goTest(t, overlay)
			switch {
			case err == nil:
				t.Fatalf("%s passes on the broken code:\n%s", b.test, out)
			case !b.says.MatchString(out):
				t.Fatalf("%s fails on the broken code, but does not say %q:\n%s", b.test, b.says, out)
			}
			t.Logf("%s\n\nsays\n\n%s", b, shown(out, b.says))
			if *control {
				if out, err := b.goTest(t, ""); err != nil || strings.Contains(out, "no tests to run") {
					t.Errorf("%s does not pass on the code as it is: %v\n%s", b.test, err, out)
				}
			}
		})
	}
}

func TestEveryDiffIsInTheTable(t *testing.T) {
	files, err := filepath.Glob("*.diff")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !slices.ContainsFunc(bugs, func(b bug) bool { return b.file() == file }) {
			t.Errorf("%s has no entry in the table", file)
		}
	}
	for i := range bugs {
		b := &bugs[i]
		if _, err := os.Stat(b.file()); err != nil {
			t.Errorf("%s has no diff: %v", b.name, err)
		}
		if slices.ContainsFunc(bugs[:i], func(other bug) bool { return other.name == b.name }) {
			t.Errorf("%s is there twice", b.name)
		}
	}
}
