#!/usr/bin/env bash
# Installs the Debian packages that a real node needs, where they are missing. `make e2e` calls it.
#   tests/e2e/packages.sh           install what is missing (as root)
#   tests/e2e/packages.sh --check   exit 1 and name what is missing
set -euo pipefail
PACKAGES=(
  buildah fuse-overlayfs mmdebstrap      # images, from our Dockerfiles
  containerd runc containernetworking-plugins  # containers
  iptables conntrack ethtool iproute2 socat    # kube-proxy, and kubelet's port forwarding
  util-linux procps                      # namespaces, sysctl
  openssl faketime                       # certificates; pods whose clock is wrong
)
missing=()
for package in "${PACKAGES[@]}"; do
  dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "${1:-}" = --check ]; then
  echo "Debian packages are missing: ${missing[*]}; tests/e2e/packages.sh installs them" >&2
  exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "only root can install the Debian packages that are missing: ${missing[*]}" >&2
  exit 2
fi
if ! command -v apt-get >/dev/null; then
  echo "this machine has no apt-get; install what these Debian packages hold: ${missing[*]}" >&2
  exit 2
fi
apt-get update --quiet=2
DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends "${missing[@]}"
