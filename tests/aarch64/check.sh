#!/bin/bash
# Check SwapNet on an emulated aarch64: `make test-aarch64`, or tests/aarch64/check.sh.
#
# Does: makes a Debian 12 for arm64 in WORK, installs this commit and its dependencies in it, and runs
# inside, under qemu-user: WINDOWS on a Raspberry Pi 4's and 5's processor; `swapnet doctor`; models of
# the zoo, swapped against ONNX Runtime on the same file (equality.py); the quick tests of TESTS. Prints
# differences and counts. The exit status is 1 if a test fails or a difference is too large.
# Needs: root, a Debian 12 on x86-64 (13 is not tried), about 1 GB of disk, the network for Debian's
# and Python's packages. Installs qemu-user-static, binfmt-support and debootstrap on this machine.
# Takes: 4 minutes for the Debian, once. Quick tests of swapnet, executor, builder, calibration and cli
# took about 35 minutes on 2 cores. Where five other jobs used both cores, the three models took 25
# minutes, and tests/swapnet with a quarter of tests/executor 14.
# Shows nothing of speed, of a device's storage and kernel, or of a GPU.
#
# Only what is committed is checked. Variables, with their defaults:
#   WORK=/tmp/swapnet-aarch64      where everything lies; remove it to start again
#   CPU=cortex-a76                 a Raspberry Pi 5; cortex-a72: a Pi 4; neoverse-n1: about a Jetson
#                                  Orin; max: everything that QEMU has
#   ORT='onnxruntime>=1.23'        onnxruntime==1.23.2 is what Python 3.10 of JetPack 6 gets
#   EXTRAS=models,plot             of pyproject.toml
#   WINDOWS='packing packing-bits'  hand-made models of weights that kernels pack, among them products
#                                  of few bits, on a Cortex-A72 and a Cortex-A76; empty: none
#   MODELS='mobilenet_v2 ppocrv4_rec minilm'   empty: none
#   TESTS='tests/swapnet tests/executor'       empty: none
#   JOBS=$(nproc)                  tests at once
#   PYTHON=.venv/bin/python        of this machine, with SwapNet's dependencies and pip
set -euo pipefail
HERE=$(dirname "$(realpath "$0")")
cd "$HERE/../.."
WORK=${WORK:-/tmp/swapnet-aarch64} CPU=${CPU:-cortex-a76} ORT=${ORT:-onnxruntime>=1.23}
WINDOWS=${WINDOWS-packing packing-bits} EXTRAS=${EXTRAS-models,plot}
MODELS=${MODELS-mobilenet_v2 ppocrv4_rec minilm} TESTS=${TESTS-tests/swapnet tests/executor}
JOBS=${JOBS:-$(nproc)} PYTHON=${PYTHON:-.venv/bin/python}
ROOT=$WORK/rootfs

[ "$(id -u)" = 0 ] || { echo "check.sh: needs root, to make a Debian and to mount in it" >&2; exit 2; }

case $CPU in
  cortex-a72 | cortex-a76 | neoverse-n1 | max) ;;
  *) echo "check.sh: CPU=$CPU is not one of cortex-a72, cortex-a76, neoverse-n1, max" >&2; exit 2 ;;
esac

mkdir -p "$WORK"
packages='qemu-user-static binfmt-support debootstrap git'
dpkg -s $packages > /dev/null 2>&1 || {
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends $packages > "$WORK/apt.log"
}
mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
update-binfmts --enable qemu-aarch64

if [ ! -e "$ROOT/.done" ]; then
  rm -rf "$ROOT"
  debootstrap --arch=arm64 --variant=minbase --include=python3,python3-venv,procps bookworm "$ROOT" \
    > "$WORK/debootstrap.log"
  touch "$ROOT/.done"
fi

# Features as in /proc/cpuinfo of the devices that have these processors.
armv8='fp asimd evtstrm crc32 cpuid'
armv82='fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp'

