// Package bugs keeps every bug of correctness that this project has had: for each a diff that brings it
// back into the code of today, and the test that then fails.
//
//	go test ./proof/bugs -run 'TestEachBugIsSeen/failed-sync-is-shown$' -v   one bug
//	go test ./proof/bugs -count=1 -timeout 0 -args -all                      all of them
//
// Without either, every diff is applied, and a few bugs are run. Nothing of the source tree is changed:
// a diff is applied to copies, and the go command is given those in an overlay. It needs git in the path.
//
// To add a bug, break the code again in the smallest way that shows it, save that with
//
//	git diff > proof/bugs/name-of-the-bug.diff
//
// undo it, add an entry to the table in table_test.go, and let the document follow:
//
//	go test ./proof/bugs -run TestTheDocumentHasEveryBug -args -update
//
// A diff that no longer applies is made anew in the same way.
package bugs
