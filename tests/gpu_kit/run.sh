#!/bin/sh
# Runs the parts of the GPU kit whose pieces are here, without a network:
#   sh gpu-kit/run.sh [--simulated] [--parts abc] [--seconds 280] [--only NAME,NAME]
# OUT is where results go (gpu-kit/results), PYTHON the interpreter, KIT_HOME where pieces are kept.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/results}
home=${KIT_HOME:-${HOME:-/tmp}/.cache/swapnet-gpu-kit}
python=${PYTHON:-}
if [ -z "$python" ]; then
  for name in python3 python3.12; do
    if "$name" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then
      python=$name
      break
    fi
  done
fi
if [ -z "$python" ]; then
  echo "run.sh: there is no Python 3.12 here, for which the packages are: set PYTHON" >&2
  exit 2
fi
mkdir -p "$out"
groups=$("$python" "$here/unpack.py" "$here" "$home")
parts=
for group in $groups; do
  case $group in
    code) parts=a$parts ;;
    ort) parts=${parts}b ;;
    rtx) parts=${parts}c ;;
  esac
done
echo "here: ${groups:-nothing}"
case " $groups " in
  *" code "*) ;;
  *) echo "run.sh: the code is not here: carry trip-a too" >&2; exit 2 ;;
esac
site=$home/site
PYTHONPATH=$site/code:$site/core${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH PYTHONDONTWRITEBYTECODE=1
exec "$python" -m tests.gpu_kit.run --out "$out" --work "$home/work" --site "$site" \
  --parts "$parts" "$@"
