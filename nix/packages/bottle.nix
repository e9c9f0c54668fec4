# What users run. A copy of the orchestrator, which finds its closure beside itself: so a new image or bundle does not compile it again.
# `images` are a team's, from lib.mkAgentImage.
{ bare, orchestrator, closure-of, later-of }:
images:
bare {
  name = "bottle";
  script = ''
    mkdir -p $out/bin $out/share/bottle
    cp ${orchestrator}/bin/bottle $out/bin/bottle
    cp ${closure-of images} $out/share/bottle/closure.json
    cp ${later-of images} $out/share/bottle/later.json
  '';
}