become() { # Run what follows on this processor: /proc/cpuinfo and the device tree's model too.
  CPU=$1
  case $CPU in
    cortex-a72) part=0xd08 variant=0x0 revision=3 implementer=0x41 features=$armv8
      board='Raspberry Pi 4 Model B' ;;
    cortex-a76) part=0xd0b variant=0x4 revision=1 implementer=0x41 features=$armv82
      board='Raspberry Pi 5 Model B' ;;
    neoverse-n1) part=0xd0c variant=0x3 revision=1 implementer=0x41 features=$armv82
      board='emulated Neoverse N1' ;;
    max) part=0x051 variant=0x0 revision=0 implementer=0x00 features="$armv82 sve sve2 i8mm bf16"
      board='emulated maximum' ;;
  esac
  local instead=$ROOT/etc/qemu-binfmt/aarch64/proc processor # QEMU looks here first for any path
  mkdir -p "$instead/device-tree"
  printf '%s\0' "$board" > "$instead/device-tree/model"
  for processor in $(seq 0 $(($(nproc) - 1))); do
    printf '%s\t: %s\n' processor "$processor" BogoMIPS 108.00 Features "$features" \
      'CPU implementer' "$implementer" 'CPU architecture' 8 'CPU variant' "$variant" \
      'CPU part' "$part" 'CPU revision' "$revision"
    echo
  done > "$instead/cpuinfo"
}

become "$CPU"

arm() { # A command inside, with mounts that go when it ends.
  unshare -m --propagation private sh -c '
    root=$1; shift
    mount -t proc proc "$root/proc"; mount --rbind /sys "$root/sys"; mount --rbind /dev "$root/dev"
    exec chroot "$root" "$@"' - "$ROOT" \
    /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/venv/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    QEMU_CPU="$CPU" "$@"
}

# Wheels for aarch64 are fetched and unpacked out here: faster, and without a network inside.
rm -rf "$WORK/wheel" "$ROOT/project" "$ROOT/venv" "$ROOT/models"
mkdir -p "$ROOT/project" "$ROOT/models"
git archive HEAD | tar -x -C "$ROOT/project"
"$PYTHON" -m pip wheel -q --no-deps -w "$WORK/wheel" "$ROOT/project"
arm python3 -m venv --without-pip /venv
site=$ROOT/venv/lib/python3.11/site-packages
"$PYTHON" -m pip install -q --only-binary=:all: --python-version 3.11 --no-compile --target "$site" \
  --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
  --platform manylinux_2_26_aarch64 --platform manylinux_2_17_aarch64 \
  "$(echo "$WORK"/wheel/*.whl)${EXTRAS:+[$EXTRAS]}" "$ORT" hypothesis pytest pytest-cov pytest-xdist
sed -i '1s|.*|#!/venv/bin/python3|' "$site/bin/swapnet"
ln -s "../lib/python3.11/site-packages/bin/swapnet" "$ROOT/venv/bin/swapnet"
for model in $MODELS; do
  file=$("$PYTHON" -m swapnet models get "$model" --json |
    "$PYTHON" -c 'import json, sys; print(json.load(sys.stdin)["onnx"])')
  cp -rL "$(dirname "$file")" "$ROOT/models/$model"
done

failed=0
: > "$WORK/summary"
checked=$CPU
for processor in ${WINDOWS:+cortex-a72 cortex-a76}; do
  become "$processor"
  arm sh -c 'cd /project && exec python3 -m tests.aarch64.equality "$@"' - $WINDOWS |
    sed "s/^/$CPU: /" | tee -a "$WORK/summary" || failed=1
done
become "$checked"
arm python3 -c 'import platform; assert platform.machine() == "aarch64", platform.machine()'
arm swapnet doctor /tmp
if [ -n "$MODELS" ]; then
  arm sh -c 'cd /project && exec python3 -m tests.aarch64.equality "$@"' - \
    $(printf '/models/%s ' $MODELS) | tee -a "$WORK/summary" || failed=1
fi
if [ -n "$TESTS" ]; then
  arm sh -c "cd /project && exec python3 -m pytest -m 'not slow' -q -n $JOBS --dist loadgroup \
    -p no:cacheprovider $TESTS" | tee "$WORK/tests.log" || failed=1
  tail -n 1 "$WORK/tests.log" >> "$WORK/summary"
fi
echo && echo "SwapNet $(git rev-parse --short HEAD) on $board, emulated:" && cat "$WORK/summary"
exit $failed
