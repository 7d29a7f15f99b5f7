#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# chroot.sh [-k] [SUITE [COMMAND...]] — try ./dev on a Debian on which nothing is installed.
#
# Makes a minimal system in a temporary folder (debootstrap), clones the last commit of this
# checkout into it, and runs there `./dev demo --seconds 5 --json` and `./dev test`, or COMMAND.
# -k keeps the folder, and the next run with the same TIERSTORE_CHROOT finds it again.
#
# Needs root, git and debootstrap, and a few hundred MB from the package mirror, so no test calls
# it.
# The mirror, apt's and pip's settings and the certificates are the machine's own.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."

keep=no
if [ "${1:-}" = -k ]; then
	keep=yes
	shift
fi
suite=${1:-bookworm}
[ $# = 0 ] || shift
target=${TIERSTORE_CHROOT:-$(mktemp -d)}

die() { printf 'chroot.sh: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "needs root"
for tool in debootstrap git unshare; do
	command -v "$tool" >/dev/null || die "needs $tool"
done

# The address apt would fetch $1 (a label: Debian or Debian-Security) from.
mirror() {
	apt-get indextargets --format '$(LABEL) $(REPO_URI)' |
		awk -v label="$1" '$1 == label && !found {print $2; found = 1}'
}

# Settings that a user of this machine has and a new system has not.
copy_settings() {
	local name value
	cp /etc/resolv.conf "$target/etc/resolv.conf"
	apt-config dump | grep -E '^Acquire::(http|https|Check|Retries|ForceIP|Languages)' \
		>"$target/etc/apt/apt.conf.d/90machine" || true
	for name in /etc/pip.conf /usr/local/share/ca-certificates; do
		[ -e "$name" ] || continue
		mkdir -p "$target$(dirname "$name")"
		cp -rL "$name" "$target$(dirname "$name")/"
	done
	# Installing ca-certificates replaces the bundle; this copy stays.
	cp -L /etc/ssl/certs/ca-certificates.crt "$target/etc/machine-ca.crt"
	: >"$target/etc/machine-env"
	while IFS='=' read -r name value; do
		case $name in
		PIP_CERT | SSL_CERT_FILE | REQUESTS_CA_BUNDLE) ;;
		PIP_* | *_proxy | *_PROXY) printf 'export %s=%q\n' "$name" "$value" ;;
		esac
	done < <(env) >>"$target/etc/machine-env"
	printf 'export %s=/etc/machine-ca.crt\n' PIP_CERT SSL_CERT_FILE \
		>>"$target/etc/machine-env"
}

make_system() {
	local main security
	main=$(mirror Debian)
	[ -n "$main" ] || die "apt knows no Debian mirror"
	debootstrap --variant=minbase "$suite" "$target" "$main"
	printf 'deb %s %s main\n' "$main" "$suite" "$main" "$suite-updates" \
		>"$target/etc/apt/sources.list"
	security=$(mirror Debian-Security)
	[ -z "$security" ] || printf 'deb %s %s-security main\n' "$security" "$suite" \
		>>"$target/etc/apt/sources.list"
	chmod 755 "$target"
	copy_settings
}

clean_up() {
	[ "$keep" = yes ] && echo "kept: $target" && return
	rm -rf --one-file-system "$target"
}
trap clean_up EXIT

[ -e "$target/etc/machine-env" ] || make_system
rm -rf "$target/opt/tierstore"
git clone -q . "$target/opt/tierstore"
[ $# -gt 0 ] || set -- sh -c './dev demo --seconds 5 --json && ./dev test'

# A mount namespace of its own: whatever happens, no mount is left behind.
status=0
unshare --mount --propagation private bash -c '
	target=$1
	shift
	mount -t proc proc "$target/proc"
	mount --rbind /sys "$target/sys"
	mount --rbind /dev "$target/dev"
	exec chroot "$target" env -i HOME=/root TERM="${TERM:-dumb}" \
		PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		bash -c ". /etc/machine-env; cd /opt/tierstore; exec \"\$@\"" bash "$@"
' bash "$target" "$@" || status=$?
exit $status
