# The guest's first file system: bottle-guest as /init, and in /modules the modules that it loads,
# in the order of /modules/order, before it can see a disk. A maintainer script makes the kernel
# package's modules.dep; here, depmod computes it.
{ in-root, toolchain, engine-root, kernel, bottle-guest }:
in-root {
  name = "initrd";
  root = toolchain;
  env = {
    from = engine-root;
    modules = [ "virtio_pci" "virtio_blk" "virtio_console" "virtio-rng" "virtio_balloon" "qemu_fw_cfg" "erofs" "overlay" ];
  };
  script = ''
    version=$(cat ${kernel}/version)
    depmod -n -b $from $version | sed '/^#/d; /^kernel.*:/!d' > dep
    mkdir -p i/modules i/dev i/proc i/sys i/run i/newroot
    for module in $modules; do
      line=$(grep -E "/$module\.ko:" dep) || { grep -q "/$module.ko$" $from/usr/lib/modules/$version/modules.builtin && continue; echo "no module $module" >&2; exit 1; }
      # Dependencies are listed nearest first: the last one loads first.
      for path in $(echo $line | tr -d : | tr ' ' '\n' | tac); do
        file=''${path##*/}
        [ -e i/modules/$file ] && continue
        cp $from/usr/lib/modules/$version/$path i/modules/$file
        echo $file >> i/modules/order
      done
    done
    cp ${bottle-guest}/bin/bottle-guest i/init
    chmod -R u+w i
    chmod 0755 i/init
    find i -exec touch -h -d @1 {} +
    mkdir $out
    (cd i && find . -mindepth 1 -print0 | sort -z | cpio --quiet --null -o -H newc --reproducible -R 0:0) > $out/initrd
  '';
}
