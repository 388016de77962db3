#!/usr/bin/env bash
# Compiles the programs and generates their Go. It wants clang and llvm-strip; what is generated
# is committed, and nothing else needs it. Only the same major version of clang
# gives the same octets: object.clang says which one made what is there.
set -euo pipefail
cd "$(dirname "$0")"
major() { "${CLANG:-clang}" --version | sed -n 's/.*clang version \([0-9]*\).*/\1/p'; }
if [ "${1:-}" = -check ] && [ "$(major)" != "$(cat object.clang)" ]; then
  echo "clang $(major) is here, and the objects were made by clang $(cat object.clang): compiled, not compared"
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
  "${CLANG:-clang}" -O2 -g -Wall -Wextra -Werror -target bpf -mcpu=v3 -c lisp.c -o "$out/lisp.o"
  exit
fi
rm -f lisp_bpfe*
GOPACKAGE=bpf go tool bpf2go -cc "${CLANG:-clang}" -cflags "-O2 -g -Wall -Wextra -Werror -mcpu=v3 -fdebug-prefix-map=$PWD=." \
  -target bpfel,bpfeb -type config -type trace -type local -type entry -type rloc -type slots -type sources -type usage -type address \
  -type eid4 -type eid6 -type local4 -type local6 -type member -type touch -type stats lisp lisp.c
major >object.clang
