#!/usr/bin/env bash
# Checks that the .proto files keep what who was built with them relies on: no
# number, name or type of them is another than it was, or gone. Give the commit to
# compare with, or leave it out for that from which on this holds.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
base=${1:-278804cd8b805138e6ad52c12f86a204c55b7967}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git cat-file -e "$base" || { echo "the history has no $base: fetch all of it"; exit 1; }
git -C "$root" archive "$base" api/proto | tar -x -C "$work"
go build -modfile="$root/go.tools.mod" -o "$work/" github.com/bufbuild/buf/cmd/buf
BUF_CACHE_DIR="$work/cache" "$work/buf" breaking --against "$work/api/proto"
