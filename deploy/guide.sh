#!/usr/bin/env bash
# Follows docs/guide.md from its first block to its last, as they stand: each is
# pasted into the terminal of a root shell on a machine of its own, which is a
# Debian in namespaces, and what the guide promises must come true.
#
#   deploy/build.sh && deploy/package.sh
#   deploy/guide.sh ROOT             on machines without systemd
#   deploy/guide.sh --systemd ROOT   on machines that it has booted
#
# ROOT is a root file system, which is not changed. If it is not there,
# debootstrap makes it of Debian 12, and needs a network; nothing else does. To
# be run as root, for a minute. Packages are taken from DIST, dist unless said.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${GUIDE_WORK:-}" ]; then
  variant='without systemd'
  [ "${1:-}" != --systemd ] || { variant='with systemd'; shift; }
  [ $# = 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
  [ -d "$1" ] || debootstrap --variant=minbase \
    --include=adduser,iproute2,iputils-ping,netcat-openbsd,procps,systemd-sysv bookworm "$1"
  dist=$(realpath "${DIST:-dist}")
  ls "$dist"/eidolon-xtr_*_"$(dpkg --print-architecture)".deb >/dev/null
  work=$(mktemp -d) cgroups=$(findmnt -n -o TARGET -t cgroup2 | head -n 1)/eidolon-guide-$$
  trap 'find "$cgroups" -depth -type d -exec rmdir {} + 2>/dev/null || true; rm -rf "$work"' EXIT
  mkdir "$cgroups"
  # When this ends, so does all that was started, and no mount or link is left.
  GUIDE_WORK=$work GUIDE_VARIANT=$variant GUIDE_ROOT=$(realpath "$1") GUIDE_CGROUPS=$cgroups GUIDE_DIST=$dist \
    unshare --net --mount --pid --fork --kill-child --mount-proc "$0"
  exit
fi

declare -A pid terminal
fail() {
  echo "guide: $*" >&2
  exit 1
}

# boot is the way of a machine's first process to its own root, as bash -c.
boot='
set -e
root=$1/root name=$2
shift 2
hostname "$name"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/net" "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for device in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0" "net/tun 10 200"; do
  set -- $device "$@"
  mknod -m 666 "$root/dev/$1" c "$2" "$3"
  shift 3
done
cd "$root"
pivot_root . mnt
exec chroot . /bin/sh -c "umount -l /mnt; exec \"\$@\"" sh "$@"
'

# machine NAME boots one, and opens a terminal on it.
machine() {
  local name=$1 dir=$GUIDE_WORK/$1 first=(sleep infinity)
  [ "$GUIDE_VARIANT" = 'without systemd' ] || first=(/sbin/init)
  mkdir -p "$dir"/{root,upper,work} "$GUIDE_CGROUPS/$name"
  mount -t overlay -o "lowerdir=$GUIDE_ROOT,upperdir=$dir/upper,workdir=$dir/work" overlay "$dir/root"
  cp "$GUIDE_DIST"/eidolon-*_"$(dpkg --print-architecture)".deb "$dir/root/root/"
  (
    echo 0 >"$GUIDE_CGROUPS/$name/cgroup.procs"
    exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
      unshare --net --mount --uts --ipc --cgroup --pid --fork --kill-child \
      bash -c "$boot" boot "$dir" "$name" "${first[@]}" >"$dir/console" 2>&1
  ) &
  local unshared=$!
  for ((i = 0; i < 300; i++)); do
    read -r 'pid[$name]' 2>/dev/null <"/proc/$unshared/task/$unshared/children" || true
    case $(cat "/proc/${pid[$name]:-0}/comm" 2>/dev/null) in
    sleep) break ;;
    systemd) nsenter -a -t "${pid[$name]}" systemctl is-active -q multi-user.target && break ;;
    esac
    sleep 0.1
  done
  ((i < 300)) || fail "$name does not start: $(cat "$dir/console")"
  : >"$dir/screen"
  mkfifo "$dir/keys"
  nsenter -a -t "${pid[$name]}" env -i HOME=/root TERM=dumb PS1= PS2= PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    script -q -c 'stty -echo; exec bash --norc --noediting -i' /dev/null <"$dir/keys" >"$dir/screen" 2>&1 &
  exec {fd}>"$dir/keys"
  terminal[$name]=$fd
  paste "$name" 'cd; trap "echo FAILED: \$BASH_COMMAND" ERR; ip link set lo up' >/dev/null
}

