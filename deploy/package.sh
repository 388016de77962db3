#!/bin/sh
# Makes Debian packages of what deploy/build.sh has built: eidolon-xtr,
# eidolon-mapserver and eidolon-lispctl, in dist beside it.
#
#   deploy/build.sh && deploy/package.sh [ARCH...]     amd64 and arm64, unless some are named
#
# nfpm is pinned in go.tools.mod; PACKAGER names another kind of package that it
# knows, and PACKAGES fewer of them. The same files, at the same commit, give the
# same packages.
set -eu
cd "$(dirname "$0")/.."
export DIST="${DIST:-dist}"
VERSION=$(cat "$DIST/version")
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export VERSION SOURCE_DATE_EPOCH

# The pages name what is beside them in a package; what is in none loses its link.
rm -rf "$DIST/doc"
mkdir -p "$DIST/doc"
for page in docs/*.md; do
  sed -E 's#\[([^]]*)\]\(examples/[^)]*\)#\1#g
    s#\]\(\.\./deploy/(examples|grafana|prometheus)#](\1#g
    s#\]\(\.\./deploy/(systemd/([a-z-]*\.conf)|([a-z]*\.schema\.json))\)#](examples/\2\3)#g
    s#\[([^]]*)\]\(\.\./[^)]*\)#\1#g' "$page" >"$DIST/doc/${page##*/}"
done

[ $# -gt 0 ] || set -- amd64 arm64
for ARCH; do
  export ARCH
  for package in ${PACKAGES:-xtr mapserver lispctl}; do
    rm -f "$DIST/eidolon-${package}_"*"_$ARCH.deb" # of other versions
    go tool -modfile=go.tools.mod nfpm package --config "deploy/nfpm/$package.yaml" --packager "${PACKAGER:-deb}" --target "$DIST"
  done
done
