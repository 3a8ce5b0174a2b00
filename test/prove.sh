#!/usr/bin/env bash
# Runs every proof: SEEDS crash simulations, and then the others for about TIME together, one after the
# other. It stops at the first failure, which has said how to repeat it.
#
#   test/prove.sh TIME SEEDS SEED      for example: test/prove.sh 1h 2000 1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds() { # of a duration such as 90s, 20m or 1h30m
  local rest=$1 total=0
  while [[ $rest =~ ^([0-9]+)([hms])(.*)$ ]]; do
    case ${BASH_REMATCH[2]} in
      h) total=$((total + BASH_REMATCH[1] * 3600)) ;;
      m) total=$((total + BASH_REMATCH[1] * 60)) ;;
      s) total=$((total + BASH_REMATCH[1])) ;;
    esac
    rest=${BASH_REMATCH[3]}
  done
  if [[ -n $rest || $total -eq 0 ]]; then
    echo "prove: $1 is not a duration such as 90s, 20m or 1h30m" >&2
    exit 2
  fi
  echo "$total"
}

time=$(seconds "$1") seeds=$2 seed=$3
part() { echo $((time * $1 / 100 + 1)); } # so many hundredths of the time, in seconds
begin() { printf '\n== %s (%s)\n' "$1" "$(date +%H:%M:%S)"; }

begin "crash simulation: $seeds seeds from $seed, and fewer with items, subscriptions and senders"
go test ./proof/crash -run '^(TestSeeds|TestItems|TestSubscriptions|TestSenders)$' -count=1 -v -timeout 0 -args -seeds "$seeds" -seed "$seed"

begin "linearizability: $(part 25)s"
go test ./proof/linear -run TestHistories -count=1 -v -timeout 0 -args -for "$(part 25)s" -seed "$seed"

begin "order of delivery: $(part 25)s"
go test ./proof/delivery -run TestEveryReader -count=1 -v -timeout 0 -args -for "$(part 25)s" -seed "$seed"

begin "a bad connection under the Go SDK"
go test ./proof/wire -count=1 -v -timeout 0 -args -full -seed "$seed"

begin "the engine and its model, on every driver: $(part 15)s"
until=$((SECONDS + $(part 15))) checks=0
while [[ $SECONDS -lt $until || $checks -eq 0 ]]; do
  go test ./engine -run TestEveryDriverAndConfiguration -count=1 -timeout 0 -rapid.checks=200
  checks=$((checks + 200))
done
echo "$checks histories"

begin "the server, killed, frozen and without space: $(part 25)s"
go test ./proof/chaos -count=1 -v -timeout 0 -args -for "$(part 25)s"

begin "parsers: $(part 10)s"
targets=$(grep -rhoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | wc -l)
test/fuzz.sh "$(($(part 10) / targets + 1))s"

begin "all of it held"
