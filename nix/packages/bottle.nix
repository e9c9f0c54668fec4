# What users run. A copy of the orchestrator, which finds its closure beside itself: so a new image or bundle
# does not compile it again.
{ bare, orchestrator }:
closure:
bare {
  name = "bottle";
  script = ''
    mkdir -p $out/bin $out/share/bottle
    cp ${orchestrator}/bin/bottle $out/bin/bottle
    cp ${closure} $out/share/bottle/closure.json
  '';
}
