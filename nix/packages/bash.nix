# A static bash, for the development shell.
{ bare, lock }:
bare {
  name = "bash-static";
  env.deb = (builtins.head (lock "shell")).src;
  script = ''
    ar p $deb data.tar.xz | xz -dc | tar -x -f -
    mkdir -p $out/bin
    cp usr/bin/bash-static bin/bash-static $out/bin/ 2>/dev/null || true
    mv $out/bin/bash-static $out/bin/bash
  '';
}
