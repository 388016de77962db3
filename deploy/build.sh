#!/bin/sh
# Builds what is deployed, for Linux, with nothing but Go: static programs in
# dist/ARCH, and completions for shells in dist/completions. The same sources,
# version and Go give the same files, wherever that is.
#
#   deploy/build.sh [ARCH...]      amd64 and arm64, unless some are named
#
# VERSION and REVISION in the environment are stamped into the programs; what is
# not there git says: the tag, and the commits since as v1.2.3+4.g56789ab, or
# the time of the commit where there is no tag. DIST is another place than dist,
# FLAGS are for go build, -trimpath unless others are given.
set -eu
cd "$(dirname "$0")/.."
dist=${DIST:-dist}
module=github.com/eidolon-lisp/eidolon

described() {
  git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null | sed 's/-\([0-9]*\)-g/+\1.g/; s/-dirty$/.dirty/' | grep . ||
    TZ=UTC git log -1 --date=format-local:%Y%m%d%H%M%S --format=v0.0.0+%cd.g%h --abbrev=7 2>/dev/null ||
    echo v0.0.0
}
version=${VERSION:-$(described)}
revision=${REVISION:-$(git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null || true)}

# build ARCH DIRECTORY PROGRAM...
build() {
  arch=$1 to=$2
  shift 2
  mkdir -p "$to"
  for program; do
    CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build ${FLAGS--trimpath} -buildvcs=false \
      -ldflags "-s -w -X $module/internal/version.stampedVersion=$version -X $module/internal/version.stampedRevision=$revision" \
      -o "$to/$program" "./cmd/$program"
  done
}

[ $# -gt 0 ] || set -- amd64 arm64
for arch; do
  build "$arch" "$dist/$arch" xtr mapserver lispctl
done

echo "$version" >"$dist/version"

# A program says itself what a shell needs: one that runs here.
here=$dist/$(go env GOHOSTARCH)
case " $* " in
*" $(go env GOHOSTARCH) "*) ;;
*)
  here=$(mktemp -d)
  trap 'rm -rf "$here"' EXIT
  build "$(go env GOHOSTARCH)" "$here" xtr mapserver lispctl
  ;;
esac
mkdir -p "$dist/completions"
for program in xtr mapserver lispctl; do
  for shell in bash zsh fish; do
    "$here/$program" completion "$shell" >"$dist/completions/$program.$shell"
  done
done
echo "$dist: $version for $*"