# paste NAME TEXT types it on a machine, waits until all of it was done, and
# prints what came to the screen. What is typed while a command runs may be lost
# to it, as on any terminal, so the question whether it is done is asked again.
paste() {
  local screen=$GUIDE_WORK/$1/screen from shown i
  from=$(stat -c %s "$screen")
  printf '%s\n' "$2" >&"${terminal[$1]}"
  for ((i = 0; i < 1200; i++)); do
    ((i % 50)) || echo "echo 'the end' of $from" >&"${terminal[$1]}"
    shown=$(tail -c "+$((from + 1))" "$screen" | sed 's/\r*$//; s/.*\r//')
    if grep -q "^the end of $from\$" <<<"$shown"; then
      grep -v '^the end of [0-9]*$' <<<"$shown" || true
      return
    fi
    sleep 0.1
  done
  fail "$1 is not done after 2 minutes: $shown"
}

# link MACHINE INTERFACE MACHINE INTERFACE
link() {
  ip link add "$2" netns "${pid[$1]}" type veth peer name "$4" netns "${pid[$3]}"
  paste "$1" "ip link set $2 up"
  paste "$3" "ip link set $4 up"
}

for name in ms router far host internet; do
  machine "$name"
done
link router eth0 host eth1
link router eth1 internet eth1
link router eth2 internet eth2
link ms eth1 internet eth3
link far eth1 internet eth4
paste internet 'sysctl -q net.ipv4.ip_forward=1
ip addr add 192.0.2.1/24 dev eth1
ip addr add 198.51.100.1/24 dev eth2
ip addr add 203.0.113.9/29 dev eth3
ip addr add 203.0.113.17/29 dev eth4'
paste ms 'ip addr add 203.0.113.10/29 dev eth1; ip route add default via 203.0.113.9'
paste far 'ip addr add 203.0.113.18/29 dev eth1; ip route add default via 203.0.113.17'
paste host 'ip addr add 10.1.0.10/24 dev eth1; ip route add default via 10.1.0.1'
paste router 'ip addr add 10.1.0.1/24 dev eth0
ip addr add 192.0.2.2/24 dev eth1
ip addr add 198.51.100.2/24 dev eth2
ip route add default via 192.0.2.1 dev eth1 metric 100
ip route add default via 198.51.100.1 dev eth2 metric 200'

# follow pastes a block where its first line says.
keys='' followed=0
follow() {
  local block=$1 head name said
  head=${block%%$'\n'*}
  case $head in
  '# on ms, router and far, '*) set -- ms router far ;;
  '# on '*) name=${head#'# on '} && set -- "${name%%,*}" ;;
  *) fail "no machine is named by: $head" ;;
  esac
  [[ $head != *systemd* || $head = *", $GUIDE_VARIANT" ]] || return 0
  followed=$((followed + 1))
  for name; do
    [ -n "${pid[$name]:-}" ] || fail "there is no machine $name"
    echo "== ${head#'# '}${2:+: $name}"
    # Read as said: what ms has told is pasted first.
    [[ $head != '# on router' && $head != '# on far' ]] || paste "$name" "$keys"
    said=$(paste "$name" "$block")
    echo "$said"
    [[ $said != *FAILED:* ]] || fail "a command of this block failed"
    case $block in
    *'for the other machines:'*)
      keys=$(grep -o 'MS=.* SITE_KEY=.* FAR_KEY=.*' <<<"$said") || fail "ms does not tell keys"
      ;;
    *'lispctl show database'*)
      grep -q ' registered ' <<<"$said" || fail "$name is not registered"
      ;;
    *'tail -n 2 /tmp/heard'*)
      local last
      last=$(grep -E '^[0-9:]{8}\.[0-9]+$' <<<"$said" | tail -n 1)
      (($(date +%s) - $(date -d "${last:-1970-01-01}" +%s) < 5)) || fail "far heard last at '$last', it is $(date +%T)"
      ;;
    *'ping -c 3'*)
      grep -q ' 0% packet loss' <<<"$said" || fail "far does not answer all pings"
      ;;
    esac
  done
}
block=''
while IFS= read -r line <&9; do
  case $line in
  '```sh') block=' ' ;;
  '```') [ -z "$block" ] || follow "${block# }"; block='' ;;
  *) [ -z "$block" ] || block+=$line$'\n' ;;
  esac
done 9<docs/guide.md
((followed >= 14)) || fail "only $followed blocks were found"
# The units reload, and say so when the file is not used.
if [ "$GUIDE_VARIANT" = 'with systemd' ]; then
  for unit in ms:mapserver router:xtr; do
    name=${unit%:*} unit=${unit#*:}
    said=$(paste "$name" "systemctl reload $unit && echo it was reloaded
echo 'nonsense: true' >>/etc/eidolon/$unit.yml
systemctl reload $unit || echo it was refused
echo it is \$(systemctl is-active $unit)")
    echo "== systemctl reload $unit, with a good file and with a bad one: $name"
    echo "$said"
    for line in 'it was reloaded' 'it was refused' 'it is active'; do
      grep -qx "$line" <<<"$said" || fail "after systemctl reload $unit nothing says '$line'"
    done
  done
fi
echo "== $followed blocks, $GUIDE_VARIANT: all is as docs/guide.md says"
