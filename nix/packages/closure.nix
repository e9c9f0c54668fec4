# closure.json: every path that a launch needs, with its hash, so that a launch can check what it is
# about to run. The agents' images are several hundred megabytes each, so they are only described:
# it says where they will be (bottle's src/closure), and later.json beside it says how to build them
# (later.nix). `images` are a team's, from lib.mkAgentImage.
{ bare, bottle-bundle, bottle-guest, tools, git, gitleaks, qemu, kernel, initrd, smolvm, image-demo, smolmachine-demo, claude, codex, system }:
images:
let
  later = image:
    let
      plain = builtins.unsafeDiscardStringContext;
      build = image: ''{"result":"${plain image.outPath}","file":"${plain image.file}"}'';
      words = builtins.concatStringsSep "," (map (group: ''"${group}"'') ([ "seed" "toolchain" "guest" ] ++ image.sources));
      download = if image.download == null then "" else ''"download_mb":${toString image.download},'';
    in ''"${image.name}":{"builds":{"qemu":${build image.qemu},"smolvm":${build image.smolvm}},"sources":[${words}],${download}
      "user":"node","uid":1000,"gid":1000,"home":"/home/node","workdir":"/home/node/workspace",
      "path":"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}'';
  named = [ claude codex ] ++ images;
  names = [ "demo" ] ++ map (image: image.name) named;
  twice = builtins.filter (name: builtins.length (builtins.filter (other: other == name) names) > 1) names;
in
if twice != [ ] then throw "mkBottle: there are two images named ${builtins.head twice}" else
bare {
  name = "closure.json";
  script = ''
    file() { # PATH
      printf '{"path":"%s","sha256":"%s","bytes":%s}' "$1" "$(sha256sum "$1" | cut -d' ' -f1)" "$(stat -c %s "$1")"
    }
    firmware=
    for f in ${qemu}/share/qemu/*; do firmware="$firmware''${firmware:+,}$(file $f)"; done
    files=
    for f in $(find ${smolvm} -type f ! -name smol-vmm ! -path '*/licenses/*' | sort); do files="$files''${files:+,}$(file $f)"; done
    cat > $out <<END
    {"version":1,"system":"${system}",
     "bundle":{"binary":$(file ${bottle-bundle}/bin/bottle-bundle)},
     "guest":$(file ${bottle-guest}/bin/bottle-guest),
     "tools":{"mke2fs":$(file ${tools}/bin/mke2fs),"git":$(file ${git}/bin/git),"ssh":$(file ${git}/bin/ssh),
      "gitleaks":$(file ${gitleaks}/bin/gitleaks)},
     "engines":{"qemu":{"version":"${qemu.version}","binary":$(file ${qemu}/bin/qemu-system-x86_64),"firmware":"${qemu}/share/qemu","firmware_files":[$firmware],
      "kernel":$(file ${kernel}/vmlinux),"initrd":$(file ${initrd}/initrd)},
      "smolvm":{"version":"${smolvm.version}","root":"${smolvm}","binary":$(file ${smolvm}/bin/smol-vmm),"libraries":"${smolvm}/lib/smolvm",
       "agent":"${smolvm}/share/agent","files":[$files]}},
     "images":{"demo":{"erofs":$(file ${image-demo}/root.erofs),"smolmachine":$(file ${smolmachine-demo}/demo.smolmachine),"user":"node","uid":1000,"gid":1000,"home":"/home/node",
      "workdir":"/home/node/workspace","path":"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
     "later":{${builtins.concatStringsSep ",\n      " (map later named)}}}
    END
  '';
}
