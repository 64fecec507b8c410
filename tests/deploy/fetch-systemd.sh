#!/bin/sh
# Debian's systemd-analyze and what it needs, unpacked into a directory; nothing is installed, and root is not needed.
# Usage: fetch-systemd.sh DIRECTORY
# Afterwards DIRECTORY/run COMMAND … runs a command of it, such as systemd-analyze.
set -eu
mkdir -p "$1"
directory=$(cd "$1" && pwd)
packages=$directory/packages
mkdir -p "$packages" "$directory/lists/partial" "$directory/cache/archives/partial" "$directory/root"
chmod -R a+rX "$directory"

# Lists and cache of our own: those of the machine may be empty, old, or not ours to write.
apt() {
    program=$1
    shift
    "$program" -qq -o Dir::State::lists="$directory/lists" -o Dir::Cache="$directory/cache" \
        -o APT::Sandbox::User="$(id -un)" "$@"
}

apt apt-get update
# Of everything that it needs, what this machine has not: on a small one that is some libraries.
needed=$(apt apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances systemd | grep '^[a-z0-9]' | grep -v ':' | sort -u)
# These in any case: one of the same version, and one for the tests' own filter.
wanted="systemd libsystemd-shared libseccomp2"
for package in $needed; do
    case $package in
    lib*) dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || wanted="$wanted $package" ;;
    esac
done
cd "$packages"
for package in $wanted; do
    # What only looks like a package (a virtual one) has nothing to download.
    apt apt-get download "$package" || test "$package" != systemd
done
for package in *.deb; do
    dpkg -x "$package" "$directory/root"
done

cat > "$directory/run" << 'END'
#!/bin/sh
root=$(cd "$(dirname "$0")" && pwd)/root
libraries=$(find "$root" -name '*.so*' -exec dirname {} + | sort -u | tr '\n' ':')
program=$(find "$root/usr/bin" "$root/bin" -name "$1" 2>/dev/null | head -n 1)
shift
export SYSTEMD_UNIT_PATH="$root/usr/lib/systemd/system:$root/lib/systemd/system"
LD_LIBRARY_PATH=$libraries exec "$program" "$@"
END
chmod 755 "$directory/run"
