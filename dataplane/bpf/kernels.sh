#!/usr/bin/env bash
# Runs the tests of the data planes on other kernels, in virtual machines:
#
#   dataplane/bpf/kernels.sh DIRECTORY...
#
# Each directory is one kernel's, with boot/vmlinuz-* and lib/modules, as
# `dpkg-deb -x linux-image-....deb DIRECTORY` makes of Debian's packages and, with
# linux-modules-....deb into the same, of Ubuntu's. FLAGS are for the test programs, and
# PACKAGES are what is tested (dataplane/bpf and dataplane/tun if not given).
# With ACCEL=tcg it does without KVM, which a machine that is virtual itself may have and can't use.
# It wants qemu-system-x86_64, busybox (linked statically), depmod and cpio, and is no
# part of CI. The whole output of a kernel goes to DIRECTORY/log.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || { sed -n '2,13s/^# \?//p' "$0"; exit 2; }
packages=${PACKAGES:-dataplane/bpf dataplane/tun}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,sbin,proc,sys,dev,tmp,run,etc,src}
cp "$(command -v busybox)" "$root/bin/busybox"
cp -r --parents go.mod dataplane "$root/src"
for p in $packages; do
  CGO_ENABLED=0 go test -c -o "$root/src/$p/a.test" "./$p"
done
cat >"$root/init" <<INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
for c in modprobe insmod; do ln -s /bin/busybox /sbin/\$c; done
export PATH=/bin:/sbin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /dev/net /dev/shm
mount -t bpf bpf /sys/fs/bpf
for m in ipv6 tun veth dummy 8021q sch_ingress cls_bpf ip_gre vrf bridge; do modprobe \$m 2>/dev/null; done
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
ip link set lo up
for p in $packages; do
  cd /src/\$p && ./a.test -test.v -test.timeout 20m ${FLAGS:-} && echo "RESULT: passed \$p" || echo "RESULT: FAILED \$p"
done
poweroff -f
INIT
chmod +x "$root/init"
failed=0
for dir; do
  image=$(ls "$dir"/boot/vmlinuz-* | head -1)
  version=${image##*/vmlinuz-}
  rm -rf "$root/lib"
  mkdir -p "$root/lib/modules/$version/kernel"
  from=$dir/lib/modules/$version
  [ -d "$from" ] || from=$dir/usr/lib/modules/$version
  for part in net lib crypto arch drivers/net; do # what is left out is not asked for
    [ -d "$from/kernel/$part" ] || continue
    to=$root/lib/modules/$version/kernel/$(dirname "$part")
    mkdir -p "$to"
    cp -r "$from/kernel/$part" "$to"
  done
  rm -rf "$root/lib/modules/$version/kernel/drivers/net/"{ethernet,wireless,usb}
  find "$root/lib" -name '*.xz' -exec xz -d {} +
  find "$root/lib" -name '*.zst' -exec zstd -q -d --rm {} +
  cp "$from"/modules.{builtin,order,builtin.modinfo} "$root/lib/modules/$version/" 2>/dev/null || true
  depmod -b "$root" "$version"
  (cd "$root" && find . | cpio -o -H newc --quiet) >"$dir/initramfs"
  echo "== $version"
  accel=${ACCEL:-$([ -w /dev/kvm ] && echo kvm || echo tcg)}
  timeout "${LIMIT:-40m}" qemu-system-x86_64 -machine q35,accel="$accel" -cpu max -smp 2 -m 6G -nographic -no-reboot -nic none \
    -kernel "$image" -initrd "$dir/initramfs" -append "console=ttyS0 panic=-1 quiet" >"$dir/log" 2>&1 || true
  rm -f "$dir/initramfs"
  tr -d '\r' <"$dir/log" | grep -aE '^ *--- (FAIL|SKIP)|^RESULT|insns|^panic' || echo "nothing; see $dir/log"
  [ "$(grep -ac '^RESULT: passed' "$dir/log")" = "$(wc -w <<<"$packages")" ] || failed=1
done
exit $failed
