#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# build_wheel.sh OUT — a release wheel in OUT that carries the libraries the extension needs.
#
# ./dev wheel calls it, in the project's environment.  Without test hooks.  A wheel that was made
# from the same sources is left as it is.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."
out=$1
work=$PWD/build-wheel

key=$(find native tierstore pyproject.toml meson.build meson_options.txt -type f \
	! -path '*/__pycache__/*' ! -name '*.so' -print0 | sort -z | xargs -0 sha256sum | sha256sum)
if [ -e "$out/.key" ] && [ "$(<"$out/.key")" = "$key" ] && compgen -G "$out/*.whl" >/dev/null; then
	echo "fresh: $(echo "$out"/*.whl)"
	exit
fi

rm -rf "$work/raw"
mkdir -p "$out"
rm -f "$out"/tierstore-*.whl "$out/.key"
python -m pip wheel -q . --no-deps --no-build-isolation -w "$work/raw" -Cbuild-dir="$work/build"
auditwheel repair -w "$out" "$work"/raw/*.whl
printf '%s\n' "$key" >"$out/.key"
echo "built: $(echo "$out"/*.whl)"
