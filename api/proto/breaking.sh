#!/usr/bin/env bash
# Checks that the .proto files keep what who was built with them relies on: no
# number, name or type of them is another than it was, or gone. Give the commit to
# compare with, or leave it out for the last release before this commit, or, as long
# as there is none, for the commit from which on this holds.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
base=${1:-$(git describe --tags --abbrev=0 --match 'v[0-9]*' HEAD^ 2>/dev/null || echo 278804cd8b805138e6ad52c12f86a204c55b7967)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! git cat-file -e "$base^{commit}" 2>/dev/null; then
  echo "the history has no $base, which the .proto files are compared with"
  [ "$(git rev-parse --is-shallow-repository)" = false ] || echo "this clone is shallow: git fetch --unshallow --tags"
  exit 1
fi
echo "compared with $base"
git -C "$root" archive "$base" api/proto | tar -x -C "$work"
go build -modfile="$root/go.tools.mod" -o "$work/" github.com/bufbuild/buf/cmd/buf
BUF_CACHE_DIR="$work/cache" "$work/buf" breaking --against "$work/api/proto"
