# cargo, rustc and friends of the locked toolchain, as commands for the development shell: each runs in a
# user namespace whose /usr is the locked root and whose every other directory is the machine's own. So the
# compiler is the one the builds use, on any distribution, over the files one edits.
{ bare, lint-root, seed }:
bare {
  name = "dev-tools";
  env.enter = ''
    #!/bin/sh
    # Written by nix/packages/dev-tools.nix.
    set -eu
    export BOTTLE_DEV_DIR="$PWD" BOTTLE_DEV_TOOL="''${0##*/}"
    exec ${seed}/bin/busybox unshare -m -U -r ${seed}/bin/sh -euc '
      PATH=${seed}/bin
      r=/tmp
      busybox mount -t tmpfs tmpfs $r
      for d in /*; do
        case $d in
          /usr|/bin|/sbin|/lib*) continue ;;
          /tmp) busybox mkdir $r/tmp; continue ;;
        esac
        if [ -L "$d" ]; then busybox cp -P "$d" $r/
        elif [ -d "$d" ]; then busybox mkdir "$r$d"; busybox mount -o rbind "$d" "$r$d"
        fi
      done
      busybox mkdir $r/usr
      busybox mount -o bind ${lint-root}/usr $r/usr
      for l in bin sbin lib lib64; do busybox ln -s usr/$l $r/$l; done
      export PATH=/usr/bin:/usr/sbin
      exec busybox chroot $r /bin/sh -c "cd \"\$BOTTLE_DEV_DIR\"; exec \"\$BOTTLE_DEV_TOOL\" \"\$@\"" - "$@"
    ' - "$@"
  '';
  script = ''
    mkdir -p $out/bin
    printf '%s' "$enter" > $out/bin/cargo
    chmod 0755 $out/bin/cargo
    for tool in rustc rustdoc rustfmt cargo-fmt cargo-clippy clippy-driver cc; do
      [ $tool = cc ] || [ -e ${lint-root}/usr/bin/$tool ] || continue
      ln -s cargo $out/bin/$tool
    done
  '';
}
