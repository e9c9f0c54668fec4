# crane, one static program: smolvm's agent carries it.
{ bare, smolvm }:
bare {
  name = "crane";
  script = ''
    mkdir -p $out/bin
    cp ${smolvm}/share/agent/usr/local/bin/crane $out/bin/crane
  '';
}
