# The Debian root of every agent image.
{ debian }:
debian {
  name = "guest-root";
  groups = [ "guest" ];
  drop = [ "usr/share/bash-completion" "usr/share/zsh" "usr/share/perl5" "usr/share/gitweb" "usr/share/gdb" "usr/share/pixmaps"
    "usr/lib/x86_64-linux-gnu/perl" "usr/share/initramfs-tools" "usr/lib/systemd" "etc/init.d" "etc/systemd" "etc/cron.daily" ];
  setup = ''
    mkdir -p home/node/workspace root mnt usr/lib/bottle usr/local/bin usr/local/sbin etc/ssl/certs var/tmp var/log var/lib var/cache
    ln -sf mawk usr/bin/awk
    # Hard links in their packages.
    ln -sf perl5.36.0 usr/bin/perl
    ln -sf gunzip usr/bin/uncompress
    [ -e usr/bin/sh ] || ln -s bash usr/bin/sh
    rm -rf var/run var/lock
    ln -s /run var/run
    ln -s /run/lock var/lock
    cat > etc/passwd <<END
    root:x:0:0:root:/root:/bin/bash
    nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
    node:x:1000:1000:agent:/home/node:/bin/bash
    END
    cat > etc/group <<END
    root:x:0:
    tty:x:5:
    nogroup:x:65534:
    node:x:1000:
    END
    echo bottle > etc/hostname
    printf '127.0.0.1\tlocalhost bottle\n::1\tlocalhost\n' > etc/hosts
    : > etc/resolv.conf
    printf 'passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n' > etc/nsswitch.conf
    ln -sf /proc/self/mounts etc/mtab
    # What update-ca-certificates would write.
    cat usr/share/ca-certificates/mozilla/*.crt > etc/ssl/certs/ca-certificates.crt
    printf 'export PS1="bottle:\\w\\$ "\n' > etc/profile.d/bottle.sh 2>/dev/null || true
    cp -r etc/skel/. home/node/
    # Nothing in a bottle may change its user.
    rm -f usr/bin/su usr/bin/newgrp usr/bin/mount usr/bin/umount
  '';
}
