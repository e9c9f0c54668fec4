# The toolchain and what the checks and the development shell add to it: clippy, rustfmt and
# shellcheck; and git, ssh and curl as peers of the programs under test.
{ debian, toolchain-setup, name ? "check-root", more ? [ ], drop ? [ ] }:
debian {
  inherit name drop;
  groups = [ "toolchain" "check" ] ++ more;
  setup = toolchain-setup + ''
    # sshd insists on a user and a directory, and every program on finding the uid it runs as.
    echo 'sshd:x:100:65534::/run/sshd:/usr/sbin/nologin' >> etc/passwd
    echo 'nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin' >> etc/passwd
    # As whom it lets in where the builder is the one user that is mapped (unit.nix).
    echo 'upstream:x:1000:1000::/build:/bin/bash' >> etc/passwd
    printf 'nogroup:x:65534:\nupstream:x:1000:\n' >> etc/group
    mkdir -p run/sshd etc/ssl/certs
    # Nothing answers there, but a resolver may ask.
    echo 'nameserver 127.0.0.1' > etc/resolv.conf
    printf '127.0.0.1\tlocalhost\n' > etc/hosts
    printf 'passwd: files\ngroup: files\nhosts: files\n' > etc/nsswitch.conf
    cat usr/share/ca-certificates/mozilla/*.crt > etc/ssl/certs/ca-certificates.crt
  '';
}
