# The engine, kernel and initrd reach our /init, under TCG, in the sandbox.
{ in-root, toolchain, qemu, kernel, initrd }:
in-root {
  name = "check-boot";
  root = toolchain;
  script = ''
    timeout 120 ${qemu}/bin/qemu-system-x86_64 -L ${qemu}/share/qemu -M q35 -accel tcg -cpu max -smp 1 -m 256 \
      -nodefaults -no-user-config -nographic -no-reboot -monitor none -serial stdio \
      -kernel ${kernel}/vmlinux -initrd ${initrd}/initrd -append "console=ttyS0 loglevel=7 panic=-1 random.trust_cpu=on" \
      < /dev/null > console 2>&1 || true
    cat console
    grep -q 'Run /init as init process' console
    printf 'our kernel reaches our init under TCG\n1 passed, 0 failed\n' > $out
  '';
}
