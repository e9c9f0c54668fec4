# crane, one static program, for the root of smolvm's agent.
{ bare, smolvm }:
bare {
  name = "crane";
  script = ''
    mkdir -p $out/bin
    cp ${smolvm}/share/agent/usr/local/bin/crane $out/bin/crane
  '';
}
