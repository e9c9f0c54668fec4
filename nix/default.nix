# Everything that the flake provides, in one scope, from which the arguments of each file are filled
# in by name. `nixpkgs` is a flake, of which legacyPackages is used, or { } where the sources come
# from nix/fetch. `revision` is the commit, for `bottle --version`.
{ nixpkgs ? { }, revision ? "unknown", system ? "x86_64-linux" }:
let
  call = file: let f = import file; in f (builtins.intersectAttrs (builtins.functionArgs f) scope);
  scope = {
    inherit nixpkgs revision system;
    fixed = call ./fixed.nix;
    lock = call ./lock.nix;
    seed = (builtins.head (builtins.filter (s: s.kind == "tree") (scope.lock "seed"))).src;
    bare = call ./bare.nix;
    debian = call ./debian.nix;
    in-root = call ./in-root.nix;
    relocate = call ./relocate.nix;

    toolchain-setup = call ./packages/toolchain-setup.nix;
    toolchain = call ./packages/toolchain.nix;
    engine-root = call ./packages/engine-root.nix;
    qemu = call ./packages/qemu.nix;
    tools = call ./packages/tools.nix;
    kernel = call ./packages/kernel.nix;
    git = call ./packages/git.nix;
    gitleaks = call ./packages/gitleaks.nix;
    mitmproxy = call ./packages/mitmproxy.nix;
    smolvm = call ./packages/smolvm.nix;
    crane = call ./packages/crane.nix;
    pipelock = call ./packages/pipelock.nix;

    vendor = call ./vendor.nix;
    workspace = call ./workspace.nix;
    rust = call ./rust.nix;
    inherit (call ./packages/binaries.nix) deps-release deps-test deps-check orchestrator bottle-bundle bottle-guest bottle-pack bottle-bench;
    initrd = call ./packages/initrd.nix;

    guest-root = call ./images/guest-root.nix;
    image-root = call ./images/root.nix;
    image-json = call ./images/json.nix;
    erofs = call ./images/erofs.nix;
    smolmachine = call ./images/smolmachine.nix;
    image-demo = call ./images/demo.nix;
    smolmachine-demo = call ./images/smolmachine-demo.nix;
    image-clients = call ./images/clients.nix;
    lay = call ./images/lay.nix;
    agent-tools = call ./images/agent-tools.nix;
    team-packages = call ./images/team-packages.nix;
    agent-image = call ./images/agent.nix;
    claude-program = call ./images/claude-program.nix;
    codex-program = call ./images/codex-program.nix;
    claude = scope.agent-image { name = "agent-claude"; provider = "claude"; };
    codex = scope.agent-image { name = "agent-codex"; provider = "codex"; };
    # A team's image, for the checks.
    team = scope.agent-image { name = "team"; lock = ../tests/agents/team.lock; setup = "mkdir $root/etc; tcc -v > $root/etc/compiler"; };
    agent-claude = scope.claude.qemu;
    agent-codex = scope.codex.qemu;
    smolmachine-claude = scope.claude.smolvm;
    smolmachine-codex = scope.codex.smolvm;

    realise = call ./packages/realise.nix;
    closure-of = call ./packages/closure.nix;
    closure = scope.closure-of [ ];
    later-of = call ./packages/later.nix;
    closure-agents = call ./packages/closure-agents.nix;
    closure-clients = call ./packages/closure-clients.nix;
    bottle-of = call ./packages/bottle.nix;
    bottle = scope.bottle-of [ ];
    lib = {
      mkAgentImage = scope.agent-image;
      # `bottle` with a team's images beside the built-in ones.
      mkBottle = { images }: scope.bottle-of images;
    };

    check-root = call ./checks/root.nix;
    browser-root = import ./checks/root.nix { inherit (scope) debian toolchain-setup; more = [ "browser" ]; };
    dev-root = import ./checks/root.nix {
      inherit (scope) debian toolchain-setup;
      name = "dev-root";
      more = [ "dev" ];
      # rust-analyzer reads only the standard library's sources.
      drop = map (d: "usr/src/rustc-1.85.0/${d}") [ "src" "compiler" "tests" "vendor" ];
    };
    test-programs = call ./checks/programs.nix;
    tests = call ./checks/tests.nix;
    sshd = import ./checks/sshd.nix;
    nested-machine = call ./nested/machine.nix;
    nested-run = call ./nested/run.nix;
    bench-engine = call ./nested/bench.nix;
    checks = {
      same-paths = call ./checks/same-paths.nix;
      unit = call ./checks/unit.nix;
      lint = call ./checks/lint.nix;
      boot = call ./checks/boot.nix;
      mitmproxy = call ./checks/mitmproxy.nix;
      clients = call ./checks/clients.nix;
      agents = call ./checks/agents.nix;
      smolvm = call ./checks/smolvm.nix;
    } // (if scope.workspace.bottle-tests == [ ] then { } else { bottles = call ./checks/bottles.nix; });

    dev-tools-of = call ./packages/dev-tools.nix;
    # `nix fmt` does not need the tools for editors.
    dev-tools = scope.dev-tools-of scope.check-root;
    shell-tools = scope.dev-tools-of scope.dev-root;
    fmt = call ./packages/fmt.nix;
    bash = call ./packages/bash.nix;
    shell = call ./shell.nix;
    bench = call ./packages/bench.nix;
    sbom = call ./packages/sbom.nix;
    cached-of = call ./packages/cached.nix;
    cached = scope.cached-of { };
    cached-with-agents = scope.cached-of { agents = true; };
  };
in scope
