# What users run: a copy of the orchestrator, with its closure beside it, where it looks for it. So
# a new image or bundle does not compile the orchestrator again. `images` are a team's, from
# lib.mkAgentImage.
{ bare, orchestrator, closure-of, later-of, revision }:
images:
bare {
  name = "bottle";
  script = ''
    mkdir -p $out/bin $out/share/bottle
    cp ${orchestrator}/bin/bottle $out/bin/bottle
    cp ${closure-of images} $out/share/bottle/closure.json
    cp ${later-of images} $out/share/bottle/later.json
    # Here and not in the program, which would be compiled for each commit.
    echo ${revision} > $out/share/bottle/revision
    for shell in bash/bash-completion/completions/bottle zsh/zsh/site-functions/_bottle fish/fish/vendor_completions.d/bottle.fish; do
      file=$out/share/''${shell#*/}
      mkdir -p ''${file%/*}
      $out/bin/bottle completions ''${shell%%/*} > $file
    done
  '';
}
