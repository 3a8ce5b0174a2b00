#!/usr/bin/env bash
# Runs every fuzz target of the module whose name matches a regular expression, one after the other.
#
#   test/fuzz.sh TIME [NAME]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
time=$1 name=${2:-.}

output=$(mktemp)
trap 'rm -f "$output"' EXIT

# go test sometimes reports that its own time ran out as a failure of the target, without a failing input
# (golang.org/issue/75804, repaired in Go 1.27). Only that is tried again.
fuzz() {
  for _ in 1 2 3; do
    if go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" "$1" </dev/null 2>&1 | tee "$output"; then
      return 0
    fi
    if ! grep -q '^ *context deadline exceeded$' "$output" || grep -q 'Failing input' "$output"; then
      return 1
    fi
  done
  return 1
}

packages=$(go list -f '{{$p := .ImportPath}}{{$d := .Dir}}{{range .TestGoFiles}}{{$p}} {{$d}}/{{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$p}} {{$d}}/{{.}}{{"\n"}}{{end}}' ./...)
while read -r package file; do
  [ -n "$file" ] || continue
  for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file" | grep -E -- "$name" || true); do
    echo "-- $package $target"
    fuzz "$package" "$target"
  done
done <<<"$packages"
