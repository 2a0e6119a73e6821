#!/usr/bin/env bash
# Runs a static program as root in a small virtual machine whose only cgroup
# hierarchy is v2, with every controller: what a host of v1 cannot show.
#
#   scripts/cgroup2-vm.sh PROGRAM [ARGUMENT...]
#
# Prints the machine's console and ends with PROGRAM's own status; 124 after
# TIMEOUT seconds (300), 125 when the machine died first. The kernel is Debian's
# for clouds, kept in $XDG_CACHE_HOME/hive and never installed; qemu, busybox and
# cpio are installed by apt. Where these cannot be had it says so and ends with 0.
# The processor is emulated, so that this works everywhere: plain code runs at
# about the host's speed, starting a process takes some six times as long.
set -euo pipefail
TIMEOUT=${TIMEOUT:-300}

skip() { echo "skipped: no virtual machine for cgroup v2: $*"; exit 0; }
[ $# -gt 0 ] && [ -x "$1" ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
[ "$(uname -m)" = x86_64 ] || skip "it is made for x86-64"

# What is missing is installed, which takes apt and root.
apt=(timeout 300 apt-get -qq -o APT::Sandbox::User=root)
missing=()
command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
command -v cpio >/dev/null || missing+=(cpio)
busybox --list 2>/dev/null | grep -qx poweroff || missing+=(busybox-static)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hive
kernel=$cache/cgroup2-vm.vmlinuz
if [ ${#missing[@]} -gt 0 ] || [ ! -s "$kernel" ]; then
	command -v apt-get >/dev/null || skip "needs apt-get for ${missing[*]} and a kernel"
	"${apt[@]}" update >&2 || skip "apt-get update was refused"
fi
if [ ${#missing[@]} -gt 0 ]; then
	[ "$(id -u)" = 0 ] || skip "needs root to install ${missing[*]}"
	DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >&2 ||
		skip "${missing[*]} cannot be installed"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ ! -s "$kernel" ]; then
	name=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image/ {print $2; exit}')
	[ -n "$name" ] || skip "apt knows no linux-image-cloud-amd64"
	(cd "$work" && "${apt[@]}" download "$name" && dpkg-deb -x ./*.deb kernel) >&2 || skip "$name cannot be had"
	mkdir -p "$cache"
	mv "$work"/kernel/boot/vmlinuz-* "$kernel"
fi

# The machine's file system: busybox, the program, and an init that runs it and
# tells its status on the second serial port.
mkdir -p "$work"/root/{bin,dev,proc,sys,tmp}
cp -L "$(command -v busybox)" "$work/root/bin/busybox"
cp -L "$1" "$work/root/program"
shift
cat >"$work/root/init" <<INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
/program ${*@Q}
echo \$? >/dev/ttyS1
poweroff -f
INIT
chmod +x "$work/root/init"
(cd "$work/root" && find . | cpio --quiet -o -H newc | gzip -1) >"$work/initrd"

: >"$work/status"
timeout --foreground "$TIMEOUT" qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 1024 \
	-nodefaults -no-user-config -display none -no-reboot \
	-serial stdio -serial "file:$work/status" -kernel "$kernel" -initrd "$work/initrd" \
	-append "console=ttyS0 quiet loglevel=3 panic=-1 cgroup_no_v1=all" </dev/null 2>"$work/qemu" | tr -d '\r' ||
	[ "${PIPESTATUS[0]}" != 124 ] || { echo "the time limit of $TIMEOUT s has passed" >&2; exit 124; }
status=$(tr -dc 0-9 <"$work/status")
[ -n "$status" ] || { grep -v 'support requested feature' "$work/qemu" >&2; echo "the virtual machine died" >&2; exit 125; }
exit "$status"
