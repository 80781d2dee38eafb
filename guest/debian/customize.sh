#!/bin/sh
# Makes a Debian root file system fit for a Tessera guest. mmdebstrap calls this with the root as $1 after the packages
# are installed; the kernel and the initramfs are left in the folder that TESSERA_OUT names.
# Everything that a guest's boot can do without is turned off here: under the software processor each start counts.
set -eu
root=$1

echo debian >"$root/etc/hostname"
printf '127.0.0.1 localhost debian\n::1 localhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
echo '/dev/vda / ext4 defaults,errors=remount-ro 0 1' >"$root/etc/fstab"
# Empty, not absent: each machine gets its own identity at its first boot, without a full "first boot" preset run.
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"
ln -sf ../usr/share/zoneinfo/Etc/UTC "$root/etc/localtime"

# A login for the console only: sshd refuses passwords for root.
echo 'root:tessera' | chroot "$root" chpasswd

# Network: DHCP on whatever card there is.
cat >"$root/etc/systemd/network/80-dhcp.network" <<'NETWORK'
[Match]
Name=en* eth*
[Network]
DHCP=yes
[Link]
RequiredForOnline=routable
NETWORK
chroot "$root" systemctl enable systemd-networkd systemd-resolved serial-getty@ttyS0 qemu-guest-agent ssh
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"

# sshd makes its one host key at the machine's first boot, so that copies of an image never share one.
rm -f "$root"/etc/ssh/ssh_host_*
echo 'HostKey /etc/ssh/ssh_host_ed25519_key' >"$root/etc/ssh/sshd_config.d/10-tessera.conf"
cat >"$root/etc/systemd/system/ssh-host-key.service" <<'UNIT'
[Unit]
Description=Make the SSH host key
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
[Install]
WantedBy=ssh.service
UNIT
chroot "$root" systemctl enable ssh-host-key

# cloud-init runs only where a seed disk is attached; its detection then leaves it out of every other boot.
echo 'datasource_list: [ NoCloud, ConfigDrive ]' >"$root/etc/cloud/cloud.cfg.d/90-tessera.cfg"
echo 'policy: search,found=all,maybe=none,notfound=disabled' >"$root/etc/cloud/ds-identify.cfg"

# No timers that wake an idle guest, no screen, nothing that only fills memory or loads drivers nobody asked for.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer getty@tty1.service systemd-networkd-wait-online.service systemd-pstore.service \
    systemd-hwdb-update.service systemd-binfmt.service systemd-network-generator.service systemd-sysusers.service \
    modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service \
    modprobe@fuse.service modprobe@loop.service sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

# An idle guest sleeps: Linux looks twice a second whether memory is to be put together, each second for statistics that nobody needs so soon, and every four
# seconds whether a processor is stuck, which one that waits for its turn on a busy host seems to be.
cat >"$root/etc/sysctl.d/60-tessera-idle.conf" <<'SYSCTL'
vm.compaction_proactiveness = 0
vm.stat_interval = 10
kernel.watchdog = 0
SYSCTL

# The initramfs carries the few drivers a machine's disk needs, and no more.
sed -i 's/^MODULES=.*/MODULES=list/' "$root/etc/initramfs-tools/initramfs.conf"
echo 'FSTYPE=ext4' >"$root/etc/initramfs-tools/conf.d/tessera"
printf '%s\n' virtio_pci virtio_blk virtio_scsi nvme ext4 >"$root/etc/initramfs-tools/modules"
chroot "$root" update-initramfs -u -k all
cp "$root"/boot/vmlinuz-* "$TESSERA_OUT/vmlinuz"
cp "$root"/boot/initrd.img-* "$TESSERA_OUT/initrd"
chmod 0644 "$TESSERA_OUT/vmlinuz" "$TESSERA_OUT/initrd"

# What systemd does after an update of /usr is done here once, and not at the first boot of every copy. A guest has no
# vsock for the generator of trixie to listen on.
chroot "$root" journalctl --update-catalog
mkdir -p "$root/etc/systemd/system-generators"
ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-ssh-generator"

rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/tmp/* "$root/run"/*
mkdir -p "$root/var/cache/apt/archives/partial" "$root/var/lib/apt/lists/partial" "$root/var/log/journal"
touch "$root/etc/.updated" "$root/var/.updated"
