#!/usr/bin/env bash
# Runs every fuzz target of the module whose name matches a regular expression, one after the other.
#
#   test/fuzz.sh TIME [NAME]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
time=$1 name=${2:-.}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cache=$(go env GOCACHE)/fuzz

# go test sometimes reports that its own time ran out as a failure of the target, without a failing input
# (golang.org/issue/75804, repaired in Go 1.27). Only that is tried again. A package is built once for all of its
# targets.
fuzz() {
  for _ in 1 2 3; do
    if (cd "$2" && "$work/fuzz.test" -test.run '^$' -test.fuzz "^$3\$" -test.fuzztime "$time" -test.fuzzcachedir "$cache/$1" </dev/null 2>&1) |
      tee "$work/output"; then
      return 0
    fi
    if ! grep -q '^ *context deadline exceeded$' "$work/output" || grep -q 'Failing input' "$work/output"; then
      return 1
    fi
  done
  return 1
}

while read -r package dir files; do
  built=
  for target in $(cd "$dir" && sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $files | grep -E -- "$name" || true); do
    [ -n "$built" ] || go test -c -fuzz . -o "$work/fuzz.test" "$package"
    built=yes
    echo "-- $package $target"
    fuzz "$package" "$dir" "$target"
  done
done < <(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}} {{join .TestGoFiles " "}} {{join .XTestGoFiles " "}}{{end}}' ./...)
