#!/bin/bash
# Runs every fuzz target of the module for FUZZTIME (default 10s) each.
set -euo pipefail
cd "$(dirname "$0")/.."

found=0
while IFS=: read -r file target; do
	found=$((found + 1))
	echo "=== $target in $(dirname "$file")"
	CGO_ENABLED=0 go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-10s}" -fuzzminimizetime 10x "./$(dirname "$file")"
done < <(grep -rhoEH '^func Fuzz[A-Za-z0-9_]*' --include='*_test.go' cmd cri imageservice runtime volumes | sed 's/:func /:/')
echo "fuzz: $found targets"
