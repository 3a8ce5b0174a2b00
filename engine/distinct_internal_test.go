package engine

import "testing"

func TestWhatComesTwiceIsFound(t *testing.T) {
	var d distinct[string]
	for _, step := range []struct {
		x    string
		want bool
	}{{"", true}, {"", false}, {"a", true}, {"b", true}, {"a", false}, {"", false}, {"b", false}, {"c", true}} {
		if got := d.add(step.x); got != step.want {
			t.Errorf("%q has not been seen before: %v", step.x, got)
		}
	}
}
