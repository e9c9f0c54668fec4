# A derivation in which smolvm runs: `script`, as an ordinary user, on KVM. If KVM works in the
# sandbox, it is used; elsewhere the script runs in a nested machine, with a watchdog. If that
# emulated machine, or one in it, stops answering, it is started once more, and the output says so.
# The output is what `summary` prints; it can read the script's log in nested/log.
{ in-root, check-root, qemu, tools, nested-machine, seed }:
{ name, script, summary, env ? { }, deadline ? 1500 }:
in-root {
  inherit name;
  root = check-root;
  env = env // { check = name; inherit script deadline; };
  script = ''
    mkdir -p nested
    # The script's whole environment, because it runs in another machine.
    { export -p | grep -vE ' (out|final|script|body|TMPDIR|HOME|PATH|PWD|OLDPWD|SHLVL)='; printf '%s\n' "$script"; } > nested/script
    cat > nested/run <<'END'
    export PATH=/usr/bin:/usr/sbin HOME=/bottle/home BOTTLE_TEST_NESTED=1
    echo started > /build/nested/state
    mkdir -p -m 0755 $HOME && chown 1000:1000 $HOME
    (cd $HOME && setpriv --reuid 1000 --regid 1000 --clear-groups bash -euo pipefail /build/nested/script) > /build/nested/log 2>&1
    echo $? > /build/nested/status
    sync
    ${seed}/bin/busybox poweroff -f
    END
    boot() {
      rm -f nested/state nested/status nested/log
      truncate -s 16G nested/disk
      ${tools}/bin/mke2fs -q -F -t ext4 -O ^has_journal -E root_owner=0:0,lazy_itable_init=1,nodiscard nested/disk
      ${qemu}/bin/qemu-system-x86_64 -L ${qemu}/share/qemu -M q35 -accel tcg,thread=multi,tb-size=1024 -cpu max -smp 1 -m 4G \
        -nodefaults -no-user-config -display none -no-reboot -monitor none -serial file:nested/console \
        -kernel ${nested-machine}/vmlinuz -initrd ${nested-machine}/initrd \
        -append "console=ttyS0 quiet mitigations=off panic=5 no_timer_check bottle.root=$(basename ${check-root})" \
        -drive id=disk,file=nested/disk,format=raw,if=none,cache=unsafe -device virtio-blk-pci,drive=disk \
        -fsdev local,id=store,path=/nix/store,security_model=none,readonly=on,multidevs=remap -device virtio-9p-pci,fsdev=store,mount_tag=store \
        -fsdev local,id=build,path=/build,security_model=none,multidevs=remap -device virtio-9p-pci,fsdev=build,mount_tag=build \
        -object rng-builtin,id=rng -device virtio-rng-pci,rng=rng < /dev/null &
      vm=$!
      tail -n +1 --pid=$vm -F nested/log 2>/dev/null &
      end=$((SECONDS + $1))
      # Booted within three minutes, or not at all.
      booted=$((SECONDS + 180))
      while kill -0 $vm 2>/dev/null && [ $SECONDS -lt $end ]; do
        [ -e nested/state ] || [ $SECONDS -lt $booted ] || break
        sleep 1
      done
      kill -9 $vm 2>/dev/null || true
      wait $vm 2>/dev/null || true
      # 75 is what tests/support says of silence.
      [ -e nested/status ] && [ "$(cat nested/status)" != 75 ]
    }
    again=
    if [ -w /dev/kvm ] && grep -qE '^flags.* (vmx|svm)( |$)' /proc/cpuinfo; then
      where="on this machine's KVM"
      mkdir -p /build/home
      (cd /build/home && HOME=/build/home bash -euo pipefail /build/nested/script) 2>&1 | tee nested/log && echo 0 > nested/status || echo 1 > nested/status
    else
      where='in a nested machine'
      boot $deadline || {
        again='the emulated machine, or the one in it, went silent once and was started again'
        echo "$again"
        tail -n 20 nested/console nested/log 2>/dev/null || true
        boot $deadline || { echo 'the emulated machine went silent twice'; tail -n 20 nested/console; echo 1 > nested/status; }
      }
    fi
    {
      [ -z "$again" ] || echo "$again"
      echo "$where"
      ${summary}
    } > $out
    echo "summary of $check:"
    sed 's/^/  /' $out
    [ "$(cat nested/status)" = 0 ]
  '';
}
