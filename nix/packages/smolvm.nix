# smolvm from its wheel, made to run from a read-only store path on any distribution: the command
# line, libkrun with its guest kernel, the root of the guest's own agent, and the mkfs.ext4 that
# formats a machine's disks.
{ relocate, debian, lock }:
let
  wheel = builtins.head (builtins.filter (s: s.kind == "pypi") (lock "engine-smolvm"));
in
relocate {
  name = "smolvm";
  root = debian {
    name = "smolvm-root";
    groups = [ "engine" "engine-smolvm" ];
    setup = ''
      $builder unzip -q ${wheel.src} 'smol/*' -d wheel
      mv wheel/smol/smol-vmm usr/bin/
      chmod 0755 usr/bin/smol-vmm
      mkdir -p usr/lib/smolvm
      mv wheel/smol/libkrun.so wheel/smol/libkrunfw.so.5 usr/lib/smolvm/
    '';
  };
  programs = [ "usr/bin/smol-vmm" "usr/sbin/mke2fs" ];
  modules = [ "lib/smolvm/libkrun.so" "lib/smolvm/libkrunfw.so.5" ];
  # The wheel's disk templates are left out: as root, smolvm would unpack them, 10 and 20 GB, beside
  # itself. Without them it formats new disks.
  setup = ''
    ln -s mke2fs $out/bin/mkfs.ext4
    mkdir -p $out/etc $out/share/agent $out/share/licenses
    # Without writing empty inode tables.
    cat > $out/etc/mke2fs.conf <<END
    [defaults]
      base_features = sparse_super,large_file,filetype,dir_index,ext_attr
      default_mntopts = acl,user_xattr
      blocksize = 4096
      inode_size = 256
      inode_ratio = 16384
      lazy_itable_init = 1
    [fs_types]
      ext4 = {
        features = extent,huge_file,flex_bg,dir_nlink,extra_isize,64bit,uninit_bg
      }
    END
    cp -r $from/wheel/smol/licenses/. $from/wheel/smol/THIRD_PARTY_NOTICES.md $out/share/licenses/
    loader=$from/usr/lib/x86_64-linux-gnu
    $loader/ld-linux-x86-64.so.2 --library-path $loader $from/usr/bin/zstd -dc $from/wheel/smol/agent-rootfs.tar.zst |
      tar -x -C $out/share/agent --no-same-owner
  '';
} // { inherit (wheel) version; }
