# An agent image as a read-only file system: the guest root, bottle-guest, and what `setup` adds in $root.
# All files belong to root; the guest gives the agent its home at boot. `compression` is mkfs.erofs' -z and what belongs to it.
{ in-root, toolchain, guest-root, bottle-guest }:
{ name, setup ? "", compression ? "lz4hc" }:
in-root {
  name = "image-${name}";
  root = toolchain;
  script = ''
    root=/build/root
    cp -a ${guest-root} $root
    chmod -R u+w $root
    rmdir $root/build $root/nix/store $root/nix
    mkdir -p $root/usr/lib/bottle
    cp ${bottle-guest}/bin/bottle-guest $root/usr/lib/bottle/bottle-guest
    ${setup}
    # Debian's config names its multiarch directories in /etc/ld.so.conf.d.
    ldconfig -X -r $root
    rm -rf $root/var/cache/ldconfig
    chmod 1777 $root/tmp $root/var/tmp
    chmod 0700 $root/root
    find $root -exec touch -h -d @1 {} +
    mkdir $out
    mkfs.erofs --quiet -z${compression} -T1 -U 0b077150-0000-4000-8000-000000000001 --all-root $out/root.erofs $root
  '';
}
