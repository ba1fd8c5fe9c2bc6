#!/bin/sh
# Runs the parts of the GPU kit whose pieces are here, without a network:
#   sh gpu-kit/run.sh [--simulated] [--parts abc] [--seconds N] [--only NAME,NAME]
# Without --parts: part a if only trip-a is here, else the parts whose trips have all come.
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
carried() {
  for folder in "$here"/trip-"$1"*; do
    [ -d "$folder" ] && return 0
  done
  return 1
}
has() {
  case " $groups " in
    *" $1 "*) return 0 ;;
  esac
  return 1
}
echo "here: ${groups:-nothing}"
if ! has code; then
  echo "run.sh: the code is not here: carry trip-a too" >&2
  exit 2
fi
# A trip that brings pieces of another part does not ask everything of part a again.
parts=
if ! carried b && ! carried c; then parts=a; fi
if carried b && has ort; then parts=${parts}b; fi
if carried c && has rtx; then parts=${parts}c; fi
case " $* " in
  *" --parts "*) ;;
  *)
    if [ -z "$parts" ]; then
      echo "pieces are kept in $home; nothing can run before the others are here"
      exit 0
    fi
    ;;
esac
seconds=560
if [ "$parts" = a ]; then seconds=280; fi
site=$home/site
PYTHONPATH=$site/code:$site/core${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH PYTHONDONTWRITEBYTECODE=1
exec "$python" -m tests.gpu_kit.run --out "$out" --work "$home/work" --site "$site" \
  --parts "$parts" --seconds "$seconds" "$@"
