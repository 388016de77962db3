#!/usr/bin/env bash
# Deploys the topologies of the lab with containerlab on Docker, waits for their health
# checks, plays their scripts, destroys them, and prints what passed. For a Debian, by
# hand, as root:
#
#   lab/containerlab.sh [TOPOLOGY...]      all, unless some are named: quickstart
#
# No image is pulled: debootstrap makes the base from the mirror that apt uses, and with
# it the images are built without a network. Go modules come as the environment says.
# Nothing is written to the repository. In the environment:
#
#   WORK     where everything is built and logged; a second run uses what is there
#   SOURCE   the repository of containerlab, or a copy of it
#   SLACK    by how much what the scripts allow is multiplied on a slow machine
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
WORK=${WORK:-/var/tmp/eidolon-containerlab}
SOURCE=${SOURCE:-https://github.com/srl-labs/containerlab}
SLACK=${SLACK:-1}
RELEASE=v0.79.0
COMMIT=5ae50094a3afd70e4e1674fe5385e64d8979da26
PATIENCE=120 # seconds for all of a topology to be healthy

[ "$(id -u)" = 0 ] || { echo "$0: not root" >&2; exit 1; }
mkdir -p "$WORK/log" "$WORK/bin"
# The builder of before BuildKit, which Debian's Docker has.
export PATH=$WORK/bin:$PATH DOCKER_BUILDKIT=0 CLAB_VERSION_CHECK=disable

# step NAME COMMAND... runs a part whose output goes to a log. What fails in the middle of
# a part does not end it by itself there, so parts say where it does.
step() {
  local name=$1 start=$SECONDS
  shift
  if "$@" >"$WORK/log/$name" 2>&1; then
    echo "$name: $((SECONDS - start)) s"
  else
    echo "$name: FAILED, the end of $WORK/log/$name is"
    tail -20 "$WORK/log/$name"
    exit 1
  fi
}

packages() {
  local missing=() pair
  for pair in dockerd:docker.io debootstrap:debootstrap git:git iptables:iptables; do
    command -v "${pair%:*}" || missing+=("${pair#*:}")
  done
  ((${#missing[@]} == 0)) && return
  apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

# docker_up starts a Docker of our own, with its files below WORK, if none runs.
docker_up() {
  docker info && return
  export DOCKER_HOST=unix://$WORK/docker.sock
  dockerd --host "$DOCKER_HOST" --data-root "$WORK/docker" --exec-root "$WORK/docker.run" --pidfile "$WORK/docker.pid" \
    --bridge none --iptables=false >"$WORK/log/dockerd" 2>&1 &
  dockerd=$!
  trap 'kill $dockerd; wait $dockerd || true' EXIT
  for ((i = 0; i < 300; i++)); do
    docker info && return
    kill -0 $dockerd || break
    sleep 0.1
  done
  tail "$WORK/log/dockerd"
  return 1
}

# base imports a Debian with a shell and iproute2, and makes that with this machine's Go
# of it, and with what an earlier run has compiled.
base() {
  local codename mirror
  codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
  if ! docker image inspect eidolon/base; then
    mirror=$(apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' | awk -v c="$codename" '$1 == c && $2 == "main" { print $3; exit }')
    rm -rf "$WORK/base"
    debootstrap --variant=minbase --include=iproute2,ca-certificates "$codename" "$WORK/base" "$mirror" || return 1
    tar -C "$WORK/base" -c . | docker import - eidolon/base || return 1
    rm -rf "$WORK/base"
  fi
  {
    printf 'FROM eidolon/base\nCOPY . /usr/local/go\nENV PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin\n'
    ! docker image inspect eidolon/build >/dev/null || echo 'COPY --from=eidolon/build /root/.cache /root/.cache'
  } >"$WORK/go.Dockerfile"
  docker build --network none -t eidolon/go -f "$WORK/go.Dockerfile" "$(go env GOROOT)"
}

# image builds that of the nodes, from what git knows or would add.
image() {
  rm -rf "$WORK/src" && mkdir "$WORK/src" || return 1
  # ls leaves out what is deleted and not committed.
  git -C "$root" ls-files -z --cached --others --exclude-standard | (cd "$root" && { xargs -0 ls -d 2>/dev/null || true; } | tar -c -T -) |
    tar -C "$WORK/src" -x || return 1
  cd "$WORK/src" && go mod vendor || return 1
  for target in lab build; do
    docker build --network none -f deploy/Dockerfile --target $target -t eidolon/$target \
      --build-arg GO_IMAGE=eidolon/go --build-arg LAB_IMAGE=eidolon/base \
      --build-arg REVISION="$(git -C "$root" rev-parse HEAD)" . || return 1
  done
  go build -o "$WORK/bin/lab" ./lab
}

# containerlab_built builds the release. It looks for ip_tables among the kernel's
# modules; where there are none, it is told that it is loaded.
containerlab_built() {
  local dir=$WORK/containerlab check=utils/kernel_module.go
  [ -x "$WORK/bin/containerlab" ] && [ "$(cat "$WORK/bin/containerlab.commit")" = "$COMMIT" ] && return
  rm -rf "$dir"
  git clone -q --depth 1 --branch "$RELEASE" "$SOURCE" "$dir" && cd "$dir" || return 1
  [ "$(git rev-parse HEAD)" = "$COMMIT" ] || { echo "$RELEASE is $(git rev-parse HEAD), not $COMMIT"; return 1; }
  if [ ! -e /proc/modules ]; then
    sed -i '/os.Open("\/proc\/modules")/a if os.IsNotExist(err) { return true, nil }' "$check"
    ! git diff --quiet "$check" || { echo "$check is not what it was"; return 1; }
    git diff
  fi
  CGO_ENABLED=0 go build -o "$WORK/bin/containerlab" . || return 1
  echo "$COMMIT" >"$WORK/bin/containerlab.commit"
}

# nodes lists the containers of a topology with what Docker says of them.
nodes() {
  local name=$1
  docker ps -aq --filter "label=containerlab=$name" | xargs -r docker inspect \
    --format '{{.Name}} {{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{else}}unchecked{{end}} privileged={{.HostConfig.Privileged}} {{.HostConfig.CapAdd}}'
}

# deployed has containerlab deploy a topology, and waits until all nodes run, without
# privileges, and those that have a health check are healthy.
deployed() {
  local name=$1 said i
  containerlab deploy --topo "lab/$name.clab.yml" || return 1
  for ((i = 0; i < PATIENCE; i++)); do
    said=$(nodes "$name")
    if [ -n "$said" ] && ! grep -qvE ' running (healthy|unchecked) privileged=false ' <<<"$said"; then
      echo "$said"
      return
    fi
    sleep 1
  done
  echo "after $PATIENCE s: $said"
  return 1
}

destroyed() {
  containerlab destroy --cleanup --topo "lab/$1.clab.yml" && [ -z "$(nodes "$1")" ]
}

failed=0
table=()

# row WHAT COMMAND... adds to the table whether the command ended well. The output is
# in WORK/log/WHAT.
row() {
  local what=$1 start=$SECONDS verdict=pass log=$WORK/log/${1// /-}
  shift
  "$@" >"$log" 2>&1 || verdict=FAIL failed=1
  table+=("$(printf '%s  %-24s %4d s' "$verdict" "$what" $((SECONDS - start)))")
  echo "${table[-1]}"
  [ $verdict = pass ] || tail -20 "$log"
}

step packages packages
step docker docker_up
step base base
step image image
step containerlab containerlab_built

cd "$WORK/src"
[ $# -gt 0 ] || set -- $(cd lab && ls ./*.clab.yml | sed 's|./||; s/.clab.yml//')
for name; do
  row "deploy $name" deployed "$name"
  row "destroy $name" destroyed "$name"
  for script in $(grep -l "^topology $name.clab.yml" lab/*.scenario); do
    row "scenario $(basename "$script" .scenario)" lab scenario --containerlab --slack "$SLACK" "$script"
  done
done

echo
echo "containerlab $RELEASE, $(docker version --format 'Docker {{.Server.Version}}'), $(uname -sr)"
printf '%s\n' "${table[@]}"
exit $failed
