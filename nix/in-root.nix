# Runs a script with a Debian root as /, inside Nix's own sandbox: no host path, no network, no
# privilege. In the script, $out is the directory or file to leave behind, $final is the store path
# that it will have, the work directory is /build, and `env` is in the environment.
{ bare, seed }:
{ name, root, script, env ? { }, after ? "" }:
let
  exports = builtins.concatStringsSep "" (map
    (key: "export ${key}='${builtins.replaceStrings [ "'" ] [ "'\\''" ] (toString env.${key})}'\n")
    (builtins.attrNames env));
in bare {
  inherit name;
  env.body = exports + script;
  # The root and the store are remounted read-only: the builder owns its inputs, and python or cargo
  # would write into them.
  script = ''
    printf '%s' "$body" > body
    unset body
    export TOP=$PWD
    status=0
    [ ! -e /nix/var ] || {
      echo 'error: this build is not sandboxed: it sees the machine that it runs on'
      echo '  hint: set "sandbox = true" in /etc/nix/nix.conf, and restart the daemon if there is one'
      exit 1
    } >&2
    mkdir probe
    busybox unshare -m -U -r busybox mount -t tmpfs tmpfs probe || {
      echo 'error: a build cannot mount anything in a user namespace of its own here'
      echo '  hint: on Ubuntu: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0'
      echo '  hint: elsewhere: sudo sysctl user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1'
      exit 1
    } >&2
    busybox unshare -m -U -r sh -euc '
      R=$TOP/root
      mkdir -p $R $TOP/build
      mount -o bind ${root} $R
      mount -o remount,ro,bind $R
      for m in /proc /dev; do mount -o rbind $m $R$m; done
      mount -o rbind /nix/store $R/nix/store
      grep " $R/nix/store" /proc/self/mounts | while read -r d m t o; do mount -o remount,ro,bind $m; done
      mount -o bind $TOP/build $R/build
      mount -t tmpfs tmpfs $R/tmp
      cp $TOP/body $R/tmp/.body
      # Not chroot: the kernel lets no chrooted process make a user namespace, as the tests do.
      cd $R
      pivot_root . .
      ${seed}/bin/busybox umount -l .
      exec ${seed}/bin/busybox env -i PATH=/usr/bin:/usr/sbin HOME=/build TMPDIR=/tmp SOURCE_DATE_EPOCH=1 LC_ALL=C \
        out=/build/out final=$out NIX_BUILD_CORES="$NIX_BUILD_CORES" \
        /bin/bash -euo pipefail -c "cd /build; . /tmp/.body"
    ' || status=$?
    ${after}
    [ $status = 0 ] || exit $status
    # Across file systems mv is a copy, and cannot remove what is in a read-only directory.
    chmod -R u+w build/out
    mv build/out $out
  '';
}
