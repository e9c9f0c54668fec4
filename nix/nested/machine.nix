# A machine with a working KVM where the host has none: QEMU's TCG emulates AMD's SVM, so a generic
# kernel in it can load kvm_amd. The output is that kernel, and an initrd that mounts the rest over
# 9p, with the uids and modes of the host: the store, read-only, and /build. It also mounts a
# scratch disk.
{ in-root, toolchain, debian, seed }:
in-root {
  name = "nested-machine";
  root = toolchain;
  env = {
    from = debian { name = "nested-root"; groups = [ "nested" ]; drop = [ "usr/lib/modules/6.1.0-50-amd64/kernel/drivers/gpu" "usr/lib/modules/6.1.0-50-amd64/kernel/sound" ]; };
    modules = [ "virtio_pci" "virtio_blk" "virtio-rng" "crc32c_generic" "ext4" "9pnet_virtio" "9p" "overlay" "kvm-amd" ];
    init = ''
      #!/bin/busybox sh
      b=/bin/busybox
      $b mount -t devtmpfs dev /dev
      $b mount -t proc proc /proc
      $b mount -t sysfs sys /sys
      for m in $($b cat /modules/order); do $b insmod /modules/$m || echo "no module $m"; done
      n=0
      while [ ! -b /dev/vda ] && [ $n -lt 300 ]; do $b sleep 0.1; n=$((n + 1)); done
      shared=trans=virtio,version=9p2000.L,msize=512000
      $b mount -t ext4 /dev/vda /scratch
      $b mount -t 9p -o ro,cache=loose,$shared store /store
      $b mkdir -p /scratch/upper /scratch/work
      for word in $($b cat /proc/cmdline); do case $word in bottle.root=*) root=''${word#*=} ;; esac; done
      $b mount -t overlay -o lowerdir=/store/$root,upperdir=/scratch/upper,workdir=/scratch/work overlay /root
      $b mount -o move /store /root/nix/store
      $b mount -t 9p -o $shared build /root/build
      for d in dev proc sys; do $b mount -o move /$d /root/$d; done
      $b mkdir -p /root/dev/pts /root/dev/shm /root/bottle
      $b mount -t devpts -o ptmxmode=0666,mode=0620,gid=5 devpts /root/dev/pts
      for d in run tmp dev/shm; do $b mount -t tmpfs -o mode=1777 tmpfs /root/$d; done
      $b mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
      $b mount -o move /scratch /root/bottle
      $b ln -s /proc/self/fd /root/dev/fd
      $b ip link set lo up
      # Everybody's, as on a desktop's seat.
      $b chmod 0666 /dev/kvm /root/dev/kvm 2>/dev/null
      exec $b switch_root /root /bin/bash /build/nested/run
    '';
  };
  script = ''
    depmod -n -b $from 6.1.0-50-amd64 | sed '/^#/d; /^kernel.*:/!d' > dep
    mkdir -p i/modules i/bin i/dev i/proc i/sys i/root i/store i/scratch
    for module in $modules; do
      line=$(grep -E "/$module\.ko:" dep) || { grep -q "/$module.ko$" $from/usr/lib/modules/6.1.0-50-amd64/modules.builtin && continue; echo "no module $module" >&2; exit 1; }
      for path in $(echo $line | tr -d : | tr ' ' '\n' | tac); do
        file=''${path##*/}
        [ -e i/modules/$file ] && continue
        cp $from/usr/lib/modules/6.1.0-50-amd64/$path i/modules/$file
        echo $file >> i/modules/order
      done
    done
    cp ${seed}/bin/busybox i/bin/busybox
    printf '%s' "$init" | sed 's/^ *//' > i/init
    chmod -R u+w i
    chmod 0755 i/init
    mkdir $out
    cp $from/boot/vmlinuz-6.1.0-50-amd64 $out/vmlinuz
    (cd i && find . -mindepth 1 -print0 | sort -z | cpio --quiet --null -o -H newc --reproducible -R 0:0) > $out/initrd
  '';
}
