# cargo, rustc and the other tools of the locked toolchain, as commands for the development shell.
# Each runs in a user namespace in which /usr is that of `root` (check-root or dev-root), and every
# other directory is the machine's own. So on any distribution, the compiler is the one that the
# builds use, on the files that you edit.
{ bare, seed }:
root:
bare {
  name = "dev-tools";
  env.enter = ''
    #!${seed}/bin/sh
    # Written by nix/packages/dev-tools.nix.
    set -eu
    export BOTTLE_DEV_DIR="$PWD" BOTTLE_DEV_TOOL="''${0##*/}"
    # An empty directory to put the new root on; inside the namespace only.
    export BOTTLE_DEV_ROOT="''${XDG_CACHE_HOME:-$HOME/.cache}/bot-bottle/root"
    busybox=${seed}/bin/busybox
    $busybox mkdir -p "$BOTTLE_DEV_ROOT"
    exec $busybox unshare -m -U -r ${seed}/bin/sh -euc '
      busybox=${seed}/bin/busybox
      r=$BOTTLE_DEV_ROOT
      $busybox mount -t tmpfs tmpfs "$r"
      for d in /*; do
        case $d in /usr|/bin|/sbin|/lib*) continue ;; esac
        if [ -L "$d" ]; then $busybox cp -P "$d" "$r/"
        elif [ -d "$d" ]; then $busybox mkdir "$r$d"; $busybox mount -o rbind "$d" "$r$d"
        fi
      done
      $busybox mkdir "$r/usr"
      $busybox mount -o bind ${root}/usr "$r/usr"
      for l in bin sbin lib lib64; do $busybox ln -s usr/$l "$r/$l"; done
      # The commands of this shell first would find these wrappers again.
      PATH=/usr/bin:/usr/sbin:$PATH
      # Not chroot: the kernel lets no chrooted process make a user namespace.
      cd "$r"
      $busybox pivot_root . .
      $busybox umount -l .
      exec /bin/sh -c "cd \"\$BOTTLE_DEV_DIR\"; tool=\$BOTTLE_DEV_TOOL; unset BOTTLE_DEV_DIR BOTTLE_DEV_TOOL BOTTLE_DEV_ROOT; exec \"\$tool\" \"\$@\"" - "$@"
    ' - "$@"
  '';
  script = ''
    mkdir -p $out/bin
    printf '%s' "$enter" > $out/bin/cargo
    chmod 0755 $out/bin/cargo
    for tool in rustc rustdoc rustfmt cargo-fmt cargo-clippy clippy-driver cc shellcheck rust-analyzer; do
      [ -e ${root}/usr/bin/$tool ] || [ -L ${root}/usr/bin/$tool ] || continue
      ln -s cargo $out/bin/$tool
    done
  '';
}
