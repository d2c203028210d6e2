#!/usr/bin/env bash
# Installs each distribution of a folder into an environment of its own, and uses what the package has to bring along.
# usage: scripts/try_package.sh dist [pip options]
set -euo pipefail
unset PYTHONPATH
folder=$(realpath "$1")
shift
for distribution in "$folder"/rtdyn-*.whl "$folder"/rtdyn-*.tar.gz; do
  place=$(mktemp -d)
  trap 'rm -rf "$place"' EXIT
  python3 -m venv "$place/venv"
  "$place/venv/bin/pip" install --quiet "$@" "$distribution"
  cd "$place"
  echo "+ $(basename "$distribution")"
  "$place/venv/bin/rtdyn" models > models.txt
  grep -q tiny models.txt
  "$place/venv/bin/rtdyn" track --model tiny --steps 4000 --analyses ablation --wandb disabled --out run
  "$place/venv/bin/rtdyn" report run --out page
  test -s page/report.html
  cd - > /dev/null
  rm -rf "$place"
done
