# shellcheck shell=bash
# What nix/bootstrap, nix/fetch and nix/relock share. Sourced, never run.
# Only bash, coreutils, sed, awk and Debian's own tools: a fresh machine has nothing else.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
lockdir=$top/nix/lock
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/bot-bottle/fetch

# die WHAT [NEXT…]: one error, then what to do about it.
die() {
  local next
  printf 'error: %s\n' "$1" >&2
  shift
  for next in "$@"; do printf '  hint: %s\n' "$next" >&2; done
  exit 1
}

# On a terminal one line that rewrites itself; elsewhere plain lines, so that a log can be followed.
say() {
  if [ -t 2 ] && [ "${TERM:-dumb}" != dumb ]; then printf '\r\033[K%s' "$*" >&2; else printf '%s\n' "$*" >&2; fi
}
said() { if [ -t 2 ] && [ "${TERM:-dumb}" != dumb ]; then printf '\r\033[K%s\n' "$*" >&2; else printf '%s\n' "$*" >&2; fi; }

# A group of sources is a name in nix/lock, or the path of a lock elsewhere, which has a slash.
lock_file() { case $1 in */*) printf '%s\n' "$1" ;; *) printf '%s\n' "$lockdir/$1.lock" ;; esac; }

# The lines of a lock without comments: KIND NAME VERSION FILE HASH [DIRECTORY], separated by tabs.
# DIRECTORY is where a Debian package or a wheel is in its registry's archive (plain Nix fetches it
# from there), or where an npm package that was locked together with its dependencies is installed
# below node_modules.
lock_lines() { grep -v '^#' "$(lock_file "$1")" | grep . || true; }

# The Debian mirror that this machine is configured for. No file of ours names one.
debian_mirror() {
  if [ -n "${BOTTLE_DEBIAN_MIRROR:-}" ]; then
    printf '%s\n' "$BOTTLE_DEBIAN_MIRROR"
    return
  fi
  # Suites with a dash (bookworm-security, -updates, -backports) live in other archives.
  # The placeholders are apt's, not the shell's.
  # shellcheck disable=SC2016
  apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI) $(SITE)' 'Created-By: Packages' 2>/dev/null |
    awk '$2 == "main" && $1 !~ /-/ {
           uri = $3 ~ /:/ ? $3 : $4
           if ($1 == "bookworm") { print uri; found = 1; exit }
           if (uri ~ /debian\/?$/ && !other) other = uri
         }
         END { if (!found && other) print other }'
}

# An apt of our own: its own lists, cache and (empty) dpkg status, bookworm main only, because that
# suite is frozen while bookworm-updates and -security drop old versions. The machine's proxy
# settings still apply. Leaves APT_CONFIG set; touches nothing of the machine's apt state.
private_apt() {
  local dir=$cache/apt mirror signed=
  command -v apt-get >/dev/null || die "apt-get is missing: the sources of bottles are Debian packages" \
    "run this on Debian (or in a Debian container)"
  mkdir -p "$dir"/{lists/partial,archives/partial}
  : >"$dir/status"
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] &&
    signed='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]'
  mirror=$(debian_mirror)
  [ -n "$mirror" ] || die "no Debian mirror in this machine's apt sources" \
    "set BOTTLE_DEBIAN_MIRROR to the address of a Debian archive that carries bookworm"
  printf 'deb %s %s bookworm main\n' "$signed" "${mirror%/}" >"$dir/sources.list"
  cat >"$dir/apt.conf" <<CONF
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Default-Release;
#clear APT::Architectures;
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::Etc::sourcelist "$dir/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$dir";
Dir::State::lists "$dir/lists";
Dir::State::status "$dir/status";
Dir::State::extended_states "$dir/extended_states";
Dir::Cache "$dir";
Dir::Cache::archives "$dir/archives";
CONF
  export APT_CONFIG=$dir/apt.conf
}

# Refresh the private lists (8 MB, two seconds).
private_apt_update() {
  # By default apt calls it a success when no list could be fetched.
  apt-get update -qq -o APT::Update::Error-Mode=any >"$cache/apt/update.log" 2>&1 ||
    die "the Debian registry cannot be reached: $(grep -m1 '^[EW]:' "$cache/apt/update.log" || tail -n1 "$cache/apt/update.log")" \
      "check that 'apt-get update' works on this machine, then run the same command again"
}

# Where builds happen, and NIX_CONFIG for it. Sets store_root, what precedes /nix/store on this
# disk, and caches, which is empty where the user has configured a binary cache.
nix_env() {
  local mode='' builds='sandbox = true
sandbox-fallback = false
sandbox-paths ='
  store_root=
  if [ -S /nix/var/nix/daemon-socket/socket ]; then
    # An installed multi-user Nix does the building, and decides how; it warns of every setting that
    # it ignores.
    builds=
  elif [ "$(id -u)" = 0 ] || [ -w /nix/var/nix ]; then
    mode='build-users-group ='
  else
    # An ordinary user gets a store of their own; builds and runs see it as /nix/store in a user
    # namespace.
    store_root=${XDG_DATA_HOME:-$HOME/.local/share}/nix/root
    mode="store = $store_root"
  fi
  # sandbox-paths: Debian's default differs by version, and we want none. sandbox-fallback: a build
  # that sees the host is worse than no build. The user's own settings come last and win. Only
  # caches that the user has named are asked: on a machine that reaches only registries, each
  # request would wait for a timeout.
  caches='substituters ='
  if grep -qsE '^ *(extra-)?substituters *= *[^ ]' /etc/nix/nix.conf "${XDG_CONFIG_HOME:-${HOME:-}/.config}/nix/nix.conf" <(printf '%s\n' "${NIX_CONFIG:-}"); then
    caches=
  fi
  # No look-up of flake names; but `nix develop` asks for its bash under the name nixpkgs, and warns
  # if it has none.
  registry=/dev/null
  if mkdir -p "$cache" 2>/dev/null && printf '{"version":2,"flakes":[{"from":{"type":"indirect","id":"nixpkgs"},"to":{"type":"git","url":"%s","dir":"nix/registries"}}]}\n' \
    "$(flake_reference "$top" | sed 's/^git+//')" 2>/dev/null >"$cache/registry.json"; then
    registry=$cache/registry.json
  fi
  NIX_CONFIG="experimental-features = nix-command flakes
$mode
$caches
$builds
flake-registry = $registry
warn-dirty = false
max-jobs = auto
${NIX_CONFIG:-}"
  export NIX_CONFIG
}

# flake_reference DIR [SUBDIR]: the flake of the git checkout DIR. Nix 2.8 takes no spaces and no
# escapes in such a path. It follows a link above the checkout, but not one in its place.
flake_reference() {
  local at=$1 name link
  name=$(basename "$1")
  case $1 in
    *[!A-Za-z0-9/._+~-]*)
      case $name in
        *[!A-Za-z0-9._+~-]*) die "Nix cannot read a checkout that is named '$name'" "rename it: mv '$1' '$(dirname "$1")/${name//[!A-Za-z0-9._+~-]/-}'" ;;
      esac
      link=$(dirname "$cache")/above-$(printf %s "$1" | sha256sum | cut -c1-16)
      { mkdir -p "$(dirname "$link")" && ln -sfn "$(dirname "$1")" "$link"; } ||
        die "Nix needs a path without spaces, and no link to $(dirname "$1") can be made in $(dirname "$link")" "set XDG_CACHE_HOME to a writable directory"
      at=$link/$name
      ;;
  esac
  printf 'git+file://%s%s\n' "$at" "${2:+?dir=$2}"
}

# The sources of a group as lock lines; the crates' lock is Cargo.lock itself.
sources() {
  if [ "$1" = crates ]; then
    awk -v OFS='\t' -F'"' '
      /^name = / { n = $2 } /^version = / { v = $2 }
      /^checksum = / { print "crate", n, v, n "-" v ".crate", $2 }' "$top/Cargo.lock"
  else
    lock_lines "$1"
  fi
}

check_groups() {
  local group
  for group in "$@"; do
    [ "$group" = crates ] || [ -e "$(lock_file "$group")" ] || die "no such group of sources: $group" \
      "there are: crates $(cd "$lockdir" && printf '%s ' *.lock | sed 's/\.lock//g')"
  done
}

# Lock lines of the groups that are not in the store. The index remembers hash → store path, so that
# this needs no process per source.
missing() {
  local group kind name version file hash path _
  local -A at=()
  if [ -e "$cache/index" ]; then
    while read -r hash path; do at[$hash]=$path; done <"$cache/index"
  fi
  for group in "$@"; do
    while IFS=$'\t' read -r kind name version file hash _; do
      path=${at[$hash]:-}
      [ "$path" != listed ] || continue
      if [ -z "$path" ] || [ ! -e "$store_root$path" ]; then
        printf '%s\t%s\t%s\t%s\t%s\n' "$kind" "$name" "$version" "$file" "$hash"
        at[$hash]=listed
      fi
    done < <(sources "$group")
  done
}

# install_debs PACKAGE…: installs the Debian packages that this machine lacks, or says why it
# cannot.
install_debs() {
  local log
  command -v apt-get >/dev/null ||
    die "this machine has no $*, and no apt-get to install it with" "install $*, then run the same command again"
  [ "$(id -u)" = 0 ] ||
    die "this machine has no $*, and only root may install it" "sudo apt-get install $*" "then run the same command again; it needs root for nothing else"
  say "installing $* from Debian"
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends "$@" >"$log" 2>&1 ||
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"; } >"$log" 2>&1 ||
    die "apt-get cannot install $*: $(grep -m1 '^E:' "$log" || tail -n1 "$log")" \
      "check that 'apt-get update' works on this machine, then run the same command again" "the whole output is $log"
  rm -f "$log"
}
