# The benchmarks, beside the programs they measure.
{ bare, bottle, bottle-bench, bottle-pack }:
bare {
  name = "bottle-bench";
  script = ''
    mkdir -p $out/bin $out/share
    cp ${bottle-bench}/bin/bottle-bench ${bottle-pack}/bin/bottle-pack ${bottle}/bin/bottle $out/bin/
    cp -r ${bottle}/share/bottle $out/share/
  '';
}
