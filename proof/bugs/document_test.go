package bugs

import (
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of the document anew")

// The table of the document stands between these lines.
const (
	tableBegins = "<!-- The table follows proof/bugs/table_test.go; see the package for how. -->\n"
	tableEnds   = "<!-- End of the table. -->\n"
)

func TestTheDocumentHasEveryBug(t *testing.T) {
	name := filepath.Join(root, "docs", "bugs.md")
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begins := strings.Cut(string(content), tableBegins)
	has, after, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		t.Fatalf("docs/bugs.md needs these two lines:\n%s%s", tableBegins, tableEnds)
	}
	want := "\n" + document()
	if *update {
		if err := os.WriteFile(name, []byte(before+tableBegins+want+tableEnds+after), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if has != want {
		t.Errorf("docs/bugs.md and the table differ:\n%s\ngo test ./proof/bugs -run TestTheDocumentHasEveryBug -args -update", differ(has, want))
	}
}

var anchors = strings.NewReplacer("^", "", "$", "")

// document is the table as the document shows it.
func document() string {
	var text strings.Builder
	for k := range kinds {
		fmt.Fprintf(&text, "## %s\n\n| What happened | How it was found | What sees it | On the broken code |\n|---|---|---|---|\n", k)
		for i := range bugs {
			if b := &bugs[i]; b.kind == k {
				fmt.Fprintf(&text, "| %s | %s | `%s` in `%s` | `%s` |\n", b.symptom, b.found, anchors.Replace(b.test), path.Clean(b.pkg), b.command())
			}
		}
		text.WriteString("\n")
	}
	return text.String()
}

// differ returns the lines that only one of two texts has.
func differ(has, want string) string {
	var text strings.Builder
	for sign, one := range map[string][2]string{"-": {has, want}, "+": {want, has}} {
		for line := range strings.Lines(one[0]) {
			if !strings.Contains(one[1], line) {
				text.WriteString(sign + line)
			}
		}
	}
	return text.String()
}
